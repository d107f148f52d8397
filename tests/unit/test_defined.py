"""Machines that are defined, as machines of a store: published, listed, awaited, withdrawn; with fakes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudme import defined, everyone, layout
from cloudme.errors import AlreadyExists, Busy, NotFound, PeerError, UsageError
from cloudme.formats import inventory
from cloudme.layout import World
from cloudme.model.machine import Machine, Shape
from cloudme.operations import readiness
from cloudme.qemu import launch
from cloudme.store import Store
from tests import fakes
from tests.conftest import Ended
from tests.defining import ELSEWHERE, OURS, Site, site
from tests.unit.test_definitions import ID, OTHER

__all__ = ["site"]


# the record

def test_a_definition_becomes_a_machine(site: Site) -> None:
    machine = site.define("Web.00", **OURS, attrs={
        "cpu": {"sockets": 1, "cores": 4}, "access": {"user": "admin", "key": "/k"},
        "membership": {"group": "pf1", "type": "web"}, "limits": {"cpus": "1.5"}})
    assert machine == site.store.machine("web-00")
    assert (machine.definition, machine.uuid, machine.group, machine.type) == ("Web.00", ID, "pf1", "web")
    assert (machine.shape, machine.disks, machine.limits.cpus) == (Shape(vcpus=4, ram_mib=1024), (), 1.5)
    assert (machine.access.user, machine.access.key_file) == ("admin", "/k")
    assert (machine.nics[0].network, machine.address) == ("lab", "10.9.0.10")
    assert site.store.reservations("lab") == {"web-00": (machine.nics[0].mac, "10.9.0.10")}


def test_what_nobody_says_has_defaults(site: Site) -> None:
    machine = site.define()
    assert (machine.group, machine.type) == ("group", "default")
    assert (machine.access.user, machine.access.key_file) == ("root", None)
    assert (machine.shape.vcpus, machine.nics, machine.address) == (1, (), None)


def test_of_a_card_in_no_network_of_ours_only_the_address_is_kept(site: Site) -> None:
    machine = site.define(**ELSEWHERE)
    assert (machine.nics, machine.address, site.store.target(machine).outside) == ((), "192.0.2.7", False)


def test_a_card_keeps_its_address_and_one_that_is_said_wins(site: Site) -> None:
    first = site.define(**OURS)
    assert site.publish() == first
    site.machina.machine("vm", {"id": ID, "connections": [{"name": "0", "network": "ours", "ip": "10.9.0.15/24"}]})
    again = site.publish()
    assert (again.address, again.created) == ("10.9.0.15", first.created)
    assert [address for _, address in site.store.reservations("lab").values()] == ["10.9.0.15"]
    site.machina.machine("vm", {"id": ID})
    assert site.publish().nics == () and site.store.reservations("lab") == {}


def test_two_machines_have_no_address_in_common(site: Site) -> None:
    site.define("one", **OURS)
    with pytest.raises(AlreadyExists, match=r"10\.9\.0\.10 is the address of 'one'"):
        site.define("two", id=OTHER, connections=[{"name": "0", "network": "ours", "ip": "10.9.0.10"}])
    assert site.define("two", id=OTHER, **OURS).address == "10.9.0.11"


def test_links_lead_to_where_systemd_has_it_also_after_a_reboot(site: Site) -> None:
    site.define()
    run = site.store.world.machine_run("vm")
    assert os.readlink(layout.lock(site.store.world.machine("vm"))) == layout.machina_lock("vm")
    for link in os.listdir(run):
        os.unlink(f"{run}/{link}")
    os.rmdir(run)
    site.publish()
    assert {link: os.path.basename(os.readlink(f"{run}/{link}")) for link in os.listdir(run)} == {
        "qmp.0": "command.0.qmp.socket", "qmp.1": "command.1.qmp.socket", "qmp.2": "command.1.qmp.socket",
        "agent": "agent.socket"}


@pytest.mark.parametrize(("name", "realm", "error"), [
    ("user-joe-00", "", UsageError), ("template-x", "", UsageError), ("vm", "r1", UsageError)])
def test_what_cannot_be_one_of_the_store_is_refused(site: Site, name: str, realm: str, error: type[Exception]) -> None:
    world = site.store.world
    site.store = Store(World(data=world.data, run=world.run, config=world.config, realm=realm))
    with pytest.raises(error):
        site.define(name)
    assert site.store.machines() == []


def test_a_name_that_another_machine_has_is_taken(site: Site) -> None:
    site.define("Web.00")
    with pytest.raises(AlreadyExists, match=r"there is a machine 'web-00' already, that of definition 'Web\.00'"):
        site.define("web-00", id=OTHER)
    made = site.clone()
    with pytest.raises(AlreadyExists, match="with another id"):
        site.define(made.name, id=OTHER.replace("1", "2"))


def test_withdrawn_nothing_is_left(site: Site) -> None:
    machine = site.define(**OURS)
    site.start(machine)
    with pytest.raises(Busy, match="'vm' runs"):
        defined.withdraw(site.store, "vm")
    site.stop(machine)
    assert defined.withdraw(site.store, "vm") == machine
    assert (site.store.machines(), site.store.reservations("lab")) == ([], {})
    assert not os.path.exists(site.store.world.machine("vm")) and not os.path.exists(site.store.world.machine_run("vm"))
    assert defined.withdraw(site.store, "vm") is None


# adopted

@pytest.fixture
def ours(site: Site) -> Machine:
    """A clone that runs, and a definition with its id and name."""
    made = site.clone()
    site.machina.machine("web00", {"id": made.uuid, "attrs": {"memory": {"ram": 512}}})
    return made


def test_a_machine_of_ours_is_adopted_once_it_is_off_and_given_back(site: Site, ours: Machine) -> None:
    with pytest.raises(Busy, match="not by systemd"):
        site.publish("web00")
    site.stop(ours)
    adopted = site.publish("web00")
    assert adopted == dataclasses.replace(ours, definition=adopted.definition) == site.publish("web00")
    site.start(adopted)
    assert site.units.said == ["start machina-web00.service"] and site.store.is_running(adopted)
    site.stop(adopted)
    assert defined.withdraw(site.store, "web00")
    assert site.store.machine("web00") == ours
    assert site.start(ours) == [ours] and layout.lock(site.store.folder(ours)) in site.qemu.running


# what is seen

def test_vmrunning_shows_it_as_any_other(site: Site, command: Callable[..., Ended]) -> None:
    machine = site.define("Web.00", **ELSEWHERE)
    shown = ["web-00", "group", "default", "192.0.2.7"]
    assert command("vmrunning", "-a").stdout.split() == [*shown, "stopped", "-"]
    site.start(machine)
    os.utime(layout.machina_lock("Web.00"), (1_700_000_000, 1_700_000_000))
    assert command("vmrunning").stdout.split()[:4] == shown
    assert json.loads(command("vmrunning", "--json").stdout)[0]["since"] == 1_700_000_000


def test_all_users_see_it_too(site: Site) -> None:
    site.start(site.define(**ELSEWHERE))
    found, = everyone.listing([everyone.Home(site.store.world.data, "root")])
    assert (found["name"], found["state"], found["address"]) == ("vm", "running", "192.0.2.7")


def test_what_was_prepared_and_has_no_unit_is_withdrawn_too(
    site: Site, command: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:
    """Else it could neither be removed nor destroyed: vmdestroy refuses what the store has."""
    # without --root these are the host's own folders, whatever the environment says
    monkeypatch.setattr(layout, "units", lambda root: str(tmp_path / "units"))
    monkeypatch.setattr(layout, "sysusers", lambda root: str(tmp_path / "users"))
    site.define()
    assert command("vmunit", "remove", "vm").status == 0
    assert site.store.machines() == [] and command("vmunit", "remove", "vm").status == 66


def test_another_id_is_told_as_such(site: Site) -> None:
    site.define()
    with pytest.raises(AlreadyExists, match="had another id before"):
        site.define(id=OTHER)


def test_a_definition_without_a_record_waits_for_its_unit(site: Site, command: Callable[..., Ended]) -> None:
    site.define("Web.00")
    for name in ("b", "a", ".hidden"):
        site.machina.machine(name, "not read")
    (site.machina.machines / "x.conf.json.bak").touch()
    assert [line.split() for line in command("vmrunning", "-a").stdout.splitlines()] == [
        ["web-00", "group", "default", "-", "stopped", "-"], *([name, *"---", "defined", "-"] for name in "ab")]
    assert command("vmrunning", "-a", "--realm", "r1").stdout == command("vmrunning").stdout == ""
    said = "no unit yet\nvmstart: (sudo vmunit generate a)\n"
    assert command("vmstart", "a") == Ended(66, "", f"vmstart: 'a' is defined, and has {said}")
    assert command("vm", "a").status == 66


def test_it_is_found_by_the_name_of_its_definition(site: Site, command: Callable[..., Ended]) -> None:
    site.define("Web.00")
    said = "vm: 'web-00' does not run\nvm: (vm web-00 starts it, vmlogs web-00 shows what it said last)\n"
    assert command("vm", "--no-start", "Web.00") == command("vm", "--no-start", "web-00") == Ended(66, "", said)
    assert command("vm", "--no-start", "Web.00", "-g", "other").stderr.startswith("vm: no machine 'web-00'")


def test_inventory_tells_how_to_get_in(site: Site) -> None:
    machine = site.define(**ELSEWHERE)
    found = inventory.variables(machine, site.store.target(machine))
    assert (found["ansible_host"], found["ansible_user"]) == ("192.0.2.7", "root")
    assert "ansible_ssh_private_key_file" not in found and "IdentitiesOnly" not in found["ansible_ssh_common_args"]


def test_it_is_awaited_like_any_other(site: Site) -> None:
    """By an agent that is called otherwise, and is a port of the host's, as the seed has it."""
    class Monitor(fakes.FakeMonitor):
        def execute(self, command: str, **arguments: Any) -> Any:
            return [{"label": "guestagent", "frontend-open": True}]

    machine = site.define()
    site.start(machine)
    site.qemu.told = Monitor()
    for goal in ("booted", "agent"):
        readiness.wait(site.host, site.store, [machine], goal, timeout_s=1, say=lambda line: None)
    with pytest.raises(NotFound, match="has no address of ours"):
        readiness.wait(site.host, site.store, [machine], "ssh", timeout_s=1, say=lambda line: None)
    site.stop(machine)
    with pytest.raises(PeerError, match="it is not running"):
        readiness.wait(site.host, site.store, [machine], "booted", timeout_s=1, say=lambda line: None)


def test_logs_of_a_machine_that_was_adopted_tell_nothing(site: Site, ours: Machine) -> None:
    site.stop(ours)
    adopted = site.publish("web00")
    for name, text in ((launch.SERIAL_LOG, "Kernel panic - not syncing: x\n"), (launch.FIRMWARE_LOG, "x\n")):
        Path(site.store.folder(adopted), name).write_text(text)
    site.start(adopted)
    site.qemu.agent_open = False
    with pytest.raises(Busy, match="nothing was heard of it") as caught:
        readiness.wait(site.host, site.store, [dataclasses.replace(adopted, nics=())], "booted", timeout_s=0,
                       say=lambda line: None)
    assert caught.value.hint == "vmquery web00; journalctl --unit machina-web00.service"


def test_a_wait_for_ssh_that_runs_out_needs_no_network_of_ours(site: Site) -> None:
    machine = site.define(**ELSEWHERE)
    site.start(machine)
    shell = fakes.FakeShell()
    shell.probe = lambda target, *, timeout_s=5: "silent"  # type: ignore[method-assign]
    site.host = dataclasses.replace(site.host, shell=shell)
    with pytest.raises(Busy, match="vm did not reach 'ssh'"):
        readiness.wait(site.host, site.store, [machine], "ssh", timeout_s=0, say=lambda line: None)
