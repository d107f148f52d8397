"""A picture of a terminal: `tmux capture-pane -pe | python3 -m tools.picture TITLE >docs/pictures/NAME.svg`."""

from __future__ import annotations

import io
import re
import sys

ASPECT = 0.602
"""Width to height of a letter in the monospaced fonts that systems have, as DejaVu's."""


def svg(screen: str, title: str) -> str:
    """screen: with its colours, as tmux captures them. Whoever looks at the picture loads nothing from elsewhere."""
    from rich.console import Console
    from rich.terminal_theme import DIMMED_MONOKAI
    from rich.text import Text

    lines = [Text.from_ansi(line) for line in screen.rstrip().splitlines()]
    console = Console(record=True, file=io.StringIO(), width=max(line.cell_len for line in lines), force_terminal=True,
                      color_system="truecolor", legacy_windows=False)
    console.print(*lines, sep="\n", no_wrap=True, crop=True)
    drawn = console.export_svg(title=title, theme=DIMMED_MONOKAI, font_aspect_ratio=ASPECT, unique_id="screen")
    drawn = re.sub(r" +$", "", re.sub(r" *@font-face {.*?}\n", "", drawn, flags=re.DOTALL), flags=re.MULTILINE)
    return drawn.replace('-matrix">', '-matrix" xml:space="preserve">')  # else some drop blanks at the head of a text


if __name__ == "__main__":
    sys.stdout.write(svg(sys.stdin.read(), sys.argv[1]))
