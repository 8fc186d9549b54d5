"""Merges a partial pod template into a whole one as ``kubectl patch --type strategic`` does.

Maps are merged field by field, null removes, a list whose items have a merge key is merged item by item, every other
list is replaced. Directives: ``$patch: delete`` and ``$patch: replace`` in a map or an item, ``$retainKeys``,
``$deleteFromPrimitiveList/FIELD`` and ``$setElementOrder/FIELD``.

:func:`patch_findings` says all that is wrong with a patch; one without errors can be merged into any pod template. There
are three differences from kubectl, and each leaves out what the API server would not take: nulls and directives do not
stay behind in what is new; and ``$patch: replace`` where there is nothing to replace gives its contents, where kubectl
drops them without a word.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from agentos_contracts.findings import Finding, error, shown, warning
from agentos_contracts.model_findings import at, at_key, described, nearest
from agentos_contracts.pod_fields import KUBERNETES, ROOT, PodField, definitions

PATCH, RETAIN = "$patch", "$retainKeys"
ORDER, DELETE = "$setElementOrder/", "$deleteFromPrimitiveList/"

_UNKNOWN = PodField("value", "")
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "string": ((str,), "a text"),
    "Time": ((str,), "a text"),
    "integer": ((int,), "a whole number"),
    "boolean": ((bool,), "true or false"),
    "Quantity": ((str, int, float), "a quantity, such as 500m, 2 or 256Mi"),
    "IntOrString": ((str, int), "a whole number or a text"),
}
NULL_ITEM = "an item of a list cannot be null; remove it"


# --- Merging ---


def merge(original: Mapping[str, Any], patch: Mapping[str, Any], definition: str = ROOT) -> dict[str, Any]:
    """Return what a map of this definition becomes by a patch without errors; neither is changed."""
    directive = patch.get(PATCH)
    if directive == "delete":
        return {}
    merged: dict[str, Any] = {} if directive == "replace" else dict(original)
    if (kept := patch.get(RETAIN)) is not None:
        merged = {name: value for name, value in merged.items() if name in kept}
    fields = definitions().get(definition, {})
    for name in dict.fromkeys(_field_of(key) for key in patch if key not in (PATCH, RETAIN)):
        field = fields.get(name, _UNKNOWN)
        if name in patch and patch[name] is None:
            merged.pop(name, None)
        elif name not in merged:
            if name in patch and not _is_deletion(patch[name]):
                merged[name] = _new(patch[name])
        elif isinstance(merged[name], list):
            merged[name] = _merged_list(merged[name], patch, name, field)
        elif name in patch:
            both_maps = isinstance(merged[name], Mapping) and isinstance(patch[name], Mapping)
            merged[name] = merge(merged[name], patch[name], field.of) if both_maps else _new(patch[name])
    return merged


def _merged_list(before: list[Any], patch: Mapping[str, Any], name: str, field: PodField) -> list[Any]:
    given = patch.get(name)
    merged = before if given is None else _new(given)
    if given is not None and field.key is not None:
        merged = _merged_items(before, given, field.key, field.of)
    elif given is not None and field.merged:
        merged = _ordered([*before, *(each for each in merged if not _holds(before, each))], merged, before, _itself)
    if (order := patch.get(ORDER + name)) is not None:
        merged = _ordered(merged, order, before, _itself if field.key is None else _by(field.key))
    if (gone := patch.get(DELETE + name)) is not None:
        merged = [each for each in merged if not _holds(gone, each)]
    return merged


def _merged_items(before: list[Any], given: list[Any], key: str, definition: str) -> list[Any]:
    plain = [each for each in given if PATCH not in each]
    if any(each.get(PATCH) == "replace" for each in given):
        return [_new(each) for each in plain]
    name = _by(key)
    deleted = [name(each) for each in given if each.get(PATCH) == "delete"]
    merged = [each for each in before if not _holds(deleted, name(each))]
    kept = list(merged)
    for item in plain:
        place = next((n for n, each in enumerate(merged) if _same(name(each), name(item))), None)
        if place is None:
            merged.append(_new(item))
        else:
            merged[place] = merge(merged[place], item, definition)
    return _ordered(merged, plain, kept, name)


def _ordered(
    items: Sequence[Any], patched: Sequence[Any], before: Sequence[Any], name: Callable[[Any], Any]
) -> list[Any]:
    """What the patch names in the patch's order, the others in their own, before the first that they stood before."""
    first, second = [name(each) for each in patched], [name(each) for each in before]
    named = sorted((each for each in items if _holds(first, name(each))), key=lambda each: _index(first, name(each)))
    others = sorted(
        (each for each in items if not _holds(first, name(each))), key=lambda each: _index(second, name(each))
    )
    made: list[Any] = []
    for item in named:
        place = _index(second, name(item))
        while others and 0 <= _index(second, name(others[0])) < place:
            made.append(others.pop(0))
        made.append(item)
    return made + others


def _new(value: Any) -> Any:
    """What a value of a patch is where nothing was before: without nulls and directives."""
    if isinstance(value, Mapping):
        return {
            key: _new(inner)
            for key, inner in value.items()
            if inner is not None and not key.startswith("$") and not _is_deletion(inner)
        }
    if isinstance(value, list):
        whole = (each for each in value if not (isinstance(each, Mapping) and _is_replacement_mark(each)))
        return [_new(each) for each in whole if not _is_deletion(each)]
    return value


def _is_deletion(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get(PATCH) == "delete"


def _is_replacement_mark(item: Mapping[str, Any]) -> bool:
    return item.get(PATCH) == "replace"


def _field_of(key: str) -> str:
    """The field that a key of a patch is about."""
    return key.removeprefix(ORDER).removeprefix(DELETE)


def _same(one: Any, other: Any) -> bool:
    # True equals 1 in Python, and not in JSON.
    return type(one) is type(other) and one == other


def _holds(values: Sequence[Any], value: Any) -> bool:
    return any(_same(each, value) for each in values)


def _index(values: Sequence[Any], value: Any) -> int:
    return next((number for number, each in enumerate(values) if _same(each, value)), -1)


def _itself(item: Any) -> Any:
    return item


def _by(key: str) -> Callable[[Any], Any]:
    return lambda item: item.get(key)


# --- Checking ---


def patch_findings(patch: object, path: str, definition: str = ROOT) -> Iterator[Finding]:
    """Yield what is wrong with a patch of a map of this definition: wrong types, unknown fields, misplaced directives."""
    yield from _value_findings(patch, PodField("value", definition), path, merged=True)


def _value_findings(value: Any, field: PodField, path: str, *, merged: bool) -> Iterator[Finding]:
    """``merged``: whether this is merged into what is there; in a list that is replaced nothing is."""
    if field.form == "list":
        yield from _list_findings(value, field, path, merged=merged)
    elif field.form == "map" or field.of in definitions():
        if not isinstance(value, Mapping):
            yield error(path, "WrongType", f"must be a map, got {described(value, secret=True)}")
        else:
            yield from _map_findings(value, field, path, merged=merged)
    elif field.of in _KINDS:
        kinds, words = _KINDS[field.of]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            quotes = "; put it in quotes" if field.of == "string" and isinstance(value, bool | int | float) else ""
            yield error(path, "WrongType", f"must be {words}, got {described(value, secret=True)}{quotes}")


def _map_findings(value: Mapping[str, Any], field: PodField, path: str, *, merged: bool) -> Iterator[Finding]:
    free = field.form == "map"
    fields = {} if free else definitions()[field.of]
    for key, inner in value.items():
        where = at_key(path, key) if free else at(path, shown(key, 128))
        if key.startswith("$"):
            yield from _directive_findings(key, value, fields, path, merged=merged)
        elif free:
            if inner is not None:
                yield from _value_findings(inner, PodField("value", field.of), where, merged=merged)
        elif key not in fields:
            near = nearest(key, fields)
            hint = f"; did you mean {near}?" if near else ""
            yield warning(
                where,
                "UnknownField",
                f"is no field of Kubernetes {KUBERNETES}, and a cluster without it refuses it{hint}",
            )
        elif inner is not None:
            yield from _value_findings(inner, fields[key], where, merged=merged)


def _list_findings(value: Any, field: PodField, path: str, *, merged: bool) -> Iterator[Finding]:
    if not isinstance(value, list):
        yield error(path, "WrongType", f"must be a list, got {described(value, secret=True)}")
        return
    merged = merged and field.key is not None
    for number, item in enumerate(value):
        where = f"{path}[{number}]"
        if item is None:
            yield error(where, "WrongType", NULL_ITEM)
            continue
        if field.key is not None and isinstance(item, Mapping):
            yield from _key_findings(item, field.key, where)
        yield from _value_findings(item, PodField("value", field.of), where, merged=merged)


def _key_findings(item: Mapping[str, Any], key: str, path: str) -> Iterator[Finding]:
    if item.get(PATCH) == "replace":
        if len(item) > 1:
            message = (
                f"replaces the whole list by its other items, so it has to be an item of its own: {{{PATCH}: replace}}"
            )
            yield error(at(path, PATCH), "Directive", message)
    elif item.get(key) is None:
        yield error(at(path, key), "Required", "is required: it says which item of the list is meant")


def _directive_findings(
    key: str, owner: Mapping[str, Any], fields: Mapping[str, PodField], path: str, *, merged: bool
) -> Iterator[Finding]:
    where, value = at(path, key), owner[key]
    name = _field_of(key)
    field = fields.get(name)
    if not merged:
        yield error(
            where, "Directive", "has no effect in a list that is replaced as a whole; write the list as it is to be"
        )
    elif key == PATCH:
        if value == "merge":
            yield error(where, "Directive", "merging is what happens without it; remove it")
        elif value not in ("delete", "replace"):
            yield error(where, "Directive", "must be delete or replace")
    elif key == RETAIN:
        yield from _retain_findings(owner, where)
    elif key not in (ORDER + name, DELETE + name) or name == key:
        message = f"is no directive; there are {PATCH}, {RETAIN}, {ORDER}FIELD and {DELETE}FIELD"
        yield error(where, "Directive", message)
    elif field is None or field.form != "list":
        yield error(where, "Directive", f"{shown(name)} is not a list; name one that is beside it")
    elif not isinstance(value, list) or None in value:
        yield error(where, "WrongType", "must be a list")
    elif key == DELETE + name:
        yield from _delete_findings(value, owner, name, field, where)
    else:
        yield from _order_findings(owner, name, field, where)


def _retain_findings(owner: Mapping[str, Any], where: str) -> Iterator[Finding]:
    kept = owner[RETAIN]
    if not isinstance(kept, list) or not all(isinstance(each, str) for each in kept):
        yield error(where, "WrongType", "must be a list of names of fields")
        return
    lost = [key for key, value in owner.items() if not key.startswith("$") and value is not None and key not in kept]
    if lost:
        names = ", ".join(shown(name) for name in sorted(lost))
        yield error(where, "Directive", f"would remove what is set beside it; add {names} to it")


def _delete_findings(
    value: list[Any], owner: Mapping[str, Any], name: str, field: PodField, where: str
) -> Iterator[Finding]:
    if field.of in definitions():
        yield error(where, "Directive", f"is for lists of plain values; give the item of {name} with {PATCH}: delete")
    elif name in owner:
        yield error(where, "Directive", f"stands beside {name}, and which goes first is not said; keep one of them")
    elif any(isinstance(each, list | Mapping) for each in value):
        yield error(where, "WrongType", "must be a list of plain values")


def _order_findings(owner: Mapping[str, Any], name: str, field: PodField, where: str) -> Iterator[Finding]:
    order, given = owner[ORDER + name], owner.get(name, [])
    if field.of in definitions() and field.key is None:
        yield error(where, "Directive", f"{name} is replaced as a whole; write it in the order that it is to have")
    elif not isinstance(given, list):
        yield error(where, "Directive", f"stands beside {name} that is no list; remove it")
    elif field.key is not None and not all(
        isinstance(each, Mapping) and field.key in each for each in [*order, *given]
    ):
        yield error(where, "Directive", f"must be a list of items that say {field.key} alone")
    else:
        name_of = _itself if field.key is None else _by(field.key)
        ordered = [name_of(each) for each in order]
        kept = [name_of(each) for each in given if not (isinstance(each, Mapping) and PATCH in each)]
        places = [_index(ordered, each) for each in kept]
        if -1 in places or places != sorted(places):
            yield error(where, "Directive", f"must have all items of {name} beside it, in the same order")
