"""The keys that leave a session."""

from __future__ import annotations

import pytest

from cloudme.host import terminal


@pytest.mark.parametrize("typed, sent", [
    ([b"ls ~\r"], b"ls ~\r"),
    ([b"x~.\r"], b"x~.\r"),
    ([b"~/bin\r"], b"~/bin\r"),
    ([b"~~.\r"], b"~.\r"),
    ([b"\r~", b"x"], b"\r~x"),
    ([b"a\r", b"~", b"~", b"~."], b"a\r~~."),
    ([], b""),
])
def test_a_tilde_is_sent_unless_a_dot_follows_it_at_the_start_of_a_line(typed: list[bytes], sent: bytes) -> None:
    escape = terminal.Tilde()
    assert b"".join(escape(keys) for keys in typed) == sent


@pytest.mark.parametrize("typed", [[b"~."], [b"ls\r~", b"."], [b"x\n~."], [b"~", b"~\r~", b"."]])
def test_enter_tilde_dot_leaves(typed: list[bytes]) -> None:
    escape = terminal.Tilde()
    with pytest.raises(terminal.Left):
        for keys in typed:
            escape(keys)


def test_ctrl_bracket_leaves_a_console() -> None:
    assert terminal.bracket(b"abc]\x1b") == b"abc]\x1b"
    with pytest.raises(terminal.Left):
        terminal.bracket(b"abc\x1d")
