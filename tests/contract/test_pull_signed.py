"""Pulling images whose checksums, or which themselves, are signed, with the real gpgv; and the commands that pull."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudme import layout
from cloudme.errors import NotFound, PeerError
from cloudme.host.download import Http
from cloudme.host.run import Programs
from cloudme.layout import World
from cloudme.model.catalogue import INLINE
from cloudme.store import Store
from tests.conftest import Ended
from tests.pulling import PATH, left, pull, pulled_whole
from tests.site import Page, Site

pytestmark = pytest.mark.contract

run = Programs()


@pytest.fixture(scope="module")
def gpg() -> Iterator[Callable[..., bytes]]:
    """Runs gpg with a key of its own: `gpg(stdin, options...)`. Its agent's socket wants a short path."""
    if not (program := shutil.which("gpg")):
        pytest.skip("no gpg")
    if not shutil.which("gpgv"):
        pytest.skip("no gpgv")
    folder = f"/tmp/cm-gpg-{os.getpid()}"
    os.mkdir(folder, 0o700)
    environ = {"GNUPGHOME": folder}

    def call(stdin: bytes, *options: str) -> bytes:
        Path(folder, "in").write_bytes(stdin)
        run([program, "--batch", "--quiet", "--yes", "--pinentry-mode", "loopback", "--passphrase", "", "--output",
             f"{folder}/out", *options, *([f"{folder}/in"] if stdin else [])], env=environ)
        return Path(folder, "out").read_bytes() if Path(folder, "out").exists() else b""

    try:
        call(b"", "--quick-gen-key", "Images <images@example.org>", "ed25519", "sign")
        yield call
    finally:
        run(["gpgconf", "--kill", "all"], env=environ)
        shutil.rmtree(folder)


@pytest.fixture(params=["binary", "armored"])
def keyring(request: pytest.FixtureRequest, gpg: Callable[..., bytes], tmp_path: Path) -> str:
    path = tmp_path / "keyring"
    path.write_bytes(gpg(b"", *(["--armor"] if request.param == "armored" else []), "--export"))
    return str(path)


def test_a_detached_signature_of_the_checksums(
    store: Store, site: Site, disk: bytes, gpg: Callable[..., bytes], keyring: str,
) -> None:
    sums = site.pages["/SHA512SUMS"].content
    signed: dict[str, Any] = {"signature": f"{site.url}/sig", "keyring": keyring}
    site.pages["/sig"] = Page(gpg(sums + b"x", "--detach-sign"))
    with pytest.raises(PeerError, match="BAD signature") as caught:
        pull(store, site, **signed)
    assert caught.value.exit_status == 76
    assert site.ranges(PATH) == []
    site.pages["/sig"] = Page(gpg(sums, "--detach-sign"))
    said: list[str] = []
    pull(store, site, said=said, **signed)
    assert said == []
    assert pulled_whole(store, disk)


def test_a_clear_signed_checksum_file_counts_only_where_it_is_signed(
    store: Store, site: Site, disk: bytes, gpg: Callable[..., bytes], keyring: str,
) -> None:
    sums, page = site.pages["/SHA512SUMS"].content, site.pages["/SHA512SUMS"]
    signed: dict[str, Any] = {"signature": INLINE, "keyring": keyring}
    page.content = gpg(sums, "--clear-sign").replace(sums[:8], b"00000000")
    with pytest.raises(PeerError, match="BAD signature"):
        pull(store, site, **signed)
    page.content = sums + gpg(b"something else\n", "--clear-sign")
    with pytest.raises(PeerError, match="has no SHA-256 or SHA-512"):
        pull(store, site, **signed)
    page.content = sums
    with pytest.raises(PeerError):
        pull(store, site, **signed)
    assert site.ranges(PATH) == []
    page.content = gpg(sums, "--clear-sign")
    pull(store, site, **signed)
    assert pulled_whole(store, disk)


def test_a_signature_of_the_image_itself(
    store: Store, site: Site, disk: bytes, gpg: Callable[..., bytes], keyring: str,
) -> None:
    signed: dict[str, Any] = {"signature": f"{site.url}{PATH}.sig", "keyring": keyring}
    site.pages[f"{PATH}.sig"] = Page(gpg(disk[1:], "--detach-sign"))
    with pytest.raises(PeerError, match="BAD signature"):
        pull(store, site, **signed)
    assert left(store) == []
    site.pages[f"{PATH}.sig"] = Page(gpg(disk, "--detach-sign"))
    pull(store, site, **signed)
    assert pulled_whole(store, disk)


def test_another_key_is_none(store: Store, site: Site, gpg: Callable[..., bytes], tmp_path: Path) -> None:
    (tmp_path / "none").touch()
    site.pages["/sig"] = Page(gpg(site.pages["/SHA512SUMS"].content, "--detach-sign"))
    with pytest.raises(PeerError):
        pull(store, site, signature=f"{site.url}/sig", keyring=str(tmp_path / "none"))


def test_a_signature_that_is_not_there_is_an_error_and_a_keyring_that_is_not_is_told_once(
    store: Store, site: Site, disk: bytes, tmp_path: Path,
) -> None:
    (tmp_path / "keyring").touch()
    with pytest.raises(NotFound, match="/sig"):
        pull(store, site, signature=f"{site.url}/sig", keyring=str(tmp_path / "keyring"))
    said: list[str] = []
    pull(store, site, said=said, signature=f"{site.url}/sig", keyring="/no/such/keyring")
    assert said == ["the signature of mine is not verified, only its digest: there is no /no/such/keyring"]
    assert pulled_whole(store, disk)


# the commands

@pytest.fixture
def catalogue(home: Path, site: Site) -> Site:
    """An entry 'mine-1.2' of that site, and 'mine', another name for it."""
    world: World = layout.world()
    os.makedirs(world.config)
    Path(world.catalogue).write_text(
        f'["mine-1.2"]\nurl = "{site.url}{PATH}"\nchecksums = "{site.url}/SHA512SUMS"\nuser = "me"\n'
        '[mine]\nalias = "mine-1.2"\n', "utf-8")
    return site


def test_cmimage_pull(command: Callable[..., Ended], catalogue: Site, store: Store, disk: bytes) -> None:
    dry = command("cmimage", "pull", "mine-1.2", "--dry-run")
    assert dry.status == 0
    assert dry.stdout.splitlines()[1:] == [
        f"download {catalogue.url}{PATH}", "check it, and take it as it is", "publish image mine-1.2", "clean up"]
    assert left(store) == []
    first = command("cmimage", "pull", "mine-1.2")
    assert (first.status, first.stdout) == (0, "")
    assert store.image("mine-1.2").user == "me"
    assert "mine-1.2" in command("cmimage", "list").stdout
    again = command("cmimage", "pull", "mine-1.2")
    assert (again.status, again.stderr) == (0, "cmimage: image 'mine-1.2' is there already\n")
    offered = [line.split() for line in command("cmimage", "pull", "--list").stdout.splitlines()]
    assert ["mine-1.2", "me", "here"] in offered and ["mine", "me", "-"] in offered
    assert command("cmimage", "remove", "mine-1.2").status == 0


def test_vmcreate_from_the_catalogue(command: Callable[..., Ended], catalogue: Site, store: Store) -> None:
    dry = command("vmcreate", "-n", "web", "--os", "mine", "--no-prepare", "--dry-run")
    assert dry.status == 0 and dry.stdout.splitlines()[-1] == "make template web from mine"
    made = command("vmcreate", "-n", "web", "--os", "mine", "--no-prepare")
    assert (made.status, made.stdout) == (0, "web\n")
    assert store.template("web").image == "mine"
    catalogue.pages.clear()
    assert command("vmcreate", "-n", "web2", "--os", "mine", "--no-prepare").status == 0
    os.remove(store.world.image_record("mine"))
    taken = command("vmcreate", "-n", "web", "--os", "mine", "--no-prepare")
    assert taken.status == 73 and "on another image" in taken.stderr
    missing = command("vmcreate", "-n", "x", "--os", "none", "--no-prepare")
    assert missing.status == 66 and "cmimage pull --list" in missing.stderr


def test_ctrl_c_keeps_what_came(
    command: Callable[..., Ended], catalogue: Site, disk: bytes, monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = Http._chunks

    def interrupted(self: Http, *of: object) -> Iterator[bytes]:
        chunks = real(self, *of)  # type: ignore[arg-type]
        yield next(chunks)
        if catalogue.asked[-1] == (PATH, ""):
            raise KeyboardInterrupt
        yield from chunks

    monkeypatch.setattr(Http, "_chunks", interrupted)  # a signal would come anywhere, not behind a chunk
    ended = command("cmimage", "pull", "mine")
    assert ended.status == 130
    assert "what came of image 'mine' is kept: cmimage pull mine goes on from there" in ended.stderr
    assert command("cmimage", "pull", "mine").status == 0
    assert catalogue.ranges(PATH) == ["", "bytes=32768-"]
