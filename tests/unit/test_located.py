"""Values and their places in JSON, TOML and YAML."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudme.formats import located, yamlnodes
from cloudme.formats.documents import SyntaxErrors
from cloudme.formats.located import Place, Places

KEYS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=6)
PLAIN = st.recursive(
    st.booleans() | st.integers(-10**9, 10**9) | st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12)


def toml(value: Any) -> str:
    """A value of TOML's; its strings are JSON's here."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[ # a comment ]\n" + "".join(f"{toml(item)},\n" for item in value) + "]"
    return quoted(value)


def quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if pairs is None:
        return [(path, value)]
    return [leaf for step, item in pairs for leaf in leaves(item, located.under(path, step))]


def check(text: str, suffix: str, document: dict[str, Any]) -> None:
    """What was read is the document, and each value stands where its place says."""
    found, places = located.load(text.encode(), suffix)
    assert found == document
    lines = text.split("\n")
    paths = [path for path, _ in leaves(document)]
    for path, value in leaves(document):
        if paths.count(path) > 1:
            continue  # "a.b" of two kinds
        line, column = places.values[path]
        assert lines[line - 1][column - 1:].startswith(quoted(value))
        assert path in places.keys


@given(st.dictionaries(KEYS, PLAIN, max_size=4))
def test_every_value_of_json_has_its_place(document: dict[str, Any]) -> None:
    for indent in (None, 2):
        check(json.dumps(document, ensure_ascii=False, indent=indent), ".json", document)


@given(st.dictionaries(KEYS, PLAIN, max_size=4))
def test_every_value_of_toml_has_its_place(document: dict[str, Any]) -> None:
    check("# first\n" + "".join(f"{quoted(key)} = {toml(item)}\n" for key, item in document.items()), ".toml", document)


@given(st.dictionaries(KEYS, PLAIN.filter(lambda value: value not in ([], {})), max_size=4))
def test_every_value_of_yaml_has_its_place(document: dict[str, Any]) -> None:
    # JSON's strings are YAML's, but for the ends of lines that it has besides: none is printed as itself here
    text = json.dumps(document, ensure_ascii=True, indent=1)
    found, places = located.load(text.encode(), ".yaml")
    if "\\ud" not in text:  # halves of characters are two characters in YAML
        assert found == document
    assert {path for path, _ in leaves(found)} <= set(places.values)


@pytest.mark.parametrize(("text", "path", "key", "value"), [
    ("a.b = 1", "a.b", (1, 3), (1, 7)),
    ("[x.y]\n  z = '''a\nb'''\nw = 2", "x.y.w", (4, 1), (4, 5)),
    ("[x.y]\nz = 1", "x.y", (1, 4), (1, 1)),
    ("[[x]]\na = 1\n[[x]]\na = 2", "x[1].a", (4, 1), (4, 5)),
    ("[[x]]\n[x.y]\na = 1\n[[x]]\n[[x.z]]\n[x.z.w]\nb = 1", "x[1].z[0].w.b", (7, 1), (7, 5)),
    ("[x]\n'q.r' = {s = [1, # ]\n \"]\", 3]}", "x.q.r.s[1]", (3, 2), (3, 2)),
    ("a = \"\"\"x\\\"\"\"y\"\"\"\"\"\nb = 1", "b", (2, 1), (2, 5)),
    ("a = ''\nb = '''\n'x'''''\nc = 1", "c", (4, 1), (4, 5)),
    ("a = 1979-05-27 07:32:00 # x\nb = 1979-05-27", "b", (2, 1), (2, 5)),
    ("a = 1\r\nb = 2\r\n", "b", (2, 1), (2, 5)),
])
def test_toml_in_all_its_forms(text: str, path: str, key: Place, value: Place) -> None:
    _, places = located.load(text.encode(), ".toml")
    assert (places.keys[path], places.values[path]) == (key, value)


def yaml(text: str) -> tuple[Any, Places]:
    return located.load(text.encode(), ".yaml")


def test_the_words_of_yaml_are_those_of_1_2() -> None:
    words = "52:54:00:12:34:56", "no", "yes", "on", "0755", "2026-01-01", "1_000", "12:30", "0b1", "=", "1e", \
        "10.20.10.0/24"
    assert yaml("\n".join(f"- {word}" for word in words))[0] == list(words)
    assert yaml("[0x1f, 0o17, -3, +4, 1e3, 1.5, .5, ~, null, True, .inf]")[0] == [
        31, 15, -3, 4, 1000.0, 1.5, 0.5, None, None, True, float("inf")]
    assert yaml("!!str 12")[0] == "12"


def test_merged_mappings_stand_back_and_have_their_own_places() -> None:
    found, places = yaml("a: &a {x: 1, y: 2}\nb: &b {z: 3}\nc:\n  <<: [*a, *b]\n  x: 4\n")
    assert found["c"] == {"x": 4, "y": 2, "z": 3}
    assert (places.values["c.x"], places.values["c.y"], places.values["c.z"]) == ((5, 6), (1, 17), (2, 11))


BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
MERGES = "a0: &a0 {}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))
TOO_MANY = f"it has more than {yamlnodes.NODES} values, those repeated by aliases counted"


@pytest.mark.parametrize(("suffix", "text", "complaint"), [
    (".yaml", "a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' stands twice"),
    (".yaml", 'a: 1\n"\\ud800": 1\n"\\ud800": 1',
     "line 3, column 1: the key a text that cannot be printed stands twice"),
    (".yaml", "a: &a [*a]", "line 1, column 4: an alias stands within what it repeats"),
    (".yaml", "a: &a {<<: *a}", "line 1, column 4: an alias stands within what it repeats"),
    (".yaml", "a: {<<: 1}", "line 1, column 9: << wants an object, or a list of them"),
    (".yaml", "a: *b", "line 1, column 4: found undefined alias 'b'"),
    (".yaml", "a: !x 1", "line 1, column 4: no tag '!x' is known here"),
    (".yaml", "a: !!set {b}", "line 1, column 4: no tag 'tag:yaml.org,2002:set' is known here"),
    (".yaml", "a: !!int b", "line 1, column 4: that is no int"),
    (".yaml", "[a]: b", "line 1, column 1: a key is a text"),
    (".yaml", "a: 1\n b: 2", "line 2, column 3: mapping values are not allowed here"),
    (".yaml", "a: [", "line 1, column 5: expected the node content, but found '<stream end>'"),
    (".yaml", "a: b\nc: \x07", "line 2, column 4: the character U+0007 cannot be in a file"),
    (".yaml", "a: b\n---\nc: d", "line 2, column 1: but found another document"),
    (".yaml", "[" * 5000, "it is nested too deeply"),
    (".toml", "a = " + "[" * 5000, "it is nested too deeply"),
    (".json", "[" * 100000, "it is nested too deeply"),
    (".json", '{"a": 1,\n "a": 2, "b": 1, "b": 1}', "line 2, column 2: the key 'a' stands twice\n"
                                                   "line 2, column 18: the key 'b' stands twice"),
    (".json", '{"a": NaN}', "NaN is no number of JSON's"),
    (".json", "{'a': 1}", "line 1, column 2: Expecting property name enclosed in double quotes"),
    (".json", '{"a": 1}\n# x', "line 2, column 1: Extra data"),
    (".json", '{"a": ' + "9" * 5000 + "}", "Exceeds the limit"),
    (".toml", "a = 1\na = 2", "line 2: Cannot overwrite a value"),
    (".toml", "a = \n", "line 1, column 5: Invalid value"),
    (".toml", "a = [1", "line 1: Unclosed array"),
    (".toml", "x = 1\na = '\udcff'", "line 2: it is not UTF-8"),
    (".yaml", "x" * ((1 << 20) + 1), "it has 1048577 bytes: 1048576 at most"),
    (".yaml", BOMB, TOO_MANY), (".yaml", MERGES, TOO_MANY),
])
def test_what_is_not_what_its_suffix_says_is_told_with_its_place(suffix: str, text: str, complaint: str) -> None:
    with pytest.raises(SyntaxErrors) as caught:
        located.load(text.encode(errors="surrogateescape"), suffix)
    assert complaint in "\n".join(caught.value.lines)


@given(st.text(st.sampled_from("ab:{}[],&*<!|>-?'\"\\#%@ \n\t0.=\ud800\u2028"), max_size=60),
       st.sampled_from([*located.SUFFIXES]))
def test_no_text_is_a_traceback(text: str, suffix: str) -> None:
    with contextlib.suppress(SyntaxErrors):
        located.load(text.encode(errors="surrogatepass"), suffix)
