"""Shares: read, made, changed, told; what QEMU, virtiofsd and the guest are told of them."""

from __future__ import annotations

import dataclasses
import itertools
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml

from cloudme import folders, layout, warm
from cloudme.errors import AlreadyExists, CommandFailed, HostUnavailable, NotFound, NotPermitted, UsageError
from cloudme.formats import seeds
from cloudme.layout import World
from cloudme.model import share
from cloudme.model.hostconfig import Settings
from cloudme.model.launch import Folder, Part
from cloudme.model.machine import CloneRequest, Kernel, Machine
from cloudme.model.names import Name
from cloudme.model.ports import Ended, Host
from cloudme.model.share import Share
from cloudme.model.steps import Transaction
from cloudme.operations import checks, clones, forks, instant, power, sharing
from cloudme.operations.checks.look import Look
from cloudme.qemu import files, hardware, launch, virtiofs
from cloudme.store import Store, take_lock
from tests import fakes
from tests.conftest import Ended as Told
from tests.unit.test_launch import argv
from tests.unit.test_vmrunning import machine
from tests.unit.test_warm import make, template

SETTINGS = Settings()
DATA = Share(source="/srv/a, b", mount_point="/srv/data", tag="srv-data")
WWW = Share(source="/srv/www", mount_point="/var/www", tag="www", readonly=True)
WORLD = World(data="/nowhere", run="/nowhere/run", config="/nowhere/config")
PLACE = launch.Place(folder="/data/machines/web00", run="/run/cloudme/web00", accel="tcg",
                     networks={Name("default"): SETTINGS.network()})


@pytest.mark.parametrize(("text", "found"), [
    ("/srv/a, b:/srv/data", DATA),
    ("/srv/a, b:/srv/data/", DATA),
    ("/srv/www:/var/www:ro,tag=www", WWW),
    ("/s:/var/lib/data-of-a-service/with-a-long-name", Share(
        source="/s", mount_point="/var/lib/data-of-a-service/with-a-long-name", tag="var-lib-data-of-a-service-a00fa")),
    ("/srv/x:/x:owner=root:kvm,mode=0750", Share(source="/srv/x", mount_point="/x", tag="x", owner="root:kvm",
                                                 mode=0o750)),
])
def test_a_share_is_read_as_it_is_written(text: str, found: Share) -> None:
    assert share.parsed(text) == found


@pytest.mark.parametrize("text", [
    "", "/srv", "/srv:", ":/srv", "srv:/srv", "/srv:srv", "/srv:/", "/srv/../etc:/srv", "/srv/:/x", "/srv:/a b",
    "/srv:/a,b", "/srv:/a:rw", "/srv:/a:mode=9", "/srv:/a:mode=07777", "/srv:/a:owner=", "/srv:/a:owner=a:b:c",
    "/srv:/a:tag=a b", "/srv:/a:tag=" + "a" * 32, "/srv:/a;reboot", "/srv:/$(x)", "/a\nb:/x", "/srv:/../x",
])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        share.parsed(text)


def test_a_share_that_is_given_no_tag_keeps_the_one_that_it_has(command: Callable[..., Told]) -> None:
    there = Share(source="/s", mount_point="/srv/some/very/long/place/for/all/of/it",
                  tag="e-very-long-place-for-all-of-it")
    store = Store(layout.world())
    os.makedirs(store.world.machine("web00"))
    store.publish(dataclasses.replace(machine("web00"), shares=(DATA, there)))
    text = f"/s:{there.mount_point}"
    assert "so already" in command("vmupdate", "web00", "--share", text, "--dry-run").stderr
    assert share.parsed(f"{text}/:ro", [DATA, there]) == dataclasses.replace(there, readonly=True)
    assert share.parsed(f"{text}:tag=it", [there]).tag == "it"


def test_shares_are_added_replaced_and_taken_away() -> None:
    other = dataclasses.replace(WWW, mount_point=DATA.mount_point)
    assert share.changed((DATA,), [WWW], []) == (DATA, WWW)
    assert share.changed((DATA,), [other], []) == (other,)
    assert share.changed((DATA, WWW), [], ["www", "/srv/data"]) == ()
    with pytest.raises(UsageError, match="no share 'x'"):
        share.changed((DATA,), [], ["x"])
    with pytest.raises(AlreadyExists, match="two shares have 'www'"):
        share.changed((WWW,), [dataclasses.replace(WWW, mount_point="/x")], [])
    with pytest.raises(UsageError, match="9 shares"):
        share.apart([Share(source="/s", mount_point=f"/{n}", tag=str(n)) for n in range(9)])


# what QEMU and virtiofsd are told

def shared(**more: object) -> Machine:
    return dataclasses.replace(machine("web00"), shares=(DATA, WWW), **more)  # type: ignore[arg-type]


def test_virtiofsd_gets_the_memory_and_qemu_a_socket_that_is_connected() -> None:
    made = launch.of(shared(), PLACE)
    line = argv(made)
    fds = dict(zip(launch.roles(made), itertools.count(10), strict=False))
    assert f"socket,id=fs0,fd={fds['fs0']}" in line and f"socket,id=fs1,fd={fds['fs1']}" in line
    (memory,) = [part.props for part in made.parts if part.props.get("id") == "ram0"]
    assert (memory["qom-type"], memory["share"]) == ("memory-backend-memfd", True)
    devices = [part.props for part in made.parts if part.props.get("driver") == "vhost-user-fs-pci"]
    assert [(device["tag"], device["addr"]) for device in devices] == [("srv-data", "0xb.0"), ("www", "0xb.1")]
    assert files.reach(made, "/qemu", "/own").trees == () and "/srv/a, b" not in " ".join(line)


def test_without_virtiofsd_qemu_serves_9p_and_reaches_the_folders_and_no_more() -> None:
    made = launch.of(shared(), dataclasses.replace(PLACE, virtiofs=False))
    line = argv(made)
    fds = dict(zip(launch.roles(made), itertools.count(10), strict=False))
    assert (f"local,id=fs1,path=/proc/self/fd/{fds['fs1']},security_model=none,multidevs=remap,readonly=on") in line
    assert not any("memfd" in word or "/srv/a" in word for word in line)
    reach = files.reach(made, "/qemu", "/own")
    assert reach.trees == ("/srv/a, b",) and "/srv/www" in reach.readable


@pytest.mark.parametrize("virtiofsd", [True, False])
def test_a_clone_gets_its_shares_later_all_in_one_slot_the_first_one_last(virtiofsd: bool) -> None:
    place = dataclasses.replace(PLACE, virtiofs=virtiofsd)
    ram = launch.Ram(path="/ram", qemu="7.2.22", use="clone")
    made, plain = launch.of(shared(), place, ram), launch.of(machine("web00"), place, ram)
    assert launch.fingerprint(made) == launch.fingerprint(plain)
    assert [part.props["id"] for part in made.plugged] == ["share1", "share0", "nic0"]
    assert [part.props["addr"] for part in made.plugged[:2]] == ["0x0.1", "0x0.0"]
    (memory,) = [part.props for part in made.parts if part.props.get("id") == "ram0"]
    assert (made.copies, memory["share"]) == (virtiofsd, virtiofsd)  # who shares its memory has a copy of its own
    assert ("/ram" in files.reach(made, "/qemu", "/own").writable) is not virtiofsd


FOLDER = Folder(role="fs0", tag="www", source="/srv/a, b\\c", readonly=True, lock="/l", log="/o")


def test_qemus_own_virtiofsd_is_in_a_chroot_without_capabilities_for_devices() -> None:
    program = virtiofs.Program(path="/usr/lib/qemu/virtiofsd", old=True, uid=0, gid=0)
    line = program.argv(FOLDER, 7)
    assert program.serves and "--fd=7" in line
    assert {"source=/srv/a\\, b\\\\c", "sandbox=chroot", "modcaps=-mknod:-setfcap"} <= set(line)
    assert not dataclasses.replace(program, uid=1000).serves
    assert virtiofs.is_old("virtiofsd version 7.2.22\nusing FUSE kernel interface version 7.36")


@pytest.mark.parametrize(("uid", "sandbox"), [(0, "chroot"), (1000, "none")])
def test_the_newer_virtiofsd_serves_ordinary_users_too(uid: int, sandbox: str) -> None:
    old = virtiofs.is_old("virtiofsd 1.13.0")
    program = virtiofs.Program(path="/usr/libexec/virtiofsd", old=old, uid=uid, gid=100)
    line = program.argv(FOLDER, 7)
    assert program.serves and {"--shared-dir=/srv/a, b\\c", f"--sandbox={sandbox}", "--readonly", "--fd=7"} <= set(line)
    assert ("--modcaps=-mknod:-setfcap" in line) is (uid == 0)
    assert ("--translate-uid=squash-guest:0:1000:4294967295" in line) is (uid != 0)


# what the guest is told

def told(store: Store, made: Machine) -> list[list[str]]:
    keys = seeds.Keys(public="ssh-ed25519 K\n", host_private="P\n", host_public="ssh-ed25519 H")
    found = seeds.files(made, keys, {Name("default"): SETTINGS.network()}, config=store.world.config)
    return yaml.safe_load(found["user-data"]).get("bootcmd", [])  # type: ignore[no-any-return]


def test_the_seed_mounts_shares_at_each_boot_and_forgets_those_of_an_older_one(store: Store) -> None:
    ((_, _, script, *words),) = told(store, shared())
    assert script == Path(layout.text_templates(), "mount.sh").read_text(encoding="utf-8")
    assert words == ["mount.sh", "0", "srv-data", "/srv/data", "rw", "www", "/var/www", "ro"]
    assert told(store, machine("web00")) == []
    ((*_, script, zero),) = told(store, dataclasses.replace(machine("web00"), seed_id="x"))
    assert (script, zero) == ("mount.sh", "0")
    user = dataclasses.replace(shared(), access=dataclasses.replace(machine("web00").access, user="debian"))
    assert [words[0] for words in told(store, user)] == ["cloud-init-per", "sh"]


# folders, records, starts

def test_a_missing_folder_is_made_where_somebody_says_whose_it_is_and_unmade(tmp_path: Path) -> None:
    source = tmp_path / "deep/data"
    one = dataclasses.replace(DATA, source=str(source), mode=0o2750 & 0o777, owner=f"{os.getuid()}:{os.getgid()}")
    steps = folders.making(WORLD, [one, one])
    assert [step.describe() for step in steps] == [f"make the folder {source}, mode 0750"]
    with pytest.raises(RuntimeError), Transaction(fakes.host(), print) as transaction:
        transaction.apply(steps)
        assert stat.S_IMODE(source.stat().st_mode) == 0o750
        raise RuntimeError
    assert not source.exists()
    source.mkdir()
    assert folders.making(WORLD, [one]) == []


def test_a_folder_that_is_missing_is_refused_and_so_is_what_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotFound, match="no folder"):
        folders.making(WORLD, [dataclasses.replace(DATA, source=str(tmp_path / "x"))])
    with pytest.raises(UsageError, match="is no folder"):
        folders.making(WORLD, [dataclasses.replace(DATA, source=str(tmp_path / "file"), mode=0o700)])
    with pytest.raises(NotFound, match="no user 'nobody-here'"):
        folders.making(WORLD, [dataclasses.replace(DATA, source=str(tmp_path / "x"), owner="nobody-here")])


def test_what_goes_with_a_machine_is_not_shared(store: Store, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.symlink_to(store.world.machines)
    for source in (store.world.machine("web00"), store.world.run, store.world.forks, str(mine / "web00/data")):
        with pytest.raises(UsageError, match="cloudMe's own"):
            folders.making(store.world, [dataclasses.replace(DATA, source=source, mode=0o700)])
    beside = dataclasses.replace(DATA, source=f"{store.world.machines}2", mode=0o700)
    assert len(folders.making(store.world, [beside])) == 1


def test_what_is_within_what_a_guest_may_change_is_not_shared_again(store: Store, tmp_path: Path) -> None:
    outer, inner = (dataclasses.replace(DATA, source=str(tmp_path / path), mount_point=f"/{path}", tag=path[-1])
                    for path in ("a", "a/b"))
    os.makedirs(inner.source)
    os.symlink("/etc", f"{outer.source}/out")
    out = dataclasses.replace(inner, source=f"{outer.source}/out")
    for pair in ([outer, inner], [inner, outer], [outer, out]):
        with pytest.raises(UsageError, match="is within"):
            folders.making(store.world, pair)
    safe = dataclasses.replace(outer, readonly=True)
    assert folders.making(store.world, [safe, inner]) == folders.making(store.world, [outer, outer]) == []
    whose = dataclasses.replace(machine("web09"), shares=(outer,))
    os.makedirs(store.folder(whose))
    store.publish(whose)
    with pytest.raises(UsageError, match="is within"):
        folders.making(store.world, [inner])
    assert folders.making(store.world, [inner], of=dataclasses.replace(whose, shares=(inner,))) == []


@pytest.fixture
def web00(store: Store, tmp_path: Path) -> Machine:
    (tmp_path / "data").mkdir()
    made = dataclasses.replace(machine("web00"), shares=(dataclasses.replace(DATA, source=str(tmp_path / "data")),))
    os.makedirs(store.world.machine("web00"))
    Path(store.world.machine("web00"), made.disks[0].file).write_text("qcow2")
    store.publish(made)
    return made


def hosted(**more: object) -> Host:
    return fakes.host(net=fakes.FakeNet(bridges={"bridge0"}), **more)


def start(store: Store, host: Host, made: Machine) -> None:
    with Transaction(host, print) as transaction:
        power.start(transaction, store, [made], SETTINGS)


def test_a_machine_whose_folder_is_gone_is_not_started(store: Store, web00: Machine) -> None:
    os.rmdir(web00.shares[0].source)
    with pytest.raises(NotFound, match="no folder") as caught:
        start(store, hosted(), web00)
    assert caught.value.hint == "vmupdate web00 --no-share srv-data"


def test_a_folder_that_9p_could_not_use_is_refused(store: Store, web00: Machine) -> None:
    host = hosted(qemu=fakes.FakeHypervisor(virtiofsd=False),
                  files=fakes.FakeFiles(closed={web00.shares[0].source}))
    with pytest.raises(NotPermitted, match="without virtiofsd"):
        start(store, host, web00)


def test_what_has_ended_is_down_as_long_as_the_machine_runs(store: Store, web00: Machine) -> None:
    host = hosted()
    start(store, host, web00)
    lock = layout.share(store.run_folder(web00), "srv-data")
    assert folders.down(store, web00) == []  # it is 9p's
    os.makedirs(os.path.dirname(lock), exist_ok=True)
    fd = take_lock(lock)
    look = Look(host, store.world, (), root=True)
    assert folders.down(store, web00) == []
    assert [result.level for result in checks.all_of(look, ["shares"])] == ["ok"]
    os.close(fd)
    assert folders.down(store, web00) == list(web00.shares)
    _, failed = checks.all_of(look, ["shares"])
    assert (failed.level, failed.fix) == ("failed", "vmrestart web00")
    host.qemu.kill(layout.lock(store.folder(web00)))
    assert folders.down(store, web00) == []


def test_an_update_writes_record_and_seed_and_is_undone(store: Store, web00: Machine) -> None:
    assert sharing.changed(web00, web00.shares, []) is web00
    new = sharing.changed(web00, [], ["srv-data"])
    os.makedirs(store.world.template("debian"))
    Path(store.world.template("debian"), "ssh_key.pub").write_text("ssh-ed25519 K\n")
    assert new.shares == () and new.seed_id not in (None, web00.seed_id)
    with pytest.raises(RuntimeError), Transaction(hosted(), print) as transaction:
        sharing.update(transaction, store, web00, new, SETTINGS)
        assert store.machine("web00") == new
        raise RuntimeError
    assert store.machine("web00") == web00


def test_a_machine_with_shares_is_not_forked(store: Store, web00: Machine) -> None:
    host = hosted()
    start(store, host, web00)
    with pytest.raises(HostUnavailable, match="it has shares"):
        forks.check(host, store, web00)
    host.qemu.kill(layout.lock(store.folder(web00)))


def instantiate(store: Store, host: Host, one: Share) -> list[Machine]:
    request = CloneRequest(template=Name("debian"), count=1, group=Name("g"), type=Name("t"), prefix=Name("web"),
                           shares=(one,))
    base = os.path.relpath(store.world.warm("debian"), store.world.data)

    def based(made: Machine) -> Machine:
        return dataclasses.replace(made, bases=(base,))

    with (Transaction(host, lambda line: None) as transaction,
          clones.making(transaction, store, [request], SETTINGS, based) as machines):
        instant.start(transaction, store, machines, SETTINGS, accel="tcg")
    return machines


def test_a_clone_of_memory_mounts_by_its_agent_and_is_undone_where_it_cannot(store: Store, tmp_path: Path) -> None:
    agent = fakes.FakeAgent()
    host = fakes.host(agent=agent)
    make(store, host, template(store))
    assert warm.why_not(host, store.world.warm("debian"), shared(shape=store.template("debian").shape), "tcg") is None
    one = dataclasses.replace(DATA, source=str(tmp_path / "new"), mode=0o750)
    (made,) = instantiate(store, host, one)
    assert made.shares == (one,) and (tmp_path / "new").is_dir()
    assert agent.ran[-1][-3:] == ["srv-data", "/srv/data", "rw"]
    host.qemu.kill(layout.lock(store.folder(made)))
    agent.ended["nofail"] = Ended(status=4, stdout=b"", stderr=b"mount: unknown filesystem type '9p'\n")
    with pytest.raises(CommandFailed, match="unknown filesystem type"):
        instantiate(store, host, dataclasses.replace(one, source=str(tmp_path / "beside")))
    assert store.machines() == [made]


# who is in which slot

def slots(parts: Iterable[Part]) -> list[str]:
    """Each place on a bus of PCI, as 'pcie.0 0x6.0'; that of a root port alone is its first one."""
    found = [part.props for part in parts if part.option == "device"
             and (part.props.get("bus") == "pcie.0" or part.props.get("bus") in hardware.ROOT_PORTS)]
    return [f"{props['bus']} {addr if '.' in addr else addr + '.0'}" for props in found
            for addr in [str(props.get("addr", "0x0"))]]


@pytest.mark.parametrize("cards", range(5))
@pytest.mark.parametrize("virtiofsd", [True, False])
@pytest.mark.parametrize("kind", ["q35", "microvm", "clone"])
def test_no_slot_is_used_twice(kind: str, virtiofsd: bool, cards: int) -> None:
    (nic,) = machine("web00").nics
    shares = tuple(Share(source="/s", mount_point=f"/{n}", tag=str(n)) for n in range(share.SHARES_MAX))
    own = dataclasses.replace(machine("web00"), nics=(nic,) * cards, shares=shares, vsock_cid=42)
    if kind == "clone" and cards == len(hardware.ROOT_PORTS):
        return  # it boots
    if kind == "microvm":
        own = dataclasses.replace(own, board=kind, kernel=Kernel(cmdline=""))
    ram = launch.Ram(path="/ram", qemu="7.2.22", use="clone") if kind == "clone" else None
    made = launch.of(own, dataclasses.replace(PLACE, virtiofs=virtiofsd), ram)
    used = slots([*made.parts, *made.plugged])
    assert sorted(set(used)) == sorted(used) and len([role for role in launch.roles(made) if role[:2] == "fs"]) == 8
    ids = [part.props.get("id") for part in made.parts]
    assert ("balloon" in ids) is (kind != "clone" and cards < len(hardware.ROOT_PORTS))
    assert ("vsock" in ids) is (kind != "clone")
