"""Templates: made, adjusted, removed, and refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cloudme import layout, seed
from cloudme.errors import AlreadyExists, Busy, CommandFailed, NotFound, SpecError, UsageError
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import CloneRequest, Image, Template
from cloudme.model.names import Name
from cloudme.model.ports import Ended
from cloudme.model.steps import Transaction
from cloudme.model.units import GIB
from cloudme.operations import clones, templates
from cloudme.store import Store, take_lock
from tests import fakes


def image(store: Store, name: str = "debian", size_bytes: int = 4 * GIB) -> None:
    os.makedirs(store.world.images, exist_ok=True)
    Path(store.world.image_disk(name)).write_bytes(b"qcow2")
    store.publish_image(Image(name=Name(name), size_bytes=size_bytes, digest="0", source="test", created=""))


def make(store: Store, run: fakes.FakeRun | None = None, **more: object) -> Template:
    fields: dict[str, object] = {"name": Name("debian"), "image": Name("debian"), "vcpus": 2, "ram_mib": 512, **more}
    with Transaction(fakes.host(run=run or fakes.FakeRun()), lambda line: None) as transaction:
        wanted = templates.Wanted(**fields)  # type: ignore[arg-type]
        return templates.make(transaction, store, wanted, default_disk_bytes=10 * GIB)


def test_a_template_stands_on_its_image_and_has_a_key(store: Store) -> None:
    image(store)
    run = fakes.FakeRun()
    made = make(store, run)
    assert store.template("debian") == made and made.disk.size_bytes == 4 * GIB
    disk = f"{store.world.template('debian')}/disk.qcow2"
    assert run.calls == [["qemu-img", "create", "-q", "-f", "qcow2", "-b", store.world.image_disk("debian"), "-F",
                          "qcow2", disk, str(4 * GIB)]]
    key = f"{store.world.template('debian')}/ssh_key"
    assert os.stat(key).st_mode & 0o777 == 0o600 and os.path.exists(f"{key}.pub")
    assert store.templates_of("debian") == ["debian"]


def test_a_failure_leaves_no_template(store: Store) -> None:
    image(store)
    with pytest.raises(CommandFailed):
        make(store, fakes.FakeRun(fail={"create": CommandFailed("no")}))
    assert os.listdir(store.world.templates) == []


@pytest.mark.parametrize(("more", "error", "what"), [
    ({"image": Name("x")}, NotFound, "no image 'x'"),
    ({"disk_bytes": 1 * GIB}, UsageError, "a disk of 1G is smaller than the image's 4G"),
    ({"image": None, "iso": "/nowhere.iso"}, NotFound, "there is no file '/nowhere.iso'"),
    ({"image": None, "file": "/nowhere.qcow2"}, NotFound, "there is no file '/nowhere.qcow2'"),
    ({"vcpus": 0}, UsageError, "0 is no number of CPUs"),
])
def test_what_cannot_be_made_is_refused_before_anything_is_changed(
    store: Store, more: dict[str, object], error: type[Exception], what: str
) -> None:
    image(store)
    with pytest.raises(error, match=what):
        make(store, None, **more)
    assert not os.path.exists(store.world.templates)


@pytest.mark.parametrize(("answer", "what"), [
    ('{"format": "vmdk", "virtual-size": 1}', "a vmdk disk"),
    ('{"format": "qcow2", "virtual-size": 1, "backing-filename": "x"}', "stands on another one"),
])
def test_a_disk_of_another_kind_is_refused(store: Store, tmp_path: Path, answer: str, what: str) -> None:
    file = tmp_path / "disk"
    file.write_bytes(b"x")
    with pytest.raises(SpecError, match=what):
        make(store, fakes.FakeRun(answers={"qemu-img": answer}), image=None, file=str(file))


def test_what_is_no_iso_is_refused(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "x.iso"
    file.write_bytes(b"\0" * 50_000)
    with pytest.raises(SpecError, match="this is no ISO image"):
        make(store, image=None, iso=str(file))


def test_the_name_is_taken_once(store: Store) -> None:
    image(store)
    made = make(store)
    with pytest.raises(AlreadyExists):
        make(store)
    wanted = templates.Wanted(name=Name("debian"), image=Name("debian"), vcpus=2, ram_mib=512)
    assert not templates.same(made, wanted) and templates.same(templates.finish(store, made), wanted)


def adjust(store: Store, run: fakes.FakeRun, **more: int | None) -> Template:
    wanted: dict[str, int | None] = {"vcpus": None, "ram_mib": None, "disk_bytes": None, **more}
    with Transaction(fakes.host(run=run), lambda line: None) as transaction:
        return templates.adjust(transaction, store, Name("debian"), **wanted)


def test_adjusting_changes_the_record_and_grows_the_disk(store: Store) -> None:
    image(store)
    make(store)
    run = fakes.FakeRun()
    adjust(store, run, vcpus=4, ram_mib=1024, disk_bytes=8 * GIB)
    found = store.template("debian")
    assert (found.shape.vcpus, found.shape.ram_mib, found.disk.size_bytes) == (4, 1024, 8 * GIB)
    assert [call[1] for call in run.calls] == ["resize"]
    run.calls.clear()
    adjust(store, run, vcpus=4)
    assert run.calls == []


def test_a_disk_does_not_shrink(store: Store) -> None:
    image(store)
    make(store)
    with pytest.raises(UsageError, match="a disk of 4G cannot shrink to 1G"):
        adjust(store, fakes.FakeRun(), disk_bytes=GIB)


def test_a_template_that_runs_or_has_clones_is_left_alone(store: Store) -> None:
    image(store)
    make(store)
    lock = take_lock(layout.lock(store.world.template("debian")))
    with pytest.raises(Busy, match="runs"):
        adjust(store, fakes.FakeRun(), vcpus=4)
    os.close(lock)
    wanted = CloneRequest(template=Name("debian"), count=1, group=Name("g"), type=Name("t"), prefix=Name("web"))
    with (Transaction(fakes.host(), lambda line: None) as transaction,
          clones.making(transaction, store, [wanted], Settings())):
        pass
    with pytest.raises(Busy, match="has clones: web00"):
        adjust(store, fakes.FakeRun(), vcpus=4)
    with Transaction(fakes.host(), lambda line: None) as transaction, pytest.raises(Busy, match="web00"):
        templates.remove(transaction, store, Name("debian"))


def test_a_template_that_is_being_cloned_is_neither_thawed_nor_removed(store: Store) -> None:
    image(store)
    made = make(store)
    cloning = take_lock(layout.lock(store.world.template("debian")), shared=True)
    with pytest.raises(Busy):
        templates.thaw(store, made)
    with Transaction(fakes.host(), lambda line: None) as transaction, pytest.raises(Busy):
        templates.remove(transaction, store, Name("debian"))
    os.close(cloning)
    templates.thaw(store, made)


def test_a_guest_below_the_standard_is_told_in_its_own_words(store: Store) -> None:
    image(store)
    made = make(store)
    shell = fakes.FakeShell(answers={"debian": Ended(status=3, stdout=b"", stderr=b"python3 is missing\n")})
    machine = store.boot_template(made, Settings().network())
    with pytest.raises(CommandFailed, match="could not be prepared: python3 is missing"):
        templates.prepare(fakes.host(shell=shell), store, machine, print)


def test_a_prepared_template_keeps_no_seed_and_no_address(store: Store) -> None:
    image(store)
    made = make(store)
    host = fakes.host()
    network = Settings().network()
    machine = store.boot_template(made, network)
    assert store.boot_template(made, network) == machine
    seed.write(host, store, machine, {network.name: network})
    assert templates.finish(store, made).prepared
    assert store.reservations("default") == {}
    assert sorted(os.listdir(store.world.template("debian"))) == [
        "disk.qcow2", "maker", "ssh_key", "ssh_key.pub", "template.json"]
