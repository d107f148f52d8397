"""Records: what is on disk today is read for ever."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cloudme.errors import StoreError
from cloudme.formats import records

DATA = Path(__file__).parents[1] / "data/records"
LOADERS: dict[str, Callable[[str, str], records.Record]] = {
    "machine": records.machine, "template": records.template, "image": records.image, "network": records.network,
    "manifest": records.manifest,
}


@pytest.mark.parametrize("path", sorted(DATA.glob("*.json")), ids=lambda path: path.stem)
def test_a_record_of_every_version_is_read_and_the_newest_is_written_back_to_the_letter(path: Path) -> None:
    kind, version = path.stem.split("-v")
    text = path.read_text(encoding="utf-8")
    record = LOADERS[kind](text, str(path))
    if int(version) == records.VERSION:
        assert records.dump(record) == text


@pytest.mark.parametrize(("text", "what"), [
    ("", "is no record of cloudMe"),
    ("[]", "is no record of cloudMe"),
    ("{}", "is no record of cloudMe"),
    ('{"version": 99}', "was written by a newer cloudMe"),
    ('{"version": 1, "name": "web00"}', "is no record of cloudMe"),
])
def test_what_is_no_record_is_named(text: str, what: str) -> None:
    with pytest.raises(StoreError, match=what) as caught:
        records.machine(text, "/home/machine.json")
    assert caught.value.message.startswith("/home/machine.json")


def test_a_name_in_a_record_is_checked_like_any_other() -> None:
    text = (DATA / "machine-v1.json").read_text(encoding="utf-8").replace('"web00"', '"../etc"')
    with pytest.raises(StoreError, match="is no name"):
        records.machine(text, "machine.json")
