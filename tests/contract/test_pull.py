"""Pulling images, from a real web server that misbehaves, with the real qemu-img."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from cloudme.errors import AlreadyExists, Busy, CloudMeError, NotFound, PeerError, SpecError, StoreError
from cloudme.host.run import Programs
from cloudme.model.names import ImageName
from cloudme.store import Store, take_lock
from tests.pulling import PATH, QUICK, kept, left, publish, pull, pulled_whole
from tests.site import Page, Site

pytestmark = pytest.mark.contract

run = Programs()


def test_an_image_is_there_byte_for_byte_with_its_user_and_digest(store: Store, site: Site, disk: bytes) -> None:
    image = pull(store, site)
    assert pulled_whole(store, disk)
    assert (image.user, image.digest) == ("debian", hashlib.sha512(disk).hexdigest())
    assert (image.size_bytes, image.source) == (1 << 20, site.url + PATH)
    assert store.image("mine") == image


def test_a_second_pull_asks_for_the_checksums_only(store: Store, site: Site) -> None:
    first = pull(store, site)
    site.asked.clear()
    said: list[str] = []
    assert pull(store, site, said=said) == first
    assert site.asked == [("/SHA512SUMS", "")]
    assert said == ["image 'mine' is there already"]


@pytest.mark.parametrize("tenth", range(1, 10))
def test_what_is_cut_anywhere_goes_on_from_there(store: Store, site: Site, disk: bytes, tenth: int) -> None:
    publish(site, disk, cuts=[len(disk) * tenth // 10])
    said: list[str] = []
    with pytest.raises(Busy, match="the connection broke, after"):
        pull(store, site, said=said)
    have = kept(store)
    assert have > 0 and left(store) == [".mine.part"]
    assert "cmimage pull mine goes on from there" in said[0]
    pull(store, site)
    assert site.ranges(PATH) == ["", f"bytes={have}-"]
    assert pulled_whole(store, disk)


def test_one_pull_survives_a_connection_that_breaks_at_every_tenth(store: Store, site: Site, disk: bytes) -> None:
    publish(site, disk, cuts=[len(disk) * tenth // 10 for tenth in range(1, 10)])
    pull(store, site, replace(QUICK, tries=2))
    assert len(site.ranges(PATH)) == 10
    assert pulled_whole(store, disk)


def test_a_stalled_connection_is_given_up_and_gone_on_with(store: Store, site: Site, disk: bytes) -> None:
    page = publish(site, disk, cuts=[len(disk) // 2], stalls=True)
    with pytest.raises(Busy, match=r"nothing came for 0\.2 s"):
        pull(store, site, replace(QUICK, stall_s=0.2))
    have = kept(store)
    assert have > 0
    page.stalls = False
    pull(store, site)
    assert site.ranges(PATH)[1] == f"bytes={have}-"
    assert pulled_whole(store, disk)


def test_a_server_without_ranges_begins_anew(store: Store, site: Site, disk: bytes) -> None:
    publish(site, disk, cuts=[len(disk) // 2], ranges=False)
    pull(store, site, replace(QUICK, tries=2))
    assert len(site.ranges(PATH)) == 2
    assert pulled_whole(store, disk)


@pytest.mark.parametrize("etag", ["", 'W/"1"'])
def test_without_a_strong_validator_nothing_is_gone_on_with(store: Store, site: Site, disk: bytes, etag: str) -> None:
    publish(site, disk, cuts=[len(disk) // 2], etag=etag)
    pull(store, site, replace(QUICK, tries=2))
    assert site.ranges(PATH) == ["", ""]
    assert pulled_whole(store, disk)


def test_a_file_that_never_comes_whole_is_given_up(store: Store, site: Site, disk: bytes) -> None:
    publish(site, disk, cuts=[len(disk) // 2] * 9, ranges=False)
    with pytest.raises(Busy):
        pull(store, site, replace(QUICK, tries=3))
    assert len(site.ranges(PATH)) == 3
    assert not os.path.exists(store.world.image_disk("mine"))


@pytest.mark.parametrize("sums_follow", [True, False], ids=["and-its-checksums", "only"])
def test_a_file_that_changed_meanwhile_is_begun_anew(
    store: Store, site: Site, disk: bytes, tmp_path: Path, sums_follow: bool,
) -> None:
    """In the other case it is the ETag alone that says so."""
    run(["qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "new"), "9M"])
    new = (tmp_path / "new").read_bytes()
    publish(site, disk, cuts=[len(disk) // 2])
    if not sums_follow:
        site.pages["/SHA512SUMS"].content = f"{hashlib.sha512(new).hexdigest()}  mine.qcow2\n".encode()
    with pytest.raises(Busy):
        pull(store, site)
    publish(site, new, etag='"2"')
    pull(store, site)
    assert site.ranges(PATH)[1].startswith("bytes=") is not sums_follow
    assert pulled_whole(store, new)


def test_another_url_does_not_go_on_with_this_ones_part(store: Store, site: Site, disk: bytes) -> None:
    publish(site, disk, cuts=[len(disk) // 2])
    with pytest.raises(Busy):
        pull(store, site)
    site.pages["/other/mine.qcow2"] = Page(disk)
    pull(store, site, url=f"{site.url}/other/mine.qcow2")
    assert site.ranges("/other/mine.qcow2") == [""]
    assert pulled_whole(store, disk)


def test_a_length_that_is_too_long_ends_in_an_error_or_in_the_whole_file(
    store: Store, site: Site, disk: bytes,
) -> None:
    publish(site, disk, claims=len(disk) + 1000)
    with pytest.raises(Busy, match=f"broke, after {len(disk)} of {len(disk) + 1000} bytes"):
        pull(store, site)
    assert not os.path.exists(store.world.image_disk("mine"))
    pull(store, site)  # the server has no more: the digest says that it was all
    assert pulled_whole(store, disk)


def test_a_length_that_is_too_short_is_found_by_the_digest(store: Store, site: Site, disk: bytes) -> None:
    publish(site, disk, claims=len(disk) - 1000)
    with pytest.raises(PeerError, match="its sha512 is"):
        pull(store, site)
    assert left(store) == []


def test_a_server_that_does_not_know_the_length_will_do(store: Store, site: Site, disk: bytes) -> None:
    publish(site, disk, sized=False)
    pull(store, site)
    assert pulled_whole(store, disk)


def test_a_wrong_digest_leaves_nothing_that_would_be_gone_on_with(store: Store, site: Site, disk: bytes) -> None:
    site.pages[PATH].content = disk[:-1] + b"?"
    with pytest.raises(PeerError) as caught:
        pull(store, site)
    assert caught.value.exit_status == 76
    assert left(store) == []
    site.pages[PATH].content = disk
    pull(store, site)
    assert site.ranges(PATH) == ["", ""]
    assert pulled_whole(store, disk)


def test_what_is_no_disk_is_not_kept_either(store: Store, site: Site) -> None:
    publish(site, b"no disk" * 1000)
    with pytest.raises(SpecError, match="neither a qcow2 nor a disk that boots"):
        pull(store, site)
    assert left(store) == []


def test_a_raw_disk_becomes_a_qcow2(store: Store, site: Site, tmp_path: Path) -> None:
    raw = (bytes(510) + b"\x55\xaa").ljust(1 << 20, b"x")
    (tmp_path / "raw").write_bytes(raw)
    publish(site, raw)
    pull(store, site)
    run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(tmp_path / "raw"), store.world.image_disk("mine")])
    assert left(store) == ["mine.json", "mine.qcow2"]


@pytest.mark.parametrize(("path", "status", "error"), [
    (PATH, 404, NotFound), ("/SHA512SUMS", 404, NotFound), (PATH, 403, PeerError), (PATH, 503, Busy),
    ("/SHA512SUMS", 500, Busy),
])
def test_a_server_that_says_no_is_quoted(
    store: Store, site: Site, path: str, status: int, error: type[CloudMeError],
) -> None:
    site.pages[path].status = status
    with pytest.raises(error, match=f"{site.url}{path}: .*{status}"):
        pull(store, site)
    assert left(store) == []


def test_a_server_that_has_hiccups_is_asked_again(store: Store, site: Site, disk: bytes) -> None:
    site.pages["/SHA512SUMS"].cuts = [3]
    pull(store, site, replace(QUICK, tries=2))
    assert len(site.ranges("/SHA512SUMS")) == 2
    assert pulled_whole(store, disk)


@pytest.mark.parametrize("text", ["", "0123  mine.qcow2\n", "{}  other.qcow2\n", "<html>"])
def test_checksums_without_the_image_are_refused_before_it_is_downloaded(store: Store, site: Site, text: str) -> None:
    site.pages["/SHA512SUMS"].content = text.format("0" * 128).encode()
    with pytest.raises(PeerError, match=r"has no SHA-256 or SHA-512 of mine\.qcow2"):
        pull(store, site)
    assert site.ranges(PATH) == []
    assert left(store) == []


def test_a_redirect_is_followed_and_the_part_survives_it(store: Store, site: Site, disk: bytes) -> None:
    site.pages["/mirror"] = Page(disk, cuts=[len(disk) // 2])
    site.pages[PATH] = Page(b"", status=302, location=f"{site.url}/mirror")
    pull(store, site, replace(QUICK, tries=2))
    assert site.ranges("/mirror")[1].startswith("bytes=")
    assert pulled_whole(store, disk)


@pytest.mark.parametrize("hop", [0, 1])
def test_checksums_do_not_leave_a_secure_way(monkeypatch: pytest.MonkeyPatch, hop: int) -> None:
    """No server of the tests' own is one that requests trusts: its answer is made up."""
    urls = ["https://a/SUMS", "https://b/SUMS", "https://c/SUMS"]
    urls[hop + 1] = "http://b/SUMS"
    answers = [requests.Response() for _ in urls]
    for answer, url in zip(answers, urls, strict=True):
        answer.url, answer.status_code, answer.raw = url, 200, io.BytesIO()
    answers[-1].history = answers[:-1]
    monkeypatch.setattr(requests, "get", lambda url, **more: answers[-1])
    with pytest.raises(PeerError, match="leads to http://b/SUMS"):
        QUICK.text(urls[0])


def test_redirects_in_a_circle_are_an_error(store: Store, site: Site) -> None:
    site.pages[PATH] = Page(b"", status=302, location=f"{site.url}{PATH}")
    with pytest.raises(PeerError, match="redirects"):
        pull(store, site)


def test_a_newer_image_is_told_with_what_to_type(store: Store, site: Site, disk: bytes) -> None:
    first = pull(store, site)
    publish(site, disk + bytes(512), etag='"2"')
    with pytest.raises(AlreadyExists, match="has changed since image 'mine' was pulled") as caught:
        pull(store, site)
    assert caught.value.exit_status == 73
    assert str(caught.value.hint).startswith("cmimage remove mine")
    assert store.image("mine") == first


def test_without_a_server_what_is_here_will_do_and_else_it_is_an_error(store: Store, site: Site) -> None:
    first = pull(store, site)
    site.pages["/SHA512SUMS"].status = 503
    said: list[str] = []
    assert pull(store, site, said=said) == first
    assert "is there, whether it is the newest or not" in said[0]
    with pytest.raises(Busy):
        pull(store, site, name=ImageName("other"))
    with pytest.raises(Busy, match="Connection refused"):
        QUICK.text("http://127.0.0.1:1/x")


def test_two_at_once_are_not(store: Store, site: Site, disk: bytes) -> None:
    publish(site, disk, cuts=[len(disk) // 2], stalls=True)
    first = threading.Thread(target=pull, args=(store, site))
    first.start()
    assert site.reached.wait(60)
    with pytest.raises(Busy, match="image 'mine' is being pulled by somebody else"):
        pull(store, site)
    site.going.set()
    first.join()
    assert pulled_whole(store, disk)


def test_the_debris_of_a_killed_pull_is_gone_on_with(store: Store, site: Site, disk: bytes) -> None:
    publish(site, disk, cuts=[len(disk) // 2])
    with pytest.raises(Busy):
        pull(store, site)
    os.close(take_lock(os.path.join(store.world.images, ".mine.part/lock")))
    pull(store, site)
    assert pulled_whole(store, disk)


def test_too_little_room_is_told_before_the_first_byte(
    store: Store, site: Site, monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = os.statvfs("/")
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((*real[:4], 1, *real[5:])))
    with pytest.raises(StoreError, match="are wanted"):
        pull(store, site)
    assert kept(store) == 0
