"""Texts with variables: `5${employee-id}`, `${5000 + employee-id}`. A closed little language.

    ${NAME}, $NAME   the variable. A name in braces may be any; without, letters, digits and underscores.
    ${EXPRESSION}    where no variable has that name: whole numbers, texts in quotes, variables, parentheses,
                     * // % before + -, and lower(TEXT), upper(TEXT), pad(TEXT, WIDTH[, FILL]).

A hyphen between letters or digits belongs to the name that begins before it: `employee-id` is one, `employee-id - 1` is
a difference, and so is `5000-employee-id`, since no name begins with a digit. // and % round down, as in Python.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from cloudme.errors import UsageError

LENGTH = 4096
"""Of a pattern and of what it gives (PATH_MAX, limits.h)."""
DEPTH = 32
LIMIT = 10 ** 18
WIDEST = 255
"""Of what pad() makes: no file's name is longer."""

_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9*#$@!?-]")
"""What Go's os.Expand, which the seed uses, takes for a name after a $ without braces."""
_TOKEN = re.compile(r"""(?P<number>[0-9]+)|(?P<name>[^\W\d]\w*(?:-\w+)*)|(?P<text>'[^']*'|"[^"]*")"""
                    r"|(?P<sign>//|[-+*%(),}])")
_BLANKS = re.compile(r"\s*")

Value = int | str


def expand(pattern: str, variables: Mapping[str, str]) -> str:
    """Return `pattern` with its variables and expressions replaced.

    Raises:  UsageError, 'column N: what': an unknown variable, no expression, what is too large or not a number.
    """
    if len(pattern) > LENGTH:
        raise UsageError(f"a pattern of {len(pattern)} characters is too long: {LENGTH} at most")
    done, at = [], 0
    while (dollar := pattern.find("$", at)) >= 0:
        done.append(pattern[at:dollar])
        if pattern.startswith("{", dollar + 1):
            value, at = _braced(pattern, dollar + 2, variables)
        elif name := _BARE.match(pattern, dollar + 1):
            value, at = _variable(name[0], dollar + 1, variables), name.end()
        else:
            value, at = "$", dollar + 1
        done.append(value)
    result = "".join([*done, pattern[at:]])
    if len(result) > LENGTH:
        raise UsageError(f"it gives {len(result)} characters: {LENGTH} at most")
    return result


def _braced(pattern: str, start: int, variables: Mapping[str, str]) -> tuple[str, int]:
    """The text for what begins after `${`, and where it goes on after the `}`."""
    end = pattern.find("}", start)
    if end >= 0 and pattern[start:end] in variables:
        return variables[pattern[start:end]], end + 1
    expression = _Expression(pattern, start, variables)
    value = expression.sum()
    expression.take("}")
    return str(value), expression.start + 1


def _variable(name: str, at: int, variables: Mapping[str, str]) -> str:
    if name not in variables:
        raise _error(at, f"no variable '{name}'" + (" (a minus stands between blanks)" if "-" in name else ""))
    return variables[name]


def _error(at: int, what: str) -> UsageError:
    return UsageError(f"column {at + 1}: {what}")


class _Expression:
    """A parser by recursive descent: each method takes what its name says and returns its value.

    start: where the token stands that comes next; kind: a group of _TOKEN, 'end', or 'other'.
    """

    def __init__(self, text: str, start: int, variables: Mapping[str, str]) -> None:
        self.text = text
        self.variables = variables
        self.depth = 0
        self._next(start)

    def _next(self, start: int) -> None:
        self.start = start + len(blanks[0] if (blanks := _BLANKS.match(self.text, start)) else "")
        token = _TOKEN.match(self.text, self.start)
        self.kind = token.lastgroup if token else "other" if self.start < len(self.text) else "end"
        self.token = token[0] if token else self.text[self.start:self.start + 1]

    def _taken(self) -> tuple[str, int]:
        token, at = self.token, self.start
        self._next(at + len(token))
        return token, at

    def take(self, sign: str) -> None:
        """The sign; the last one, which closes the expression, stays where it is."""
        if self.kind != "sign" or self.token != sign:
            found = "the end" if self.kind == "end" else f"'{self.token}'"
            raise _error(self.start, f"'{sign}' or an operator is wanted, not {found}")
        if sign != "}":
            self._taken()

    def sum(self) -> Value:
        value = self.product()
        while self.kind == "sign" and self.token in ("+", "-"):
            value = self._operation(value, self.product)
        return value

    def product(self) -> Value:
        value = self.signed()
        while self.kind == "sign" and self.token in ("*", "//", "%"):
            value = self._operation(value, self.signed)
        return value

    def _operation(self, left: Value, operand: Callable[[], Value]) -> int:
        operator, at = self._taken()
        right_at = self.start
        first, second = _number(left, at), _number(operand(), right_at)
        if operator in ("//", "%") and second == 0:
            raise _error(at, "division by zero")
        results: dict[str, Callable[[], int]] = {
            "+": lambda: first + second, "-": lambda: first - second, "*": lambda: first * second,
            "//": lambda: first // second, "%": lambda: first % second,
        }
        value = results[operator]()
        if abs(value) >= LIMIT:
            raise _error(at, f"the number is too large: below {LIMIT}")
        return value

    def signed(self) -> Value:
        self.depth += 1
        if self.depth > DEPTH:
            raise _error(self.start, f"more than {DEPTH} parentheses and signs within each other")
        if self.kind == "sign" and self.token == "-":
            at = self._taken()[1]
            value: Value = -_number(self.signed(), at)
        else:
            value = self.one()
        self.depth -= 1
        return value

    def one(self) -> Value:
        """A number, a text, a variable, a call, a sum in parentheses."""
        if self.kind == "sign" and self.token == "(":
            self._taken()
            value = self.sum()
            self.take(")")
            return value
        if self.kind not in ("number", "text", "name"):
            found = "the end" if self.kind == "end" else f"'{self.token}'"
            raise _error(self.start, f"a number, a name or '(' is wanted, not {found}")
        kind = self.kind
        token, at = self._taken()
        if kind == "number":
            return _number(token, at)
        if kind == "text":
            return token[1:-1]
        if self.kind == "sign" and self.token == "(":
            return self._call(token, at)
        return _variable(token, at, self.variables)

    def _call(self, name: str, at: int) -> str:
        self._taken()
        values = [self.sum()]
        while self.kind == "sign" and self.token == ",":
            self._taken()
            values.append(self.sum())
        self.take(")")
        fewest, most = {"lower": (1, 1), "upper": (1, 1), "pad": (2, 3)}.get(name, (0, 0))
        if not most:
            raise _error(at, f"no function '{name}': there are lower, upper, pad")
        if not fewest <= len(values) <= most:
            raise _error(at, f"{name}() takes {'one value' if most == 1 else 'two or three values'}, not {len(values)}")
        if name == "pad":
            return _padded(at, *values)
        return str(values[0]).lower() if name == "lower" else str(values[0]).upper()


def _number(value: Value, at: int) -> int:
    """A number, or a text that is one. Raises UsageError for others."""
    if isinstance(value, int):
        return value
    if not re.fullmatch("-?[0-9]{1,18}", value):
        raise _error(at, f"'{value[:40]}' is no number, or too large")
    return int(value)


def _padded(at: int, value: Value, width: Value, fill: Value = "0") -> str:
    """Filled at the left up to `width` characters; zeros come after a sign."""
    wide = _number(width, at)
    if not 0 <= wide <= WIDEST:
        raise _error(at, f"the width is 0 to {WIDEST}, not {wide}")
    if len(str(fill)) != 1:
        raise _error(at, "pad() fills with one character")
    return str(value).zfill(wide) if str(fill) == "0" else str(value).rjust(wide, str(fill))
