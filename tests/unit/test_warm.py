"""RAM images: when they are valid, who stands on them, what vmwarm and vminstantiate make of them. Over fakes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudme import layout, warm
from cloudme.errors import Busy, CommandFailed, NotFound, PeerError, UsageError
from cloudme.formats import records
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import CloneRequest, Machine, Template
from cloudme.model.names import Name
from cloudme.model.network import DEFAULT_NETWORK
from cloudme.model.ports import Ended, Host
from cloudme.model.steps import Transaction
from cloudme.model.warm import Kind, Manifest, Stamp, mismatch
from cloudme.operations import clones, instant, warming
from cloudme.qemu import launch
from cloudme.store import Store
from tests import fakes

SETTINGS = Settings()
KIND = Kind(qemu="7.2.22", machine="pc-q35-7.2", accel="tcg", cpu="max", vcpus=2, ram_mib=640, hardware="abc")
FILES = {"ram": Stamp(size_bytes=1, mtime_ns=2)}
DATA = Path(__file__).parents[1] / "data/records"


def template(store: Store, **more: object) -> Template:
    made = dataclasses.replace(records.template(
        (DATA / "template-v2.json").read_text(encoding="utf-8"), "data"), name=Name("debian"), prepared=True, **more)  # type: ignore[arg-type]
    folder = store.world.template("debian")
    os.makedirs(folder)
    for file in (made.disk.file, "ssh_key", "ssh_key.pub"):
        Path(folder, file).write_text("x", encoding="ascii")
    store.publish_template(made)
    return made


def make(store: Store, host: Host, made: Template, *, dry_run: bool = False) -> bool:
    with Transaction(host, lambda line: None, dry_run) as transaction:
        return warming.make(transaction, store, made, SETTINGS.network(), accel="tcg", wait=lambda machine: None,
                            say=lambda line: None)


def instantiate(store: Store, host: Host, count: int = 1) -> list[Machine]:
    request = CloneRequest(template=Name("debian"), count=count, group=Name("g"), type=Name("t"), prefix=Name("web"))
    base = os.path.relpath(store.world.warm("debian"), store.world.data)

    def based(machine: Machine) -> Machine:
        return dataclasses.replace(machine, bases=(base,))

    with (Transaction(host, lambda line: None) as transaction,
          clones.making(transaction, store, [request], SETTINGS, based) as machines):
        assert store.machines() == []  # nobody sees them before they are themselves
        instant.start(transaction, store, machines, SETTINGS, accel="tcg")
    return machines


@pytest.mark.parametrize(("change", "words"), [
    ({}, None),
    ({"qemu": "7.2.23"}, "QEMU is 7.2.23, it was made with 7.2.22"),
    ({"accel": "kvm"}, "it was made under tcg, this is kvm"),
    ({"cpu": "other"}, "the CPU is 'other', was 'max'"),
    ({"vcpus": 3}, "3 CPUs are wanted, it has 2"),
    ({"ram_mib": 700}, "700 MiB of memory are wanted, it has 640"),
    ({"hardware": "def"}, "the machine's hardware is another one"),
])
def test_an_image_fits_its_own_kind_only(change: dict[str, object], words: str | None) -> None:
    manifest = Manifest(kind=KIND, files=FILES, created="now")
    assert mismatch(manifest, dataclasses.replace(KIND, **change), FILES) == words  # type: ignore[arg-type]


def test_an_image_whose_files_changed_or_went_does_not_fit() -> None:
    manifest = Manifest(kind=KIND, files=FILES, created="now")
    assert mismatch(manifest, KIND, {}) == "its file 'ram' is gone"
    assert mismatch(manifest, KIND, {"ram": Stamp(size_bytes=1, mtime_ns=3)}) == \
        "its file 'ram' was changed after it was made"


def test_what_is_saved_and_what_is_cloned_have_the_same_hardware() -> None:
    machine = records.machine((DATA / "machine-v2.json").read_text(encoding="utf-8"), "data")
    place = launch.Place(folder="/m", run="/r", accel="tcg", networks={DEFAULT_NETWORK: Settings().network()})
    saved = launch.of(dataclasses.replace(machine, nics=()), place, launch.Ram(path="/a", qemu="7.2.22", use="boot"))
    cloned = launch.of(machine, place, launch.Ram(path="/b", qemu="7.2.22", use="clone"))
    assert launch.fingerprint(saved) == launch.fingerprint(cloned)
    assert saved.machine == "pc-q35-7.2" and not saved.incoming and cloned.incoming
    assert [part.props["id"] for part in cloned.plugged] == ["nic0"]
    assert next(part.props["share"] for part in saved.parts if part.props.get("id") == "ram0") is True
    assert next(part.props["share"] for part in cloned.parts if part.props.get("id") == "ram0") is False
    others = [dataclasses.replace(machine, disks=machine.disks * 2),
              dataclasses.replace(machine, shape=dataclasses.replace(machine.shape, ram_mib=64))]
    for other in others:
        assert launch.fingerprint(launch.of(other, place, launch.Ram(path="/b", qemu="7.2.22", use="clone"))) != \
            launch.fingerprint(cloned)
    fork = launch.of(machine, place, launch.Ram(path="/b", qemu="7.2.22", use="clone", cards=machine.nics))
    assert [tap.bridge for tap in fork.taps] == ["bridge0", None]  # the old card leads nowhere
    keeper = launch.of(machine, place, launch.Ram(path="/b", qemu="7.2.22", use="receive"))
    assert not any("disk" in str(part.props.get("filename", "")) for part in keeper.parts)  # and opens no disk


def test_an_image_is_made_once_and_clones_stand_on_it(store: Store) -> None:
    host = fakes.host()
    made = template(store)
    assert make(store, host, made) and not make(store, host, made)
    folder = store.world.warm("debian")
    assert warm.why_not(host, folder, warming.machine_of(made), "tcg") is None
    (machine,) = instantiate(store, host)
    assert store.machine("web00") == machine and machine.bases == ("templates/debian/warm",)
    assert store.standing_on(folder) == ["web00"]
    assert isinstance(host.agent, fakes.FakeAgent)
    (told,) = host.agent.told
    assert told["name"] == "web00" and told["fqdn"] == "web00.cloudme" and len(told["machine_id"]) == 32
    with pytest.raises(Busy, match="web00"), Transaction(host, lambda line: None) as transaction:
        warming.drop(transaction, store, made)
    (image,) = warming.listed(host, store, "tcg")
    assert image.clones == ["web00"] and image.why_not is None


def test_a_dry_run_makes_nothing(store: Store) -> None:
    assert make(store, fakes.host(), template(store), dry_run=True)
    assert not os.path.exists(store.world.warm("debian"))


def test_an_image_is_dropped(store: Store) -> None:
    host = fakes.host()
    made = template(store)
    make(store, host, made)
    with Transaction(host, lambda line: None) as transaction:
        warming.drop(transaction, store, made)
    assert not os.path.exists(store.world.warm("debian"))
    with pytest.raises(NotFound, match="has no RAM image"), Transaction(host, lambda line: None) as transaction:
        warming.drop(transaction, store, made)


def test_a_guest_that_cannot_be_scrubbed_is_refused_with_its_words(store: Store) -> None:
    host = fakes.host(agent=fakes.FakeAgent(ended={
        "is-system-running": Ended(status=3, stdout=b"", stderr=b"its init is not systemd\n")}))
    with pytest.raises(CommandFailed, match="its init is not systemd"):
        make(store, host, template(store))
    assert not os.path.exists(store.world.warm("debian"))


@pytest.mark.parametrize("change", [
    lambda it: dataclasses.replace(it, access=dataclasses.replace(it.access, seeded=False)),
    lambda it: dataclasses.replace(it, prepared=False),
])
def test_a_template_of_another_kind_is_refused(store: Store, change: Callable[[Template], Template]) -> None:
    with pytest.raises(UsageError):
        make(store, fakes.host(), change(template(store)))


def test_a_guest_that_cannot_become_itself_leaves_nothing(store: Store) -> None:
    host = fakes.host()
    make(store, host, template(store))
    deaf = dataclasses.replace(host, agent=fakes.FakeAgent(refuses="no room"))
    with pytest.raises(PeerError, match="could not become itself: no room"):
        instantiate(store, deaf)
    assert store.machines() == [] and not os.path.exists(store.world.machine("web00"))


def test_what_a_killed_vmwarm_left_is_replaced(store: Store) -> None:
    host = fakes.host()
    made = template(store)
    os.makedirs(store.world.warm("debian"))
    Path(store.world.warm("debian"), layout.RAM).write_text("half", encoding="ascii")
    assert warm.manifest(store.world.warm("debian")) is None
    assert make(store, host, made) and warm.manifest(store.world.warm("debian"))
