"""cmdump over a host of fakes: what was applied comes out as it was, and applied again it changes nothing."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import assume, given, settings

from cloudme.formats import homelab as homelab_format
from cloudme.homelab import site
from cloudme.model.homelab import checks, planned
from cloudme.model.homelab.nouns import Declared, Homelab, Share, Vlan
from cloudme.model.machine import Forward
from cloudme.model.names import DefinitionName, Name
from cloudme.model.steps import Transaction
from cloudme.operations import networks
from tests.conftest import Ended
from tests.homelabs import HOMELABS
from tests.unit.labs import SETTINGS, TWO, Lab, by_hand, lab, one
from tests.unit.test_homelab import said

__all__ = ["lab"]


def dumped(lab: Lab) -> Homelab:
    ended = lab.dump()
    assert ended.status == 0, ended.stderr
    return said(ended.stdout)


def again(lab: Lab) -> None:
    """What is dumped changes nothing, and is dumped as it is."""
    text = lab.dump().stdout
    before = lab.store.machines()
    ended = lab.apply(text)
    assert ended.status == 0, (text, ended.stderr)
    assert set(lab.told(ended).values()) <= {"ok"}, (text, ended.stdout)
    assert lab.store.machines() == before
    assert lab.dump().stdout == text


def test_nothing_is_dumped_of_nothing(lab: Lab) -> None:
    assert lab.dump().stdout == "{}\n"
    assert lab.dump("--json").stdout == "{}\n"
    assert not os.path.exists(lab.store.world.homelab)


def test_what_was_applied_comes_out_as_it_was_written(lab: Lab) -> None:
    lab.well(TWO)
    assert dumped(lab) == said(TWO)
    assert said(lab.dump("--json").stdout) == said(TWO)
    before = lab.everything()
    lab.dump()
    assert lab.everything() == before
    again(lab)


def test_paths_are_from_the_current_folder(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    (lab.folder / "books").mkdir()
    for name, content in (("books/db.yml", "[]\n"), ("user-data", "#cloud-config\n")):
        (lab.folder / name).write_text(content)
    text = one("playbook: books/db.yml, user_data: user-data")
    lab.well(text)
    assert dumped(lab) == said(text)
    monkeypatch.chdir(lab.folder / "books")
    declared = dumped(lab).machines[Name("db")]
    assert (declared.playbook, declared.user_data) == ("db.yml", str(lab.folder / "user-data"))
    monkeypatch.chdir(lab.folder)
    again(lab)


def test_a_file_that_is_gone_is_in_the_machines_folder(lab: Lab) -> None:
    (lab.folder / "user-data").write_text("#cloud-config\n")
    lab.well(one("user_data: user-data"))
    (lab.folder / "user-data").unlink()
    path = dumped(lab).machines[Name("db")].user_data
    assert path and Path(path).read_text() == "#cloud-config\n"
    again(lab)


def test_what_was_changed_by_hand_is_told_as_it_is(lab: Lab) -> None:
    lab.well(TWO.replace("hosts: {", "hosts: {mem: 600, "))
    machine = lab.machine("web01")
    lab.store.publish(dataclasses.replace(machine, group="other", shape=dataclasses.replace(machine.shape, vcpus=1)))
    found = dumped(lab)
    assert list(found.machines) == ["db", "web00", "web01"]
    assert found.machines[Name("web01")].vcpu == 1 and found.machines[Name("web01")].group == "other"
    assert found.machines[Name("db")] == dataclasses.replace(
        said(TWO).machines[Name("db")], template=Name("debian"), mem=600, vlan=Name("lan"))
    again(lab)


def test_who_depends_on_replicas_that_are_told_one_by_one_depends_on_each(lab: Lab) -> None:
    text = TWO + "  top: {depends_on: [web, own]}\n  own: {}\n"
    lab.well(text)
    lab.store.publish(dataclasses.replace(lab.machine("web01"), group="other"))
    lab.destroy("own")
    assert dumped(lab).machines[Name("top")].depends_on == ("web00", "web01")
    again(lab)


def test_machines_of_no_file_are_told_and_what_cannot_be_said(lab: Lab) -> None:
    lab.well(one())
    by_hand(lab, "web", "lan", "default")
    machine = lab.machine("web")
    lab.store.publish(dataclasses.replace(machine, ports=(), forwards=(
        Forward(protocol="tcp", address="127.0.0.1", port=8080, guest_port=80),)))
    ended = lab.dump()
    assert ("cmdump: web: the file does not say more cards, ports of the host that lead to it (vmexpose), that none of "
            "its ports is open") in ended.stderr
    declared = said(ended.stdout).machines[Name("web")]
    assert (declared.autostart, declared.group, declared.type, declared.vlan, str(declared.ip)) == (
        False, "pf1", None, "lan", "10.1.0.3")
    lab.store.publish(dataclasses.replace(lab.machine("web"), ports=None))
    again(lab)


def test_a_machine_on_an_image_is_told_with_what_it_boots(lab: Lab) -> None:
    (lab.folder / "vmlinuz").write_text("1")
    (lab.folder / "user-data").write_text("#cloud-config\n")
    text = ("machines: {box: {image: bookworm, user: me, machine: microvm, kernel: vmlinuz, cmdline: root=/dev/vda1, "
            "user_data: user-data}}")
    lab.well(text)
    assert dumped(lab) == said(text)
    os.unlink(lab.store.world.homelab)
    declared = dumped(lab).machines[Name("box")]
    folder = lab.store.folder(lab.machine("box"))
    assert (declared.kernel, declared.user_data, declared.user, declared.machine) == (
        f"{folder}/kernel", f"{folder}/user-data", "me", "microvm")
    again(lab)


def test_a_machine_that_is_defined_is_left_out(lab: Lab) -> None:
    lab.well(one())
    lab.stop()
    lab.store.publish(dataclasses.replace(lab.machine("db"), definition=DefinitionName("db")))
    ended = lab.dump()
    assert "db is defined, and left out: vmcat db" in ended.stderr and said(ended.stdout).machines == {}


def test_a_network_that_went_takes_no_one_with_it(lab: Lab) -> None:
    lab.well(TWO + "  own: {network: default}\n")
    for name in ("web00", "web01", "db"):
        lab.destroy(name)
    text = TWO.split("machines:")[0].replace("lan: {id: 10, cidr: 10.1.0.0/24}, ", "").replace(", reaches: lan", "")
    text = text.replace(", vlan: lan", "")
    assert lab.well(text + "machines: {own: {network: default}}", "--prune", "-y") == {"own": "ok"}
    assert list(dumped(lab).networks.vlans) == ["dmz"]
    again(lab)


def test_networks_that_could_not_be_changed_are_told_as_they_are(lab: Lab) -> None:
    lab.well(TWO)
    assert lab.apply(TWO.replace("vlans:", "vlan_mode: bridges\n  vlans:").replace("10.1.0", "10.5.0")).status != 0
    assert dumped(lab) == said(TWO)
    again(lab)
    bridges = TWO.replace("vlans:", "vlan_mode: bridges\n  vlans:")
    lab.stop()
    lab.well(bridges)
    assert lab.apply(TWO).status == 75
    assert dumped(lab) == said(bridges)


def test_vlans_that_nobody_uses_are_as_the_file_says(lab: Lab) -> None:
    for vlans in ("{lan: {id: 10, cidr: 10.1.0.0/24}, spare: 20}", "{spare: 21, lan: {id: 10, cidr: 10.1.0.0/24}}"):
        text = f"networks: {{vlans: {vlans}}}\nmachines: {{db: {{template: debian, vlan: lan}}}}"
        lab.well(text)
        assert dumped(lab) == said(text)
    lab.well(one())
    assert dumped(lab) == said(one())


def test_networks_made_by_hand_are_vlans(lab: Lab) -> None:
    lab.well(one().replace("networks: {", "networks: {dns: [10.1.0.1, 9.9.9.9], "))
    (own,) = site.networks(said("networks: {vlans: {dmz: {id: 7, cidr: 10.7.0.0/24}}}"), lab.store,
                           SETTINGS).values()
    with Transaction(lab.host, lambda line: None) as transaction:
        networks.create(transaction, lab.store, own)
    found = dumped(lab).networks.vlans
    assert (found[Name("dmz")].id, found[Name("dmz")].dns) == (7, ())
    assert found[Name("lan")].dns == (IPv4Address("10.1.0.1"), IPv4Address("9.9.9.9"))
    again(lab)


# whatever a file says

def sane(whole: Homelab) -> Homelab:
    """The same with what this host has, and nothing in another's way."""
    numbers = dict(zip(whole.networks.vlans, range(10, 99), strict=False))
    vlans = {name: Vlan(id=numbers[name], dns=vlan.dns, cidr=IPv4Network(f"10.{numbers[name]}.0.0/24"),
                        reaches=tuple(dict.fromkeys(name for name in vlan.reaches if name in numbers)))
             for name, vlan in whole.networks.vlans.items()}
    entries = list(whole.machines)
    declared = {name: _sane(one, at, entries[:at], vlans) for at, (name, one) in enumerate(whole.machines.items())}
    hosts = dataclasses.replace(
        whole.hosts, template=Name("debian"), image=None, machine=None, mem=512, user=None, playbook=None,
        user_data=None, vlan=None, network=None, memory_ratio=100)
    return Homelab(machines=declared, hosts=hosts, networks=dataclasses.replace(
        whole.networks, vlans=vlans, bridge=None, uplink=None))


def _sane(one: Declared, at: int, before: list[Name], vlans: dict[Name, Vlan]) -> Declared:
    vlan = list(vlans)[at % len(vlans)] if vlans and at % 2 == 0 else None
    ip = vlans[vlan].cidr.network_address + 50 + 10 * at if vlan and one.ip else None  # type: ignore[union-attr]
    return dataclasses.replace(
        one, template=None, image=None, kernel=None, initrd=None, cmdline=None, machine=None, user=None, vlan=vlan,
        network=None, ip=ip, mem=None if one.mem is None else 512 + one.mem % 999, playbook=None, user_data=None,
        replicas=one.replicas and one.replicas % 3 + 1, vsock_cid=one.vsock_cid and 100 + 10 * at, tags=(), gpu=(),
        devices=(),
        shares=tuple(Share(source=f"/usr/share/{number}", mount_point=f"/srv/{number}", tag=share.tag,
                           readonly=share.readonly, mode=0o755) for number, share in enumerate(one.shares)),
        depends_on=tuple(before[:1]), limits=dataclasses.replace(one.limits, memory_mib=None))


@pytest.fixture
def labs(
    command: Callable[..., Ended], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch,
) -> Callable[[], Lab]:
    """Makes a new one, in a home of its own."""
    def made() -> Lab:
        folder = tmp_path_factory.mktemp("lab")
        monkeypatch.setenv("CLOUDME_HOME", str(folder / "home"))
        monkeypatch.chdir(folder)
        return Lab(command, folder, monkeypatch)

    return made


@settings(max_examples=25)
@given(whole=HOMELABS.map(sane))
def test_whatever_is_applied_is_dumped(labs: Callable[[], Lab], whole: Homelab) -> None:
    assume(not list(checks.every(whole)))
    assume(not any(name.startswith(("user-", "template-")) for name in whole.machines))
    lab = labs()
    whole = dataclasses.replace(whole, machines={name: dataclasses.replace(declared, shares=tuple(
        dataclasses.replace(share, source=share.source.replace("/usr/share", str(lab.folder)))
        for share in declared.shares)) for name, declared in whole.machines.items()})
    text = homelab_format.dump(whole)
    made = lab.well(text)
    assert set(made) == {machine.name for machine in planned.planned(whole)}
    assert dumped(lab) == whole, text
    assert set(lab.well(text).values()) <= {"ok"}
    before = lab.everything()
    assert lab.apply(text, "--dry-run").stdout == ""
    assert lab.everything() == before
