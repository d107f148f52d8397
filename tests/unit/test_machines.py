"""Machines of their own, addresses, seeds: with fakes."""

from __future__ import annotations

import dataclasses
import email
import email.message
import os
from ipaddress import IPv4Interface, IPv6Interface
from pathlib import Path

import pytest
import yaml

from cloudme import seed
from cloudme.cli import machines as options
from cloudme.errors import AlreadyExists, Busy, CloudMeError, ConfigError, NotFound, SpecError, UsageError
from cloudme.formats import seeds
from cloudme.model.hostconfig import Settings
from cloudme.model.machine import Image, Kernel, Machine, Shape
from cloudme.model.names import ImageName, Name
from cloudme.model.network import Network, address_range, check_address, site6, slaac
from cloudme.model.steps import Transaction
from cloudme.operations import images, machines, power
from cloudme.store import Store
from tests import fakes
from tests.conftest import program

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGfake me@here\n"
LAN = Network(name=Name("lan"), bridge="br0", address=IPv4Interface("192.168.86.1/24"), dhcp_first=None, dhcp_last=None,
              domain="lan", nat=False, external=True)
SETTINGS = Settings()


@pytest.fixture
def lan(store: Store) -> Store:
    """A store with the network lan and an image."""
    store.publish_network(LAN)
    os.makedirs(store.world.images)
    store.publish_image(Image(name=ImageName("debian"), size_bytes=4 << 30, digest="0", source="x", created="x",
                              user="debian"))
    return store


def wanted(**changes: object) -> machines.Wanted:
    plain = machines.Wanted(
        name=Name("vm1"), image=ImageName("debian"), group="group", type=Name("default"), user=None, public_key=KEY,
        key_file="/keys/id", networks=(Name("lan"),), address="192.168.86.53", user_data="",
        shape=Shape(vcpus=1, ram_mib=512), disk_bytes=1 << 30, vnc_port=None)
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def make(store: Store, host: object = None, **changes: object) -> Machine:
    with Transaction(host or fakes.host(net=fakes.FakeNet(bridges={"br0", "bridge0"})), print) as transaction:  # type: ignore[arg-type]
        return machines.make(transaction, store, wanted(**changes), SETTINGS)


def test_a_machine_is_made_whole_with_what_is_to_be_read_by_eye(lan: Store) -> None:
    made = make(lan)
    folder = Path(lan.folder(made))
    assert {name: (folder / name).read_text() for name in ("os.name", "vm.ip", "vm.mac", "pubkey.pub")} == {
        "os.name": "debian\n", "vm.ip": "192.168.86.53\n", "vm.mac": f"{made.nics[0].mac}\n", "pubkey.pub": KEY}
    assert (folder / "vnc.port").read_text().endswith("/vm1/vnc\n")
    assert (made.nics[0].static, made.access.user, made.disks[0].size_bytes) == (True, "debian", 4 << 30)
    assert lan.machine("vm1") == made
    assert lan.owners("lan") == {"192.168.86.53": "vm1"}
    assert lan.target(made).key_file == "/keys/id"
    with pytest.raises(Busy, match="carries vm1"), Transaction(fakes.host(), print) as transaction:
        images.remove(transaction, lan, ImageName("debian"))


@pytest.mark.parametrize(("changes", "error"), [
    ({"name": Name("vm2")}, AlreadyExists),  # the address
    ({"address": "192.168.86.54"}, AlreadyExists),  # the name
    ({"name": Name("vm2"), "address": "192.168.86.77"}, AlreadyExists),  # somebody answers there
    ({"name": Name("vm2"), "address": "10.0.0.1"}, UsageError),
    ({"name": Name("vm2"), "image": ImageName("none")}, NotFound),
    ({"name": Name("vm2"), "networks": (Name("none"),)}, NotFound),
    ({"name": Name("vm2"), "address": None, "user": "root"}, UsageError),
    ({"name": Name("vm2"), "address": None, "user": "a;reboot"}, UsageError),
])
def test_what_cannot_be_is_refused_and_nothing_is_made(
    lan: Store, changes: dict[str, object], error: type[CloudMeError],
) -> None:
    make(lan)
    net = fakes.FakeNet(bridges={"br0"}, others={"192.168.86.77": "52:54:00:00:00:01"})
    with pytest.raises(error):
        make(lan, fakes.host(net=net), **changes)
    assert [machine.name for machine in lan.machines()] == ["vm1"]
    assert os.listdir(lan.world.machines) == ["vm1"]
    assert lan.owners("lan") == {"192.168.86.53": "vm1"}


def test_a_failure_in_the_middle_leaves_nothing(lan: Store) -> None:
    run = fakes.FakeRun(fail={"create": SpecError(["no"])})
    with pytest.raises(SpecError):
        make(lan, fakes.host(net=fakes.FakeNet(bridges={"br0"}), run=run))
    assert (os.listdir(lan.world.machines), lan.owners("lan")) == ([], {})


def change(store: Store, machine: Machine, change: machines.Change) -> Machine | None:
    host = fakes.host(net=fakes.FakeNet(bridges={"br0"}))
    new = machines.changed(host, store, machine, change, SETTINGS)
    if new:
        with Transaction(host, print) as transaction:
            transaction.apply([machines.Update(store, machine, new, change, SETTINGS)])
    return new


def test_an_update_is_a_new_seed_and_the_same_update_is_none(lan: Store) -> None:
    made = make(lan)
    host_key = Path(lan.folder(made), "host_key").read_text()
    what = machines.Change(public_key=KEY.replace("me@", "you@"), key_file="/keys/new", address="192.168.86.54")
    new = change(lan, made, what)
    assert new
    assert new.seed_id not in (None, made.uuid)
    assert (new.address, new.access.key_file, new.nics[0].mac) == ("192.168.86.54", "/keys/new", made.nics[0].mac)
    assert lan.owners("lan") == {"192.168.86.54": "vm1"}
    assert Path(lan.folder(made), "host_key").read_text() == host_key
    assert Path(lan.target(new).known_hosts_file).read_text().startswith("vm1,192.168.86.54 ")
    assert change(lan, new, what) is None


def test_an_update_that_fails_later_is_undone(lan: Store) -> None:
    made = make(lan)
    host = fakes.host(net=fakes.FakeNet(bridges={"br0"}))
    what = machines.Change(address="192.168.86.54", public_key="ssh-rsa x\n", key_file="/k")
    new = machines.changed(host, lan, made, what, SETTINGS)
    assert new
    with pytest.raises(RuntimeError), Transaction(host, print) as transaction:
        transaction.apply([machines.Update(lan, made, new, what, SETTINGS)])
        raise RuntimeError
    assert (lan.machine("vm1"), lan.owners("lan")) == (made, {"192.168.86.53": "vm1"})
    assert Path(lan.folder(made), "pubkey.pub").read_text() == KEY


def test_a_clone_is_no_machine_of_its_own(lan: Store) -> None:
    clone = dataclasses.replace(make(lan), image=None)
    with pytest.raises(UsageError, match="is a clone"):
        machines.changed(fakes.host(), lan, clone, machines.Change(address="192.168.86.54"), SETTINGS)


def test_a_display_at_a_port_is_behind_a_password(lan: Store) -> None:
    made = make(lan, vnc_port=5907)
    host = fakes.host(net=fakes.FakeNet(bridges={"br0"}))
    with Transaction(host, print) as transaction:
        power.start(transaction, lan, [made], SETTINGS)
    from cloudme.qemu import launch

    starts = host.qemu.launches[0]  # type: ignore[attr-defined]
    argv = launch.argv(starts, dict.fromkeys(launch.roles(starts), 3))
    assert argv[argv.index("-vnc") + 1] == "127.0.0.1:7,password=on"
    assert starts.pid_file == f"{lan.folder(made)}/vm.pid"
    host.qemu.kill(starts.lock)


# seeds

def seed_of(store: Store, machine: Machine, more: str = "") -> dict[str, str]:
    keys = seeds.Keys(public=KEY, host_private="PRIVATE\n", host_public="ssh-ed25519 HOST")
    files = seeds.files(machine, keys, store.networks_of(SETTINGS, [machine]), config=store.world.config, more=more)
    return {name: content.decode() for name, content in files.items()}


def test_the_seed_of_a_machine_lets_its_user_in_and_nobody_else(lan: Store) -> None:
    made = make(lan)
    files = seed_of(lan, made)
    data = yaml.safe_load(files["user-data"])
    assert (data["disable_root"], data["ssh_pwauth"], data["user"]["name"]) == (True, False, "debian")
    assert data["ssh_authorized_keys"] == [KEY.strip()]
    assert yaml.safe_load(files["network-config"]) == {"version": 2, "ethernets": {"eth0": {
        "match": {"macaddress": made.nics[0].mac}, "set-name": "eth0", "addresses": ["192.168.86.53/24"],
        "gateway4": "192.168.86.1", "nameservers": {"addresses": ["192.168.86.1"], "search": ["lan"]}}}}
    assert yaml.safe_load(files["meta-data"])["instance-id"] == made.uuid


def test_the_users_own_data_comes_first_and_ours_has_the_last_word(lan: Store) -> None:
    joined = email.message_from_string(seed_of(lan, make(lan), "#!/bin/sh\ntouch /x\n")["user-data"])
    parts = joined.get_payload()
    assert isinstance(parts, list)
    assert [part.get_content_type() for part in parts if isinstance(part, email.message.Message)] == [
        "text/x-shellscript", "text/cloud-config"]


@pytest.mark.parametrize(("text", "why"), [
    ("hello\n", "no user-data"), ("#cloud-config\na: [\n", ":3:"), ("#cloud-config\n- a\n", "is a mapping"),
])
def test_user_data_that_cloud_init_would_not_take_is_refused(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "data"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=why):
        options.user_data(fakes.host(run=fakes.FakeRun(missing={"cloud-init"})), str(file))


@pytest.mark.parametrize(("text", "why"), [
    ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "is a private key"), ("", "no public key"), ("ssh-dss AAAA\n", ":1:"),
    ("ssh-ed25519\n", ":1:"),
])
def test_what_is_no_public_key_is_refused(tmp_path: Path, text: str, why: str) -> None:
    file = tmp_path / "id.pub"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=why):
        options.public_key(str(file))
    assert options.private_key(str(file)) == str(tmp_path / "id")
    assert seed.PUBLIC_KEY == "pubkey.pub"


# addresses

@pytest.mark.parametrize(("text", "count", "last"), [
    ("192.168.86.60", 1, "192.168.86.60"), ("192.168.86.60-69", 10, "192.168.86.69"),
    ("10.0.0.250-10.0.1.4", 11, "10.0.1.4"),
])
def test_a_range_of_addresses(text: str, count: int, last: str) -> None:
    found = address_range(text)
    assert (len(found), found[-1]) == (count, last)


@pytest.mark.parametrize("text", ["", "x", "10.0.0.9-1", "10.0.0.1-300", "10.0.0.0-10.0.255.255", "10.0.0.1/24",
                                  "fd::1"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        address_range(text)


def test_an_address_that_no_machine_may_have() -> None:
    check_address(LAN, "192.168.86.53", {"192.168.86.54": "vm2"})
    for address, error in (("192.168.86.0", UsageError), ("192.168.86.255", UsageError), ("192.168.87.1", UsageError),
                           ("192.168.86.1", AlreadyExists), ("192.168.86.54", AlreadyExists)):
        with pytest.raises(error):
            check_address(LAN, address, {"192.168.86.54": "vm2"})


def test_ipv6_addresses_follow_from_the_card() -> None:
    """RFC 4291, appendix A, and RFC 4193, 3.1: ours begin with fd, and have 64 bits for the network."""
    network = dataclasses.replace(LAN, address6=IPv6Interface("fd12:3456:789a:1::1/64"))
    assert slaac(network, "52:54:00:3b:c0:c9") == "fd12:3456:789a:1:5054:ff:fe3b:c0c9"
    assert slaac(LAN, "52:54:00:3b:c0:c9") is None
    one, other = site6("host", "a"), site6("host", "b")
    assert one.network.prefixlen == 64
    assert one.ip.packed[0] == 0xFD
    assert (one.ip.packed[:6] == other.ip.packed[:6], one.network == other.network) == (True, False)
    with pytest.raises(ConfigError):
        dataclasses.replace(LAN, address6=IPv6Interface("fd00::1/48"))


def test_a_kernel_is_copied_with_what_belongs_to_it(tmp_path: Path) -> None:
    for name in ("vmlinuz", "initrd"):
        (tmp_path / name).write_text(name, encoding="utf-8")

    def asked(*words: str) -> dict[str, object]:
        return options._kernel(program("vmcreate").parser().parse_args(["x", "--machine", *words]))

    kernel, initrd = f"{tmp_path}/vmlinuz", f"{tmp_path}/initrd"
    assert asked() == {"kernel": None}
    assert asked("--kernel", kernel) == {
        "kernel": Kernel(cmdline="root=/dev/vda1 ro console=ttyS0"), "files": {"kernel": kernel}}
    assert asked("--kernel", kernel, "--initrd", initrd, "--cmdline", "x") == {
        "kernel": Kernel(cmdline="x", initrd=True), "files": {"kernel": kernel, "initrd": initrd}}
    for words in (["--initrd", initrd], ["--cmdline", ""]):
        with pytest.raises(UsageError):
            asked(*words)
    with pytest.raises(NotFound):
        asked("--kernel", f"{tmp_path}/nothing")
