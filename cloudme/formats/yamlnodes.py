"""YAML -> plain values, with the place of each. Words are those of YAML 1.2, as editors and JSON Schema have them.

What YAML 1.1 makes of 52:54:00:12:34:56 (a number to the base of 60), `no`, 0755 or 2026-01-01 are texts here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from cloudme.formats.documents import Mistake, SyntaxErrors
from cloudme.formats.values import shown

NODES = 50_000
"""Values of a document, at most, each counted as often as an alias repeats it."""

_TAG = "tag:yaml.org,2002:"
RESOLVERS: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("null", re.compile(r"~|null|Null|NULL|"), "~nN"),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), "tTfF"),
    ("int", re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+"), "-+0123456789"),
    ("float", re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
                         r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"), "-+.0123456789"),
    ("merge", re.compile("<<"), "<"),
)
"""Tag, the plain words that have it, their first letters (YAML 1.2.2, 10.3.2; but 0755, which is a mode, is a text)."""

Found = Callable[[tuple[str | int, ...], tuple[int, int], tuple[int, int]], None]
"""Called for each value: its path, the place of its key, its own place; an alias stands where its anchor does."""


def read(text: str, found: Found) -> Any:
    """Raises SyntaxErrors."""
    node = composed(text)
    return None if node is None else _Values(found).one(node, (), _place(node))


def composed(text: str) -> Any:
    """The root of a document's nodes, whatever their tags are; None where there is none. Raises SyntaxErrors."""
    import yaml

    try:
        return yaml.compose(text, Loader=_loader())
    except yaml.YAMLError as error:
        raise SyntaxErrors(_mistake(error, text)) from None


def _mistake(error: Any, text: str) -> Mistake:
    if mark := getattr(error, "problem_mark", None):
        return Mistake(error.problem or error.context, mark.line + 1, mark.column + 1)
    if (at := getattr(error, "position", None)) is not None:
        return Mistake(f"the character U+{ord(text[at]):04X} cannot be in a file",
                       text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at))
    return Mistake(str(error).splitlines()[0])


def _loader() -> Any:
    """A loader of YAML 1.2's words."""
    import yaml

    loader = type("Loader", (yaml.SafeLoader,), {"yaml_implicit_resolvers": {}})
    for tag, pattern, letters in implicit():
        loader.add_implicit_resolver(tag, pattern, letters)  # type: ignore[attr-defined]
    return loader


def implicit() -> Iterator[tuple[str, re.Pattern[str], list[str]]]:
    """The words as yaml's loaders and dumpers take them."""
    for tag, pattern, letters in RESOLVERS:
        yield _TAG + tag, re.compile(rf"(?:{pattern.pattern})\Z"), [*letters, *([""] if tag == "null" else [])]


def _place(node: Any) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


class _Values:
    """Makes plain values of the nodes of one document."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.count = 0
        self.open: list[Any] = []

    def one(self, node: Any, path: tuple[str | int, ...], key: tuple[int, int]) -> Any:
        self.counted(node)
        if any(node is other for other in self.open):
            raise self.wrong(node, "an alias stands within what it repeats")
        self.found(path, key, _place(node))
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node.value, str):
            return self.scalar(node, kind)
        if kind not in ("map", "seq"):
            raise self.wrong(node, f"no tag '{node.tag}' is known here")
        self.open.append(node)
        if kind == "seq":
            value: Any = [self.one(item, (*path, index), _place(item)) for index, item in enumerate(node.value)]
        else:
            value = self.mapping(node, path)
        self.open.pop()
        return value

    def counted(self, node: Any) -> None:
        self.count += 1
        if self.count > NODES:
            raise self.wrong(node, f"it has more than {NODES} values, those repeated by aliases counted")

    def scalar(self, node: Any, kind: str) -> Any:
        if kind not in _SCALARS:
            raise self.wrong(node, f"no tag '{node.tag}' is known here")
        try:
            return _SCALARS[kind](node.value)
        except (ValueError, KeyError):
            raise self.wrong(node, f"that is no {kind}") from None

    def mapping(self, node: Any, path: tuple[str | int, ...]) -> dict[Any, Any]:
        value: dict[Any, Any] = {}
        for key_node, item in self.pairs(node):
            key = self.key(key_node)
            if key in value:
                raise self.wrong(key_node, f"the key {shown(key)} stands twice")
            value[key] = self.one(item, (*path, str(key)), _place(key_node))
        for merged in self.merged(node):
            self.counted(merged)
            self.open.append(merged)
            for key, item in self.mapping(merged, path).items():
                value.setdefault(key, item)
            self.open.pop()
        return value

    def pairs(self, node: Any) -> Iterator[tuple[Any, Any]]:
        return ((key, item) for key, item in node.value if key.tag != f"{_TAG}merge")

    def merged(self, node: Any) -> Iterator[Any]:
        """The mappings that `<<` names, the first one first: what they have is had where nothing is said."""
        import yaml

        for key, item in node.value:
            if key.tag == f"{_TAG}merge":
                for one in item.value if isinstance(item, yaml.SequenceNode) else [item]:
                    if not isinstance(one, yaml.MappingNode):
                        raise self.wrong(one, "<< wants an object, or a list of them")
                    if any(one is other for other in self.open):
                        raise self.wrong(one, "an alias stands within what it repeats")
                    yield one

    def key(self, node: Any) -> Any:
        if not isinstance(node.value, str):
            raise self.wrong(node, "a key is a text")
        return self.scalar(node, node.tag.removeprefix(_TAG))

    def wrong(self, node: Any, what: str) -> SyntaxErrors:
        return SyntaxErrors(Mistake(what, *_place(node)))


def _bool(word: str) -> bool:
    return {"true": True, "false": False}[word.lower()]


def _float(word: str) -> float:
    return float(word.lower().replace(".inf", "inf").replace(".nan", "nan"))


_SCALARS: dict[str, Callable[[str], Any]] = {
    "str": str, "null": lambda _: None, "bool": _bool, "float": _float, "merge": str,
    "int": lambda word: int(word, 0 if word.startswith(("0x", "0o")) else 10),
}
