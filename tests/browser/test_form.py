"""The form that is made from a function's JSON Schema."""

import json

import pytest
from playwright.async_api import expect

pytestmark = pytest.mark.asyncio(loop_scope="session")

FORM = "functions/orders%3A%3Aplace"


async def fill_in(page) -> None:
    """Fill in what is required."""
    await page.get_by_label("customer", exact=True).fill("ada@example.com")
    await page.get_by_role("button", name="Add to items").click()
    await page.get_by_label("items[0].sku", exact=True).fill("A-100")
    await page.get_by_label("shipTo.street", exact=True).fill("Main Street 1")
    await page.get_by_label("shipTo.city", exact=True).fill("Bonn")
    await page.get_by_label("express", exact=True).select_option("true")


async def raw(page) -> object:
    """Go to JSON and return the input."""
    await page.get_by_role("button", name="JSON", exact=True).click()
    return json.loads(await page.get_by_label("Input as JSON").input_value())


async def test_a_form_calls_the_function_and_leaves_out_what_is_not_given(shop, look):
    page = await look(shop, FORM)
    await fill_in(page)
    await page.keyboard.press("Control+Enter")
    result = json.loads(await page.get_by_role("region", name="Result").text_content())
    assert result["charged"] == 4.5
    await expect(page.locator(".outcome .badge")).to_have_text("ok")
    await expect(page.locator(".outcome")).to_contain_text("ms")
    assert await raw(page) == {
        "customer": "ada@example.com",
        "items": [{"sku": "A-100", "quantity": 1}],
        "shipTo": {"street": "Main Street 1", "city": "Bonn"},
        "priority": "normal",
        "express": True,
    }
    await page.get_by_role("link", name="Trace").click()
    await expect(page.locator(".span").first).to_contain_text("orders::place")


async def test_what_is_wrong_is_said_beside_the_field_and_nothing_is_called(shop, look):
    page = await look(shop, FORM)
    calls = []
    page.on("request", lambda request: "orders::place" in (request.post_data or "") and calls.append(request.post_data))
    await fill_in(page)
    await page.get_by_label("customer", exact=True).fill("nobody")
    await page.get_by_label("items[0].sku", exact=True).fill("A")
    await page.get_by_label("items[0].quantity", exact=True).fill("100")
    await page.get_by_label("shipTo.city", exact=True).fill("")
    await page.get_by_label("discount", exact=True).fill("ten")
    await page.get_by_label("labels", exact=True).fill("{")
    await page.get_by_role("button", name="Call", exact=True).click()
    for name, text in {
        "customer": "Not a email; one is name@example.com",
        "items[0].sku": "Shorter than 2.",
        "items[0].quantity": "At most 99.",
        "shipTo.city": "Required.",
        "discount": "Not a number.",
        "labels": "Not JSON: ",
    }.items():
        field = page.locator(f'[data-field="{name}"]')
        await expect(field.locator(".message")).to_contain_text(text)
        await expect(page.get_by_label(name, exact=True)).to_have_attribute("aria-invalid", "true")
    await expect(page.get_by_label("customer", exact=True)).to_be_focused()
    assert calls == []
    await page.get_by_label("customer", exact=True).fill("ada@example.com")
    await expect(page.locator('[data-field="customer"] .message')).to_be_empty()


async def test_an_optional_object_is_left_out_until_it_is_added_and_items_are_removed(shop, look):
    page = await look(shop, FORM)
    await fill_in(page)
    await page.get_by_role("button", name="Add giftTo").click()
    await page.get_by_label("giftTo.street", exact=True).fill("Side Street 2")
    await page.get_by_label("giftTo.city", exact=True).fill("Ulm")
    await page.get_by_role("button", name="Add to items").click()
    await page.get_by_label("items[1].sku", exact=True).fill("B-200")
    await page.get_by_role("button", name="Remove items[0]").click()
    await expect(page.get_by_label("items[0].sku", exact=True)).to_have_value("B-200")
    value = await raw(page)
    assert value["giftTo"] == {"street": "Side Street 2", "city": "Ulm"}
    assert value["items"] == [{"sku": "B-200", "quantity": 1}]
    await page.get_by_role("button", name="Form", exact=True).click()
    await page.get_by_role("button", name="Leave out giftTo").click()
    assert "giftTo" not in await raw(page)


async def test_going_from_json_to_the_form_and_back_keeps_every_value(shop, look):
    page = await look(shop, FORM)
    value = {
        "customer": "",
        "items": [{"sku": "A-1", "quantity": 3, "engraving": "for you"}, {"sku": "B-2"}],
        "shipTo": {"street": "one\ntwo", "city": "Bonn"},
        "giftTo": None,
        "priority": "high",
        "express": False,
        "discount": None,
        "labels": {"a": "b"},
        "unknown": [1, {"two": None}],
    }
    await raw(page)
    field = page.get_by_label("Input as JSON")
    await field.fill(json.dumps(value))
    await page.get_by_role("button", name="Form", exact=True).click()
    await expect(page.get_by_label("shipTo.street", exact=True)).to_have_value("one\ntwo")
    assert await raw(page) == value
    await field.fill('{"items": 5}')
    await page.get_by_role("button", name="Form", exact=True).click()
    await expect(
        page.get_by_text("This has to stay JSON. items: the form has a field for a list there.")
    ).to_be_visible()
    await field.fill("{")
    await page.get_by_role("button", name="Form", exact=True).click()
    await expect(page.get_by_text("Not JSON: ")).to_be_visible()


async def test_a_function_without_a_schema_is_called_with_json(shop, look):
    page = await look(shop, "functions/state%3A%3Aset")
    await page.get_by_label("Input as JSON").fill('{"scope": "browser", "key": "a", "value": 5}')
    await page.keyboard.press("Control+Enter")
    await expect(page.locator(".outcome .badge")).to_have_text("ok")
    assert (await shop.call("state::get", {"scope": "browser", "key": "a"}))["result"] == 5
    await page.get_by_label("Input as JSON").fill("{}")
    await page.keyboard.press("Control+Enter")
    await expect(page.locator(".outcome .failure")).to_be_visible()


async def test_a_format_of_any_name_does_no_harm(shop, look):
    page = await look(shop, FORM)
    names = ["constructor", "__proto__", "toString", "made-up"]
    problems = await page.evaluate(
        """async (names) => {
          const { problem } = await import("/assets/schema.js");
          return names.map((format) => problem({ type: "string", format }, "x"));
        }""",
        names,
    )
    assert problems == [""] * len(names)


async def test_forms_of_unusual_schemas(shop, look):
    """`$ref` in a ring, constants, unions, formats, lists of lists: each gets a field, and a value goes through it."""
    page = await look(shop)
    values = await page.evaluate("""async () => {
        const {formOf} = await import("/assets/form.js");
        const through = (schema, value) => {
            const form = formOf(schema);
            if (value !== undefined) form.write(value);
            return JSON.stringify(form.read());
        };
        const tree = {$ref: "#/$defs/node", $defs: {node: {type: "object", required: ["name"], properties: {
            name: {type: "string"}, next: {anyOf: [{$ref: "#/$defs/node"}, {type: "null"}]},
            children: {type: "array", items: {$ref: "#/$defs/node"}}}}}};
        const object = (properties, required = []) => ({type: "object", properties, required});
        return [
            through(tree, {name: "a", next: {name: "b"}, children: [{name: "c", children: []}]}),
            through(object({kind: {const: "x"}, other: {const: 1}}, ["kind"])),
            through(object({a: {anyOf: [{type: "string"}, {type: "integer"}]}}), {a: 5}),
            through(object({a: {type: "array", items: {type: "array", items: {type: "number"}}}}), {a: [[1.5], []]}),
            through(object({a: {type: ["string", "null"], default: "b"}, c: {allOf: [{enum: [1, "two"]}]}}), {a: null, c: "two"}),
            through(object({a: {type: ["string", "null"], default: "b"}})),
            through(object({a: true, b: {$ref: "#/nowhere"}, c: {type: "boolean", default: false}})),
            through(object({a: {type: "array", items: {type: "string"}}, b: {type: "array", items: {}}}, ["b"])),
            through({type: "string"}, "text"),
            through({$ref: "#"}),
        ];
    }""")
    assert [None if value is None else json.loads(value) for value in values] == [
        {"name": "a", "next": {"name": "b"}, "children": [{"name": "c", "children": []}]},
        {"kind": "x"},
        {"a": 5},
        {"a": [[1.5], []]},
        {"a": None, "c": "two"},
        {"a": "b"},
        {"c": False},
        {"b": []},
        "text",
        None,
    ]
