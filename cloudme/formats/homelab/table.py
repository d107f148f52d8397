"""Tables of keys: from one of them come the reader, the JSON Schema, the way back and the page of the manual."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cloudme.errors import UsageError
from cloudme.formats import values
from cloudme.formats.homelab.complaints import KeyReader, Reader
from cloudme.formats.located import under
from cloudme.formats.values import ABSENT, shown

Convert = Callable[[Any, Any, str], Any]
"""(reader, value, path of keys) -> the checked value, or ABSENT, with a complaint where it is wrong."""
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value may be. convert: plain -> checked; plain: the way back; form: for people."""

    convert: Convert
    schema: Json
    form: str
    plain: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """also: other spellings. field: the noun's, where it has another name."""

    name: str
    kind: Kind
    says: str
    also: tuple[str, ...] = ()
    wanted: bool = False
    field: str = ""

    @property
    def target(self) -> str:
        return self.field or self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The keys of an object that becomes `noun`.

    apart:  pairs of keys that cannot go together.     needs: (key, the one without which it means nothing).
    """

    noun: Callable[..., Any]
    keys: tuple[Key, ...]
    apart: tuple[tuple[str, str], ...] = ()
    needs: tuple[tuple[str, str], ...] = ()

    @property
    def spellings(self) -> dict[str, Key]:
        return {spelling: key for key in self.keys for spelling in (key.name, *key.also)}

    @property
    def defaults(self) -> dict[str, Any]:
        """By field, of the noun; of fields that have one."""
        return {field.name: field.default_factory() if field.default_factory is not dataclasses.MISSING
                else field.default for field in dataclasses.fields(self.noun)  # type: ignore[arg-type]
                if (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)}


def parsed(convert: Callable[[str], Any], pattern: str, form: str, plain: Callable[[Any], Any] = str) -> Kind:
    """A text that `convert` takes; its UsageError, or ValueError, says what is wrong.

    pattern:  the same for editors, as far as it can say it (ECMA 262).
    """
    def whole(reader: Reader, value: Any, path: str) -> Any:
        found = values.text(reader, value, path)
        if found is ABSENT:
            return ABSENT
        try:
            return convert(found)
        except UsageError as error:
            return reader.complain(path, f"{error.message} ({error.hint})" if error.hint else error.message)
        except ValueError:
            return reader.complain(path, f"{shown(value)} is no {form}")

    return Kind(whole, {"type": "string", "pattern": pattern}, form, plain)


def mixed(convert: Callable[[str], Any], schema: Json, form: str, plain: Callable[[Any], Any] = str) -> Kind:
    """A text or a number, either of which people write without thinking: 2048, 2G."""
    of_text = parsed(convert, "", form).convert

    def whole(reader: Reader, value: Any, path: str) -> Any:
        if type(value) in (int, float) and -10**18 < value < 10**18:
            value = str(value)
        if not isinstance(value, str):
            return reader.complain(path, f"{form} is wanted, not {shown(value)}")
        return of_text(reader, value, path)

    return Kind(whole, schema, form, plain)


def number(low: int, high: int, form: str = "") -> Kind:
    return Kind(values.number(low, high), {"type": "integer", "minimum": low, "maximum": high},
                form or f"a number from {low} to {high}")


def several(kind: Kind) -> Kind:
    """One, or a list; as a tuple."""
    def whole(reader: Reader, value: Any, path: str) -> Any:
        if isinstance(value, list):
            return values.listing(kind.convert)(reader, value, path)
        reader.spelled[under(path, 0)] = path
        found = kind.convert(reader, value, path)
        return ABSENT if found is ABSENT else (found,)

    def plain(found: Any) -> Any:
        return kind.plain(found[0]) if len(found) == 1 else [kind.plain(item) for item in found]

    return Kind(whole, {"anyOf": [kind.schema, {"type": "array", "items": kind.schema, "maxItems": values.ITEMS}]},
                f"{kind.form}, or a list of them", plain)


def named(name: Kind, kind: Kind, form: str) -> Kind:
    """An object with names of one's own. What is null is an object without keys, where that is one."""
    def whole(reader: Reader, value: Any, path: str) -> Any:
        if (items := values.members(reader, value, path)) is None:
            return ABSENT
        found = {}
        for given, item in items.items():
            inner = under(path, given) if given.isprintable() and given else path
            key = name.convert(KeyReader(reader), given, inner)
            done = kind.convert(reader, {} if item is None else item, inner)
            if key is not ABSENT and done is not ABSENT:
                found[key] = done
        return found

    return Kind(whole, {"type": "object", "additionalProperties": {"anyOf": [kind.schema, {"type": "null"}]}
                        if kind.schema.get("type") == "object" else kind.schema,
                        "propertyNames": {"pattern": name.schema["pattern"]}, "maxProperties": values.ITEMS},
                form, lambda found: {str(key): kind.plain(item) for key, item in found.items()})


def record(table: Table, form: str) -> Kind:
    def whole(reader: Reader, value: Any, path: str) -> Any:
        if (items := values.members(reader, value, path)) is None:
            return ABSENT
        found: dict[str, Any] = {}
        given: dict[str, str] = {}
        for spelling, item in items.items():
            inner = under(path, spelling) if spelling and spelling.isprintable() else path
            key = table.spellings.get(spelling)
            if key is None:
                reader.complain(inner, values.unknown(spelling, [key.name for key in table.keys]), key=True)
            elif key.name in given:
                reader.complain(inner, f"it says the same as '{given[key.name]}'", key=True)
            elif item is not None:
                given[key.name] = spelling
                reader.spelled[under(path, key.name)] = inner
                if (done := key.kind.convert(reader, item, inner)) is not ABSENT:
                    found[key.target] = done
        _together(reader, table, given, path)
        right = all(key.target in found for key in table.keys if key.wanted)
        return table.noun(**found) if right else ABSENT

    return Kind(whole, schema(table), form, lambda noun: plain(table, noun))


def _together(reader: Reader, table: Table, given: Mapping[str, str], path: str) -> None:
    for one, other in table.apart:
        if one in given and other in given:
            reader.complain(under(path, given[other]), f"it cannot go with '{given[one]}'", key=True)
    for key, needed in table.needs:
        if key in given and needed not in given:
            reader.complain(under(path, given[key]), f"it means nothing without '{needed}'", key=True)
    for wanted in table.keys:
        if wanted.wanted and wanted.name not in given:
            reader.complain(under(path, wanted.name), "is wanted")


def plain(table: Table, noun: Any) -> Json:
    """The way back: keys in the table's order, defaults left out."""
    defaults = table.defaults
    pairs = ((key, getattr(noun, key.target)) for key in table.keys)
    return {key.name: key.kind.plain(value) for key, value in pairs
            if key.target not in defaults or value != defaults[key.target]}


def schema(table: Table) -> Json:
    """Of JSON Schema, draft 2020-12."""
    properties: Json = {}
    defaults = table.defaults
    for key in table.keys:
        value = defaults.get(key.target)
        told = {} if value is None or value in ((), {}) or dataclasses.is_dataclass(value) else \
            {"default": key.kind.plain(value)}
        properties[key.name] = {**key.kind.schema, "description": key.says, **told}
        properties |= {other: {**key.kind.schema, "description": f"as {key.name}"} for other in key.also}
    whole: Json = {"type": "object", "properties": properties, "additionalProperties": False}
    if rules := [*_wanted(table), *_apart(table)]:
        whole["allOf"] = rules
    if table.needs:
        whole["dependentRequired"] = {key: [needed] for key, needed in table.needs}
    return whole


def _wanted(table: Table) -> Iterator[Json]:
    for key in table.keys:
        if key.wanted:
            yield {"anyOf": [{"required": [spelling]} for spelling in (key.name, *key.also)]}


def _apart(table: Table) -> Iterator[Json]:
    """Also two spellings of one key."""
    spellings = {key.name: (key.name, *key.also) for key in table.keys}
    pairs = [pair for names in spellings.values() for pair in itertools.combinations(names, 2)]
    for one, other in table.apart:
        pairs += itertools.product(spellings[one], spellings[other])
    yield from ({"not": {"required": list(pair)}} for pair in pairs)
