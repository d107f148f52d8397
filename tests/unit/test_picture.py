"""The picture of a terminal."""

from __future__ import annotations

from xml.etree import ElementTree

from tools.picture import svg


def test_it_shows_the_text_in_its_colours_and_loads_nothing() -> None:
    drawn = svg("name  state\n\033[31mweb00\033[0m <b>\n\n\n", "vmstatus --watch")
    words = "".join(ElementTree.fromstring(drawn).itertext()).replace("\xa0", " ")
    assert all(word in words for word in ("vmstatus --watch", "name  state", "web00", " <b>"))
    assert "url(http" not in drawn and "@font-face" not in drawn
