"""Volumes as real users find them: what root gives away, what it refuses, and tricks."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudme.errors import Busy, CloudMeError, ConfigError, NotFound, NotPermitted
from cloudme.host import confine, vfio
from cloudme.host.files import Below
from cloudme.layout import World
from cloudme.model import identity
from cloudme.model.steps import Transaction
from cloudme.operations import preparing
from cloudme.operations.preparing import paths
from tests import fakes
from tests.unit.test_definitions import ID, Machina

pytestmark = [pytest.mark.contract, pytest.mark.skipif(
    os.geteuid() != 0 or not confine.foreign(identity.UID_MIN), reason="needs root, to become somebody")]

UID, OTHER = identity.uid(ID), identity.UID_MIN + 7
ALICE = 4711
FW = {"code": {"name": "OVMF_CODE", "storage": "fw"}, "vars": {"name": "vars", "storage": "own"}}


class Site:
    """Machine 'vm' and its disks, in a folder that everybody may pass."""

    def __init__(self, home: Path) -> None:
        home.chmod(0o755)
        self.home = home
        self.disks = home / "disks"
        self.disks.mkdir()
        self.machina = Machina(home)
        self.qemu = fakes.FakeHypervisor()
        self.host = fakes.host(qemu=self.qemu, files=Below())
        self.world = World(data=str(home), run=str(home / "run"), config=str(home))
        pool = {"path": str(self.disks), "pattern": "${volume}"}
        self.machina.host({"accelerator": "tcg", "storage": {
            "raw": pool | {"type": "raw"}, "qcow2": pool | {"type": "qcow2"},
            "qcow2-block": pool | {"type": "qcow2-block"}, "iso": pool | {"type": "iso-scsi"},
            "own": pool | {"type": "firmware"}, "fw": pool | {"type": "firmware", "readonly": True,
                                                              "pattern": "${volume}.fd"},
            "folder": pool | {"type": "vvfat-block"}, "tpm": pool | {"type": "tpm-data"}}})

    def define(self, *volumes: tuple[str, str], **attrs: Any) -> None:
        self.machina.machine("vm", {"attrs": {"memory": {"ram": 64}, **attrs}, "volumes": [
            {"name": name, "storage": storage} for name, storage in volumes]})

    def file(self, name: str, *, owner: int = 0, mode: int = 0o644, content: bytes = b"\0" * 512) -> Path:
        path = self.disks / name
        path.write_bytes(content)
        os.chown(path, owner, owner)
        path.chmod(mode)
        return path

    def prepare(self) -> list[str]:
        site = self.machina.read()
        steps = preparing.plan(self.host, self.world, site.pick(["vm"]), site.host)
        with Transaction(self.host, lambda line: None) as transaction:
            transaction.apply(steps)
        return [step.describe() for step in steps]

    def refused(self, kind: type[CloudMeError]) -> str:
        with pytest.raises(kind) as told:
            self.prepare()
        return f"{told.value.message}\n{told.value.hint}"


@pytest.fixture
def site(home: Path) -> Iterator[Site]:
    yield Site(home)


def owner(path: Path) -> tuple[int, int, int]:
    state = os.lstat(path)
    return state.st_uid, state.st_gid, stat.S_IMODE(state.st_mode)


@pytest.mark.parametrize("before", [0, OTHER])
def test_a_disk_of_roots_or_of_a_machine_that_is_off_becomes_the_machines_own(site: Site, before: int) -> None:
    path = site.file("os", owner=before)
    site.define(("os", "raw"))
    assert site.prepare() == [f"give {path} to the user machina-vm ({UID})"]
    assert owner(path) == (UID, UID, 0o600)
    assert site.prepare() == []


def test_its_own_disk_stays_as_it_is_and_is_made_writable_for_it(site: Site) -> None:
    path = site.file("os", owner=UID, mode=0o640)
    site.define(("os", "raw"))
    assert site.prepare() == [] and owner(path) == (UID, UID, 0o640)
    path.chmod(0o200)
    site.prepare()
    assert owner(path) == (UID, UID, 0o600)


def test_others_disks_are_refused_with_what_would_permit_it(site: Site) -> None:
    path = site.file("os", owner=ALICE)
    site.define(("os", "raw"))
    assert f"belongs to the user {ALICE}" in site.refused(NotPermitted) and owner(path) == (ALICE, ALICE, 0o644)
    assert f"chown root {path}" in site.refused(NotPermitted)
    os.chown(path, OTHER, OTHER)
    site.qemu.alive.add(OTHER)
    assert "another machine, which runs" in site.refused(Busy)
    os.chown(path, 0, 0)
    os.link(path, site.home / "second")
    assert "2 names (hard links)" in site.refused(NotPermitted)
    (site.home / "second").unlink()
    path.chmod(0o444)
    assert "write-protected" in site.refused(NotPermitted) and owner(path)[0] == 0
    path.unlink()
    os.mkfifo(path)
    site.refused(ConfigError)


def test_a_group_that_the_definition_names_may_own_its_disks(site: Site) -> None:
    path = site.file("os", mode=0o660)
    os.chown(path, 0, 5555)
    site.machina.machine("vm", {"attrs": {"memory": {"ram": 64}}, "volumes": [{"name": "os", "storage": "raw"}],
                                "privileges": {"filesystem": {"group": {"name": "disks", "id": 5555}}}})
    assert site.prepare() == []
    path.chmod(0o600)
    site.prepare()
    assert owner(path) == (UID, 5555, 0o600)


def test_a_group_of_the_systems_is_the_hosts_to_give(site: Site) -> None:
    group: dict[str, Any] = {"filesystem": {"group": {"name": "disk"}}}
    more = {"attrs": {"memory": {"ram": 64}}}
    site.machina.machine("vm", {**more, "privileges": group})
    assert "'disk' is a group of the system's" in site.refused(NotPermitted)
    site.machina.machine("vm", {**more, "privileges": {"filesystem": {"group": {"name": "mine", "id": 6}}}})
    site.refused(NotPermitted)
    site.machina.host({"accelerator": "tcg", "tag": {"t": {"privileges": group}}})
    site.machina.machine("vm", {**more, "tags": ["t"]})
    assert site.prepare() == []


def test_all_volumes_that_are_missing_are_named_at_once(site: Site) -> None:
    site.define(("a", "raw"), ("b", "iso"))
    said = site.refused(NotFound)
    assert f"volume 'a': there is no {site.disks}/a" in said and f"volume 'b': there is no {site.disks}/b" in said


def test_what_is_read_only_has_to_be_readable(site: Site) -> None:
    path = site.file("iso", mode=0o640)
    site.define(("iso", "iso"))
    assert f"chmod o+r {path}" in site.refused(NotPermitted)
    path.chmod(0o644)
    site.disks.chmod(0o700)
    assert f"chmod o+x {site.disks}" in site.refused(NotPermitted)
    site.disks.chmod(0o711)
    assert site.prepare() == [] and owner(path) == (0, 0, 0o644)


def test_what_root_has_for_itself_alone_the_machine_may_read(site: Site) -> None:
    """As the cloud-init disk of a machine of ours: private keys are on it, and nobody else is to read them."""
    path = site.file("iso", mode=0o400)
    site.define(("iso", "iso"))
    assert site.prepare() == [f"let the user machina-vm ({UID}) read {path}"]
    assert owner(path) == (0, UID, 0o440)
    assert site.prepare() == []
    os.chown(path, ALICE, ALICE)
    path.chmod(0o600)
    site.refused(NotPermitted)
    os.chown(path, 0, 0)
    os.link(path, site.home / "second")
    site.refused(NotPermitted)
    assert owner(path) == (0, 0, 0o600)


def test_a_folder_that_is_closed_is_told_for_disks_too(site: Site) -> None:
    site.file("os")
    site.define(("os", "raw"))
    site.disks.chmod(0o700)
    assert f"chmod o+x {site.disks}" in site.refused(NotPermitted)


@pytest.mark.parametrize("kind", ["qcow2", "qcow2-block"])
def test_what_a_disk_stands_on_is_readable_and_not_given_away(site: Site, kind: str) -> None:
    base, middle, top = site.file("base"), site.disks / "middle", site.disks / "os"
    for path, below in ((middle, "base"), (top, "middle")):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", below, "-F",
                        "raw" if below == "base" else "qcow2", str(path), "1M"], check=True)
    site.define(("os", kind))
    base.chmod(0o600)
    assert f"chmod o+r {base}" in site.refused(NotPermitted)
    base.chmod(0o644)
    site.prepare()
    assert owner(top)[0] == UID and owner(middle)[0] == owner(base)[0] == 0
    base.unlink()
    assert f"stands on {base}" in site.refused(NotFound)


# tricks

def test_a_link_that_the_machines_user_could_have_made_is_not_followed(site: Site) -> None:
    """The machine's user has put a link to root's file in the place of its disk."""
    precious = site.file("precious", mode=0o600)
    own = site.disks / "own"
    own.mkdir()
    os.chown(own, UID, UID)
    (own / "os").symlink_to(precious)
    site.define(("own/os", "raw"))
    assert "is not root's alone" in site.refused(NotPermitted)
    for mode, uid in ((0o777, 0), (0o775, ALICE), (0o1777, 0)):
        os.chown(own, uid, UID)
        own.chmod(mode)
        site.refused(NotPermitted)
    assert owner(precious) == (0, 0, 0o600)


def test_a_link_that_root_alone_can_have_made_is_followed(site: Site) -> None:
    path = site.file("zd0")
    (site.disks / "by-name").mkdir()
    (site.disks / "by-name/os").symlink_to("../zd0")
    (site.disks / "os").symlink_to(site.disks / "by-name/os")
    site.define(("os", "raw"))
    site.prepare()
    assert owner(path)[0] == UID
    (site.disks / "zd0").unlink()
    (site.disks / "zd0").symlink_to("os")
    with pytest.raises(NotPermitted, match="a link that is not followed"), \
            paths.opened(str(site.disks / "os"), UID, UID):
        pass


def test_a_disk_that_is_replaced_between_look_and_change_is_not_given(site: Site) -> None:
    path = site.file("os")
    site.define(("os", "raw"))
    read = site.machina.read()
    (step,) = preparing.plan(site.host, site.world, read.pick(["vm"]), read.host)
    other = site.file("other")
    other.rename(path)
    with pytest.raises(Busy, match="replaced"), Transaction(site.host, lambda line: None) as transaction:
        transaction.apply([step])
    assert owner(path) == (0, 0, 0o644)


def test_a_disk_of_two_machines_is_given_to_one(site: Site) -> None:
    path = site.file("os")
    site.define(("os", "raw"))
    site.machina.machine("two", {"id": "00000000-0000-0000-0000-000000000001", "attrs": {"memory": {"ram": 64}},
                                 "volumes": [{"name": "os", "storage": "raw"}]})
    read = site.machina.read()
    with pytest.raises(Busy, match="given to another"), Transaction(site.host, lambda line: None) as transaction:
        transaction.apply(preparing.plan(site.host, site.world, read.pick(), read.host))
    assert owner(path) == (0, 0, 0o644)


def test_a_failure_later_on_takes_the_disk_back(site: Site) -> None:
    path = site.file("os", mode=0o640)
    site.define(("os", "raw"))
    read = site.machina.read()
    with pytest.raises(KeyboardInterrupt), Transaction(site.host, lambda line: None) as transaction:
        transaction.apply(preparing.plan(site.host, site.world, read.pick(["vm"]), read.host))
        raise KeyboardInterrupt
    assert owner(path) == (0, 0, 0o640)


# firmware

def test_variables_are_made_once_from_what_belongs_to_the_code(site: Site) -> None:
    site.file("OVMF_CODE.fd")
    template = site.file("OVMF_VARS.fd", content=b"template")
    site.define(firmware=FW)
    variables = site.disks / "vars"
    assert site.prepare() == [f"make {variables} from {template}"]
    assert variables.read_bytes() == b"template" and owner(variables) == (UID, UID, 0o600)
    variables.write_bytes(b"its own!")
    assert site.prepare() == [] and variables.read_bytes() == b"its own!"
    assert sorted(path.name for path in site.disks.iterdir()) == ["OVMF_CODE.fd", "OVMF_VARS.fd", "vars"]


def test_a_template_that_is_named_wins_and_a_descriptor_fills_in(site: Site) -> None:
    code = site.file("OVMF_CODE.fd")
    template, named = site.file("other.fd", content=b"described"), site.file("named.fd", content=b"named....")
    files = fakes.FakeFiles(texts={"/usr/share/qemu/firmware/60-x.json": f"""{{"mapping": {{
        "executable": {{"filename": "{code}"}}, "nvram-template": {{"filename": "{template}"}}}}}}"""})
    site.host = fakes.host(qemu=site.qemu, files=files)
    site.define(firmware=FW)
    site.prepare()
    assert (site.disks / "vars").read_bytes() == b"described"
    (site.disks / "vars").unlink()
    site.define(firmware=FW | {"template": {"name": "named", "storage": "fw"}})
    site.prepare()
    assert (site.disks / "vars").read_bytes() == b"named...."
    named.write_bytes(b"too short")
    (site.disks / "vars").write_bytes(b"short")
    assert "do not belong together" in site.refused(ConfigError)


def test_without_a_template_there_are_no_variables(site: Site) -> None:
    site.file("OVMF_CODE.fd")
    site.define(firmware=FW)
    assert "OVMF_VARS.fd is missing" in site.refused(NotFound)


def test_variables_are_not_made_in_a_folder_of_the_machines_user(site: Site) -> None:
    site.file("OVMF_CODE.fd")
    site.file("OVMF_VARS.fd")
    (site.disks / "own").mkdir()
    os.chown(site.disks / "own", UID, UID)
    site.define(firmware=FW | {"vars": {"name": "own/vars", "storage": "own"}})
    assert "is not root's alone" in site.refused(NotPermitted)
    assert list((site.disks / "own").iterdir()) == []


@pytest.mark.parametrize(("features", "secure", "what"), [
    (["requires-smm"], True, None), (["acpi-s3"], False, None), (["requires-smm"], False, "change the keys"),
    (["acpi-s3"], True, "its variables are lost")])
def test_what_a_descriptor_says_of_smm_is_held_against_the_definition(
        site: Site, features: list[str], secure: bool, what: str | None) -> None:
    code = site.file("OVMF_CODE.fd")
    text = json.dumps({"mapping": {"executable": {"filename": str(code)}, "nvram-template": {"filename": "/vars"}},
                       "features": features})
    site.host = fakes.host(qemu=site.qemu, files=fakes.FakeFiles(texts={"/usr/share/qemu/firmware/60-x.json": text}))
    site.define(firmware=FW | {"code": FW["code"] | {"secure": secure}})
    read = site.machina.read()
    doubts = preparing.doubts(site.host, read.pick(["vm"]), read.host)
    assert [what in doubt for doubt in doubts if what] == ([True] if what else []) and len(doubts) == bool(what)


# TPM

TPM = {"tpm": {"enabled": True, "data": {"name": "chip", "storage": "tpm"}}}


@pytest.mark.parametrize("there", [False, True])
def test_a_tpm_is_kept_in_a_folder_of_the_machines_own(site: Site, there: bool) -> None:
    folder = site.disks / "chip"
    if there:
        folder.mkdir(0o755)
    site.define(**TPM)
    assert site.prepare() == [f"{'give' if there else 'make'} the folder {folder} for the user machina-vm"]
    assert owner(folder) == (UID, UID, 0o700)
    assert site.prepare() == []


def test_a_failure_takes_the_tpms_folder_back(site: Site) -> None:
    site.define(**TPM)
    configured = site.machina.read()
    with pytest.raises(KeyboardInterrupt), Transaction(site.host, lambda line: None) as transaction:
        transaction.apply(preparing.plan_tpms(site.host, site.world, configured.pick(["vm"]), configured.host))
        assert (site.disks / "chip").is_dir()
        raise KeyboardInterrupt
    assert not (site.disks / "chip").exists()


def test_a_folder_that_is_not_the_machines_is_no_tpms(site: Site) -> None:
    site.define(**TPM)
    folder = site.disks / "chip"
    folder.symlink_to("/etc")
    assert "is no folder" in site.refused(ConfigError)
    folder.unlink()
    folder.mkdir()
    (folder / "somebodys").touch()
    assert f"chown -R {UID}" in site.refused(NotPermitted) and owner(folder)[0] == 0
    (folder / "somebodys").unlink()
    os.chown(folder, 1, 1)
    assert "is the user 1's" in site.refused(NotPermitted)


def test_the_folders_around_a_tpm_are_there_and_nobody_elses(site: Site) -> None:
    site.define(**TPM | {"tpm": TPM["tpm"] | {"data": {"name": "no/chip", "storage": "tpm"}}})
    assert f"there is no {site.disks / 'no'}" in site.refused(NotFound)
    (site.disks / "no").mkdir()
    os.chown(site.disks / "no", UID, UID)
    assert "is not root's alone" in site.refused(NotPermitted)
    assert list((site.disks / "no").iterdir()) == []


# devices

def test_the_real_devices_are_read() -> None:
    root = Path("/sys/bus/pci/devices")
    addresses = sorted(path.name for path in root.iterdir()) if root.exists() else []
    if not addresses:
        pytest.skip("this host has no PCI devices")
    for address in addresses:
        device = vfio.Sysfs().pci(address)
        assert device and (device.driver != "") == (root / address / "driver").exists()
        assert (device.group != "") == (root / address / "iommu_group").exists()
    assert vfio.Sysfs().pci("ffff:ff:1f.7") is None and list(vfio.Sysfs().group("none")) == []
