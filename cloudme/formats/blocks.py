"""Marked blocks of lines in files that belong to somebody else: read, put in, taken out, nothing else touched."""

from __future__ import annotations

from collections.abc import Sequence


def read(text: str, mark: str) -> tuple[str, ...]:
    """The lines of the block `mark`; none where it is missing."""
    _, lines, _ = _parts(text, mark)
    return tuple(lines)


def replace(text: str, mark: str, lines: Sequence[str]) -> str:
    """The text with the block `mark` holding `lines`, at its old place or at the end; without lines, no block."""
    before, _, after = _parts(text, mark)
    block = [_begin(mark), *lines, _end(mark)] if lines else []
    whole = [*before, *block, *after]
    return "\n".join(whole) + "\n" if whole else ""


def _begin(mark: str) -> str:
    return f"# begin {mark} (written by cmnet)"


def _end(mark: str) -> str:
    return f"# end {mark}"


def _parts(text: str, mark: str) -> tuple[list[str], list[str], list[str]]:
    lines = text.splitlines()
    try:
        begin = lines.index(_begin(mark))
        end = lines.index(_end(mark), begin)
    except ValueError:
        return lines, [], []
    return lines[:begin], lines[begin + 1:end], lines[end + 1:]
