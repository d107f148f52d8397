"""Texts with variables and expressions, and that no text whatever does more than raise UsageError."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudme.errors import UsageError
from cloudme.model.definitions.expressions import LENGTH, LIMIT, expand

VARIABLES = {"employee-id": "9000", "n": "-3", "zero": "007", "Name": "Ada", "two words": "x y", "machine": "m",
             "a_1": "A"}


@pytest.mark.parametrize(("pattern", "wanted"), [
    ("", ""), ("plain", "plain"), ("5${employee-id}", "59000"), ("${zero}", "007"), ("$n/x", "-3/x"),
    ("$machine-name", "m-name"), ("${two words}", "x y"), ("a$/b$", "a$/b$"), ("${a_1}$a_1.", "AA."),
    ("${5000 + employee-id}", "14000"), ("${employee-id - 1}", "8999"), ("${5000-employee-id}", "-4000"),
    ("${5000 -employee-id}", "-4000"), ("${2 + 3 * 4}", "14"), ("${(2 + 3) * 4}", "20"), ("${10 - 3 - 2}", "5"),
    ("${-7 // 2}", "-4"), ("${-7 % 3}", "2"), ("${7 // 2 * 2}", "6"), ("${--n}", "-3"), ("${zero + 0}", "7"),
    ("${2 * -3}", "-6"), ("${ 1+1 }x", "2x"), ("${lower(Name)}-${upper('x')}", "ada-X"), ("${pad(zero + 1, 3)}", "008"),
    ("${pad(n, 5)}", "-0003"), ("${pad(Name, 5, '.')}", "..Ada"), ("${pad(employee-id, 2)}", "9000"), ("${'}'}", "}"),
    ('${"a" }', "a"), ("${'$'}", "$"), ("${1 + '2'}", "3"), ("é${employee-id}ü", "é9000ü"),
])
def test_a_pattern_gives(pattern: str, wanted: str) -> None:
    assert expand(pattern, VARIABLES) == wanted


@pytest.mark.parametrize(("pattern", "column", "what"), [
    ("5${nobody}", 4, "no variable 'nobody'"),
    ("$nobody", 2, "no variable 'nobody'"),
    ("${employee-id-1}", 3, r"no variable 'employee-id-1' \(a minus stands between blanks\)"),
    ("$$", 2, r"no variable '\$'"),
    ("${", 3, "a number, a name or '\\(' is wanted, not the end"),
    ("${}", 3, "a number, a name or '\\(' is wanted, not '}'"),
    ("${1 + }", 7, "a number, a name"),
    ("${1 2}", 5, "'}' or an operator is wanted, not '2'"),
    ("${(1}", 5, r"'\)' or an operator is wanted, not '}'"),
    ("${1", 4, "'}' or an operator is wanted, not the end"),
    ("${1 / 2}", 5, "not '/'"),
    ("${Name + 1}", 8, "'Ada' is no number"),
    ("${1 + Name}", 7, "'Ada' is no number"),
    ("${1 // (n + 3)}", 5, "division by zero"),
    ("${1 % 0}", 5, "division by zero"),
    ("${exec(1)}", 3, "no function 'exec'"),
    ("${lower(1, 2)}", 3, "takes one value, not 2"),
    ("${pad(1)}", 3, "takes two or three values, not 1"),
    ("${pad(1, 256)}", 3, "the width is 0 to 255"),
    ("${pad(1, 2, 'ab')}", 3, "fills with one character"),
    ("${'open}", 3, "not '''"),
    (f"${{{10 ** 9} * {10 ** 9}}}", 14, "too large"),
    (f"${{{LIMIT}}}", 3, "no number, or too large"),
    ("${" + "(" * 40, 35, "more than 32"),
    ("${" + "-" * 99 + "1}", 35, "more than 32"),
])
def test_a_mistake_is_told_with_its_column(pattern: str, column: int, what: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        expand(pattern, VARIABLES)
    assert caught.value.message.startswith(f"column {column}: ")


def test_sizes_are_bounded() -> None:
    with pytest.raises(UsageError, match="too long"):
        expand("x" * (LENGTH + 1), {})
    with pytest.raises(UsageError, match="it gives"):
        expand("${long}${long}", {"long": "x" * LENGTH})


WORDS = st.sampled_from(["${", "}", "(", ")", "+", "-", "*", "//", "%", ",", "pad(", "lower(", " ", "'", '"', "$", "n",
                         "employee-id", "Name", "99999999999", "7", "٣", "\n", "é"])


@given(st.one_of(st.text(), st.lists(WORDS, max_size=40).map("".join),
                 st.lists(WORDS, max_size=40).map(lambda words: "${" + "".join(words) + "}")))
def test_whatever_is_written_gives_a_text_or_a_column(pattern: str) -> None:
    try:
        assert len(expand(pattern, VARIABLES)) <= LENGTH
    except UsageError as error:
        assert error.message.startswith("column ")


NUMBERS = st.integers(-99, 99)
"""The product of eight is below the limit."""


@st.composite
def sums(draw: st.DrawFn, depth: int = 3) -> tuple[str, int]:
    """An expression with blanks, as text, and what Python makes of it."""
    if depth == 0 or draw(st.booleans()):
        number = draw(NUMBERS)
        return f"({number})", number
    (left, first), (right, second) = draw(sums(depth - 1)), draw(sums(depth - 1))
    sign = draw(st.sampled_from(["+", "-", "*", "//", "%"] if second else ["+", "-", "*"]))
    value = {"+": first + second, "-": first - second, "*": first * second,
             "//": first // (second or 1), "%": first % (second or 1)}[sign]
    return f"({left} {sign} {right})", value


@given(sums())
def test_numbers_are_what_python_makes_of_them(made: tuple[str, int]) -> None:
    text, value = made
    assert expand(f"${{{text}}}", {}) == str(value)
    assert expand(f"${{{text[1:-1]}}}", {}) == str(value)
