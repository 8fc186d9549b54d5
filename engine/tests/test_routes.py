import itertools

import pytest
from agentos_engine.triggers.routes import Path, PathError, RouteTree, request_segments
from hypothesis import given
from hypothesis import strategies as st

SEGMENT = st.sampled_from(["a", "b", ":x", ":y", ""])
PATHS = st.lists(st.lists(SEGMENT, min_size=1, max_size=4).map("/".join), max_size=8)


def expected(paths, segments):
    """Matching paths in order of precedence, found by comparing with each of them."""
    matching = {
        path.segments
        for path in paths
        if len(path.segments) == len(segments)
        and all((want is None and have) or want == have for want, have in zip(path.segments, segments, strict=True))
    }
    return sorted(matching, key=lambda each: [segment is None for segment in each])


@given(PATHS, st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=1, max_size=4), st.data())
def test_the_tree_finds_what_comparing_with_every_route_finds_also_after_removals(texts, segments, data):
    tree, present = RouteTree(), {}
    for text in texts:
        try:
            path = Path.parse(text)
        except PathError:
            continue  # the same parameter twice
        tree.put(path, "GET", path.segments)
        present[path.segments] = path
    for path in data.draw(st.lists(st.sampled_from(list(present.values())), unique=True)) if present else []:
        tree.remove(path, "GET")
        del present[path.segments]
    found = [targets["GET"] for targets, _ in tree.match(segments)]
    assert found == expected(present.values(), segments)


def test_parameters_are_given_in_order_and_an_empty_segment_is_no_parameter():
    tree = RouteTree()
    tree.put(Path.parse("/a/:first/c/:second"), "GET", 1)
    assert [values for _, values in tree.match(request_segments("/a/1/c/2"))] == [["1", "2"]]
    assert list(tree.match(request_segments("/a//c/2"))) == []


def test_a_path_without_leading_slash_is_the_same_and_a_trailing_slash_is_another():
    assert Path.parse("/a/b").segments == Path.parse("a/b").segments != Path.parse("a/b/").segments


@pytest.mark.parametrize("text", ["a/:", "a/:x/b/:x", "a/:1", "a/:x y", "/" + "a/" * 64])
def test_a_path_that_cannot_be_served_is_refused(text):
    with pytest.raises(PathError):
        Path.parse(text)


def test_the_path_of_a_request_is_decoded_segment_by_segment():
    assert request_segments("/a%2Fb/%C3%A4/plain") == ["a/b", "\u00e4", "plain"]
    for path in ("/%ff", "/" + "a/" * 64):
        with pytest.raises(PathError):
            request_segments(path)


def test_removing_every_route_leaves_an_empty_tree():
    tree = RouteTree()
    paths = [
        Path.parse("/".join(each)) for each in itertools.product(["a", "b", ":x"], repeat=2) if each != (":x",) * 2
    ]
    for path in paths:
        tree.put(path, "GET", 1)
    for path in paths:
        tree.remove(path, "GET")
    assert (tree._root.literals, tree._root.parameter, tree._root.targets) == ({}, None, {})
