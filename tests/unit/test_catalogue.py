"""The catalogue of images, checksum files, and pulling over a host of fakes."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cloudme import layout
from cloudme.errors import Busy, ConfigError, PeerError, UsageError
from cloudme.formats import catalogue, checksums, records
from cloudme.model.catalogue import INLINE, Entry
from cloudme.model.machine import Image
from cloudme.model.names import ImageName
from cloudme.model.steps import Transaction
from cloudme.operations import images
from cloudme.store import Store
from tests import fakes
from tests.unit.test_settings import written

SHIPPED = os.path.join(layout.text_templates(), layout.CATALOGUE)
OURS = catalogue.read([SHIPPED])


def read(tmp_path: Path, *texts: str) -> dict[str, Entry]:
    return catalogue.read(written(tmp_path, texts))


# the one that is shipped

def test_these_images_can_be_pulled() -> None:
    assert set(OURS) == {"debian", "debian-12", "debian-13", "ubuntu", "ubuntu-22.04", "ubuntu-24.04", "alpine",
                         "fedora", "arch", "rocky-9"}
    assert {entry.user for entry in OURS.values()} == {"debian", "ubuntu", "alpine", "fedora", "arch", "rocky"}
    assert {name: entry.alias for name, entry in OURS.items() if entry.alias} == {
        "debian": "debian-12", "ubuntu": "ubuntu-24.04"}


@pytest.mark.parametrize("name", OURS)
def test_an_entry_names_files_behind_https_and_what_it_is(name: str) -> None:
    entry = OURS[name]
    urls = [entry.url, entry.checksums] + [entry.signature] * (entry.signature not in ("", INLINE))
    assert [url for url in urls if urlsplit(url).scheme != "https"] == []
    assert {urlsplit(url).hostname for url in urls} == {urlsplit(entry.url).hostname}
    assert entry.url.endswith((".qcow2", ".img"))
    assert ("x86_64" in entry.url) != ("amd64" in entry.url)
    assert entry.description and " " not in entry.user


@pytest.mark.parametrize("name", OURS)
def test_an_alias_is_what_it_stands_for(name: str) -> None:
    entry = OURS[name]
    if entry.alias:
        assert (entry.url, entry.user) == (OURS[entry.alias].url, OURS[entry.alias].user)


# those of users

MINE = '[mine]\nurl = "http://a/x.qcow2"\nchecksums = "http://a/SUMS"\n'


def test_an_entry_of_a_later_file_replaces_the_whole_of_an_earlier_one(tmp_path: Path) -> None:
    found = read(tmp_path, MINE + 'user = "me"\n["two-2.0"]\nalias = "mine"\n', MINE.replace("//a", "//b"))
    assert (found["mine"].url, found["mine"].user) == ("http://b/x.qcow2", "root")
    assert found["two-2.0"].url == "http://b/x.qcow2"


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, MINE + 'colour = "red"\nuser = 3\n[ubuntu-1.04]\nurl = "http://a/b"\n["A b"]\n',
             '[a]\nalias = "none"\n[b]\nalias = "c"\n[c]\nalias = "mine"\n[d]\nalias = "mine"\nurl = "http://a/b"\n'
             '[e]\nurl = "ftp://a/b"\nchecksums = "http://a/"\nsignature = "inline"\n'
             '[f]\nurl = "http://a/b"\nchecksums = "http://a/s"\nkeyring = "k"\n', "x", "top = 1\n")
    lines = [line.removeprefix(f"{tmp_path}/") for line in caught.value.message.splitlines()]
    assert lines[:9] == [
        "0.toml: mine.colour: no such key",
        "0.toml: mine.user: a text is wanted",
        '0.toml: ubuntu-1.04: no such key; a name with a dot wants quotes: ["ubuntu-1.04"]',
        "0.toml: ubuntu-1.url: is wanted",
        "0.toml: ubuntu-1.checksums: is wanted",
        "0.toml: A b: 'A b' is no name of an image",
        "0.toml: A b.url: is wanted",
        "0.toml: A b.checksums: is wanted",
        "1.toml: d.url: an alias has none",
    ]
    assert lines[9:] == [
        "1.toml: e.url: 'ftp://a/b' is no URL of a file, http or https",
        "1.toml: e.checksums: 'http://a/' is no URL of a file, http or https",
        "1.toml: e.keyring: is wanted with signature",
        "1.toml: f.keyring: an absolute path is wanted",
        "1.toml: f.signature: is wanted with keyring",
        "2.toml: Expected '=' after a key in a key/value pair (at end of document)",
        "3.toml: top: no such key; an entry begins with [top]",
        "1.toml: a.alias: there is no entry 'none' that is none itself",
        "1.toml: b.alias: there is no entry 'c' that is none itself",
        "1.toml: c.alias: there is no entry 'mine' that is none itself",
    ]
    assert caught.value.exit_status == 78


@pytest.mark.parametrize("name", ["ubuntu-24.04", "a1.2.3", "debian"])
def test_a_name_of_an_image_may_have_a_dot_between_digits(name: str) -> None:
    image = Image(name=ImageName(name), size_bytes=1, digest="d", source="s", created="c")
    assert records.image(records.dump(image), "x") == image


@pytest.mark.parametrize("name", ["", ".", "..", "1.", ".1", "a.b", "1..2", "../1.2", "1.2/3", "a.json", "-1.2"])
def test_other_dots_are_none_of_a_name(name: str) -> None:
    with pytest.raises(UsageError):
        ImageName(name)


def test_a_signature_is_of_the_image_where_its_url_says_so() -> None:
    entry = Entry(name=ImageName("x"), url="http://a/x.qcow2", checksums="http://a/x.qcow2.SHA256",
                  signature="http://a/x.qcow2.sig")
    assert entry.seals_image and entry.own_checksums
    assert not OURS["ubuntu"].seals_image and not OURS["ubuntu"].own_checksums
    assert OURS["arch"].seals_image and OURS["alpine"].own_checksums


# checksum files

A, B, LONG = "a" * 64, "B" * 64, "c" * 128
CLEAR = f"""-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

# x.qcow2: 10 bytes
SHA256 (x.qcow2) = {A}
- - dashes
-----BEGIN PGP SIGNATURE-----

iQ==
-----END PGP SIGNATURE-----
"""


@pytest.mark.parametrize(("text", "wanted"), [
    (f"{A}  x.qcow2\n{B}  y.qcow2\n", A),
    (f"{B} *x.qcow2\n", B.lower()),
    (f"{A}  ./images/x.qcow2\n", A),
    (f"SHA256 (x.qcow2) = {A}\nSHA256 (y.qcow2) = {B}\n", A),
    (f"SHA256 (x.qcow2) = {A}\nSHA512 (x.qcow2) = {LONG}\n", LONG),
    (f"{LONG}\n", LONG),
    (f"{A}\n{A}\n", A),
    (CLEAR, A),
    (CLEAR.replace("Hash: SHA256\n", ""), A),
    (CLEAR.replace("\n", "\r\n"), A),
    (f"{B}  x.qcow2\n{CLEAR}", A),
    (f"{CLEAR}{B}  x.qcow2\n", A),
    ("", None),
    (f"{A}  y.qcow2\n", None),
    (f"{A}  xx.qcow2\n{A}  x.qcow2.sig\n", None),
    (f"{A}  x.qcow2\n{B}  x.qcow2\n", None),
    (f"{'a' * 32}  x.qcow2\n{'a' * 40}  x.qcow2\n{'a' * 65}  x.qcow2\n", None),
    (f"# {A}  x.qcow2\n", None),
    ("<html>x.qcow2</html>", None),
])
def test_a_digest_is_found_in_every_format(text: str, wanted: str | None) -> None:
    assert checksums.digest(text, "x.qcow2") == wanted


def test_a_checksum_file_of_one_image_alone_may_call_it_what_it_likes() -> None:
    assert checksums.digest(f"{A}  x-20260101.qcow2\n", "x.qcow2", alone=True) == A
    assert checksums.digest(f"{A}  one\n{B}  two\n", "x.qcow2", alone=True) is None


def test_what_is_signed_is_what_was_written() -> None:
    assert checksums.clear(CLEAR) == f"# x.qcow2: 10 bytes\nSHA256 (x.qcow2) = {A}\n- dashes\n"


@pytest.mark.parametrize("header", ["", "Version: 1\nComment: x\n"])
def test_keys_lose_their_armor(header: str) -> None:
    text = base64.encodebytes(bytes(range(99))).decode()
    block = f"-----BEGIN PGP PUBLIC KEY BLOCK-----\n{header}\n{text}=abcd\n-----END PGP PUBLIC KEY BLOCK-----\n"
    assert checksums.dearmored((block + block).encode()) == bytes(range(99)) * 2
    assert checksums.dearmored(bytes(range(99))) == bytes(range(99))
    with pytest.raises(ValueError, match="no OpenPGP armor"):
        checksums.dearmored(block.replace(text, "A\n").encode())


# pulling

ENTRY = Entry(name=ImageName("mine"), url="http://a/mine.qcow2", checksums="http://a/SUMS", user="me",
              signature="http://a/SUMS.sig", keyring="/dev/null")
DISK = b"\0" * 510 + b"\x55\xaa"


def site(content: bytes = DISK) -> fakes.FakeDownload:
    sums = f"{hashlib.sha256(content).hexdigest()}  mine.qcow2\n".encode()
    return fakes.FakeDownload({ENTRY.url: content, ENTRY.checksums: sums, ENTRY.signature: b"sig"})


def pull(store: Store, download: fakes.FakeDownload, run: fakes.FakeRun, *, dry_run: bool = False) -> list[str]:
    """What was said."""
    run.answers = {"qemu-img": '{"format": "qcow2", "virtual-size": 1024}'}
    said: list[str] = []
    with Transaction(fakes.host(run=run, download=download), said.append, dry_run) as transaction:
        images.pull(transaction, store, ENTRY, say=said.append, progress=lambda name, done, total: None)
    return said


def test_a_pull_in_its_steps(store: Store) -> None:
    run = fakes.FakeRun()
    said = pull(store, site(), run)
    assert said[1:] == ["download http://a/mine.qcow2", "check it, and take it as it is", "publish image mine, 1K",
                        "clean up"]
    assert [call[0] for call in run.calls] == ["gpgv", "qemu-img", "qemu-img"]
    assert sorted(os.listdir(store.world.images)) == ["mine.json", "mine.qcow2"]
    assert store.image("mine").user == "me"


def test_a_dry_run_asks_for_the_checksums_and_makes_nothing(store: Store) -> None:
    download = site()
    assert pull(store, download, fakes.FakeRun(), dry_run=True)[-2:] == ["publish image mine", "clean up"]
    assert download.asked == [ENTRY.checksums, ENTRY.signature]
    assert not os.path.exists(store.world.images)


def test_a_host_without_gpgv_says_so_and_goes_on(store: Store) -> None:
    run = fakes.FakeRun(missing={"gpgv"})
    assert "gpgv is not installed" in pull(store, site(), run)[0]
    assert store.image("mine").source == ENTRY.url


def test_no_server_is_no_error_only_where_the_image_is_of_that_server(store: Store) -> None:
    download = site()
    download.fail[ENTRY.checksums] = Busy("no server")
    store_images = Path(store.world.images)
    store_images.mkdir(parents=True)
    store.publish_image(Image(name=ENTRY.name, size_bytes=1, digest="x", source="/a/file", created="c"))
    with pytest.raises(Busy):
        pull(store, download, fakes.FakeRun())
    store.publish_image(Image(name=ENTRY.name, size_bytes=1, digest="x", source=ENTRY.url, created="c"))
    assert pull(store, download, fakes.FakeRun()) == [
        "no server; image 'mine' of c is there, whether it is the newest or not"]


def test_a_wrong_digest_is_dropped(store: Store) -> None:
    download = site()
    download.files[ENTRY.url] = b"other"
    with pytest.raises(PeerError, match="its sha256 is"):
        pull(store, download, fakes.FakeRun())
    assert os.listdir(store.world.images) == []
