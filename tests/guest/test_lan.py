"""Machines on a LAN: reached by its router, at the address and with the key that they were given, and by no other."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudme.cli import wiring
from cloudme.cli.images import host_sources
from cloudme.layout import World
from cloudme.model import recipe
from cloudme.model.names import Name
from cloudme.model.recipe import Recipe, TextFile
from cloudme.model.steps import Transaction
from cloudme.operations import images
from cloudme.store import Store
from tests.guest import lan as lans
from tests.guest.conftest import CACHE
from tests.guest.lan import ELSEWHERE, HOST, ROUTER, Lan
from tests.net.conftest import inside

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

ADDRESS, NEXT, LAST = "192.168.86.53", "192.168.86.54", "192.168.86.55"
OWN_DATA = """\
#cloud-config
write_files:
  - {path: /etc/motd-own, content: "of the user\\n"}
ssh_pwauth: true
"""


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    if os.geteuid() != 0:
        pytest.skip("a LAN of our own takes namespaces: root is missing")
    with lans.made() as it:
        yield it


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("keys")
    return {"old": lans.key(folder, "old", "ed25519"), "new": lans.key(folder, "new", "rsa"),
            "last": lans.key(folder, "last", "ecdsa")}


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip()


def create(lan: Lan, name: str, key: str, *words: str, image: str = "debian") -> None:
    lan.run("vmcreate", name, "--machine", "--os", image, "--pubkey-path", f"{key}.pub", "--network", "lan",
            "-m", "640", *words)


@pytest.mark.parametrize(("address", "status", "why"), [
    (ROUTER, 73, "is the gateway"), ("192.168.86.255", 64, "broadcast"), ("192.168.86.0", 64, "of the network itself"),
    ("192.168.87.5", 64, "is not in 192.168.86.0/24"), (HOST, 73, "this host's own"), (ELSEWHERE, 73, "answers there"),
])
def test_an_address_that_is_taken_is_refused_before_anything_is_made(
    lan: Lan, keys: dict[str, str], address: str, status: int, why: str,
) -> None:
    ended = lan.call("vmcreate", "no", "--machine", "--os", "debian", "--pubkey-path", f"{keys['old']}.pub",
                     "--network", "lan", "--ip", address)
    assert (ended.returncode, why in ended.stderr.decode()) == (status, True), ended.stderr
    assert not os.path.exists(lan.world.machine("no"))


def test_the_five_commands_of_the_seed(lan: Lan, keys: dict[str, str], tmp_path: Path) -> None:
    data = tmp_path / "own"
    data.write_text(OWN_DATA, encoding="utf-8")
    create(lan, "vm1", keys["old"], "--ip", ADDRESS, "--user-data", str(data))
    taken = lan.call("vmcreate", "vm2", "--machine", "--os", "debian", "--pubkey-path", f"{keys['old']}.pub",
                     "--network", "lan", "--ip", ADDRESS)
    assert taken.returncode == 73
    assert b"is the address of 'vm1'" in taken.stderr

    lan.run("vmstart", "vm1")
    lan.run("vmwait", "vm1")
    said = lan.ssh("vm1", keys["old"], ADDRESS, "hostname -f; sudo cat /etc/machine-id /etc/motd-own; "
                                                "cloud-init status --wait >/dev/null; "
                                                "sudo sshd -T | grep -x 'passwordauthentication no'; "
                                                "sudo cloud-init schema --system")
    assert said.stdout.splitlines()[0] == "vm1.lan.cloudme"
    assert said.stdout.splitlines()[2:] == ["of the user", "passwordauthentication no",
                                            "Valid cloud-config: system userdata"]
    mac = lan.record("vm1")["nics"][0]["mac"]
    assert mac in lan.from_router("ip", "neighbour", "show", ADDRESS).stdout

    lan.run("vmstop", "vm1")
    assert lan.ssh("vm1", keys["old"], ADDRESS, "true").returncode == 255
    lan.run("vmstart", "vm1")
    lan.run("vmwait", "vm1")
    assert lan.ssh("vm1", keys["old"], ADDRESS, "cat /sys/class/net/eth0/address").stdout.strip() == mac

    lan.run("vmupdate", "vm1", "--pubkey-path", f"{keys['new']}.pub", "--ip", NEXT)
    assert lan.ssh("vm1", keys["old"], ADDRESS, "true").returncode == 255  # its key is pinned to the new address
    lan.run("vmrestart", "vm1")
    lan.run("vmwait", "vm1")
    only(lan, keys, "new", NEXT, ADDRESS)
    assert mac in lan.from_router("ip", "neighbour", "show", NEXT).stdout


def only(lan: Lan, keys: dict[str, str], key: str, address: str, before: str) -> None:
    """vm1 lets this key in at this address, and nothing else anywhere."""
    got = lan.ssh("vm1", keys[key], address, "hostname")
    assert got.stdout == "vm1\n", got
    for other in set(keys) - {key}:
        refused = lan.ssh("vm1", keys[other], address, "true")
        assert "Permission denied" in refused.stderr, refused
    knock = lan.from_router("timeout", "4", "bash", "-c", f"exec 3<>/dev/tcp/{before}/22", check=False)
    assert knock.returncode in (1, 124)


def test_a_machine_that_cannot_be_reached_for_the_bridges_filter(lan: Lan, keys: dict[str, str]) -> None:
    """Docker's rule, and the kernel's default: it has booted, has its address, and is unreachable. cmcheck says so."""
    space = ["ip", "netns", "exec", os.path.basename(lan.world.namespace)]
    rule = "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }"
    assert json.loads(lan.run("cmcheck", "bridge-nf", "--json"))[0]["status"] == "ok"
    subprocess.run([*space, "sysctl", "-qw", "net.bridge.bridge-nf-call-iptables=1"], check=True)
    subprocess.run([*space, "nft", rule], check=True)
    try:
        assert lan.ssh("vm1", keys["new"], NEXT, "true").returncode == 255
        assert lan.run("vm", "vm1", "--", "hostname") == "vm1\n"  # from the host itself: it has its address
        ended = lan.call("cmcheck")
        lines = ended.stdout.decode().splitlines()
        at = next(number for number, line in enumerate(lines) if line.startswith("bridge-nf"))
        assert (ended.returncode, lines[at].split()[1]) == (78, "failed")
        assert "have their address, and cannot be reached" in lines[at + 1]
        assert "sysctl -w net.bridge.bridge-nf-call-iptables=0" in lines[at + 2]
        assert lan.call("cmcheck", "--fix").returncode == 0
        assert lan.ssh("vm1", keys["new"], NEXT, "hostname").stdout == "vm1\n"
    finally:
        subprocess.run([*space, "nft", "delete table ip filter"], check=True)


def test_an_update_of_a_machine_that_runs_is_proven(lan: Lan, keys: dict[str, str]) -> None:
    lan.run("vmupdate", "vm1", "--pubkey-path", f"{keys['last']}.pub", "--ip", LAST, "--now")
    only(lan, keys, "last", LAST, NEXT)
    assert lan.run("vmupdate", "vm1", "--pubkey-path", f"{keys['last']}.pub", "--ip", LAST, "--now") == ""


def test_an_update_that_cannot_be_proven_is_undone(lan: Lan, keys: dict[str, str], tmp_path: Path) -> None:
    """First a public key without its private one, then with one that is another's."""
    public = tmp_path / "lost.pub"
    public.write_text(Path(f"{keys['old']}.pub").read_text(encoding="utf-8"), encoding="utf-8")
    before = lan.record("vm1")
    ended = lan.call("vmupdate", "vm1", "--pubkey-path", str(public), "--ip", ADDRESS, "--now")
    assert (ended.returncode, b"the private key" in ended.stderr) == (66, True), ended.stderr
    (tmp_path / "lost").write_text(Path(keys["new"]).read_text(encoding="utf-8"), encoding="utf-8")
    ended = lan.call("vmupdate", "vm1", "--pubkey-path", str(public), "--ip", ADDRESS, "--now")
    assert (ended.returncode, b"it is as before again" in ended.stderr) == (75, True), ended.stderr
    assert lan.record("vm1") == before
    only(lan, keys, "last", LAST, ADDRESS)


def test_what_is_to_be_read_by_eye_is_there(lan: Lan, keys: dict[str, str]) -> None:
    folder = lan.folder("vm1")
    assert [text(folder / name) for name in ("os.name", "vm.ip", "vm.mac", "pubkey.pub")] == [
        "debian", LAST, lan.record("vm1")["nics"][0]["mac"], text(Path(f"{keys['last']}.pub"))]
    assert b"qemu-system" in Path(f"/proc/{text(folder / 'vm.pid')}/cmdline").read_bytes()
    assert (folder / "seed.iso").stat().st_mode & 0o777 == 0o600
    lan.run("vmstop", "vm1")
    assert not (folder / "vm.pid").exists()


def test_an_image_that_carries_a_machine_is_protected(lan: Lan) -> None:
    ended = lan.call("cmimage", "remove", "debian")
    assert (ended.returncode, b"/vm1" in ended.stderr) == (75, True)
    ended = lan.call("cmnet", "delete", "lan")
    assert (ended.returncode, b"is used by vm1" in ended.stderr) == (75, True)


def _variant(renderer: str, package: str, files: dict[str, str], enabled: str) -> Recipe:
    """Our image with another one that sets the network up, as cloud-init's own renderers know it."""
    plain = recipe.debian("bookworm", [package])
    cloud = json.dumps({"system_info": {"network": {"renderers": [renderer]}}})
    late = {path: text for path, text in plain.late.items() if "80-dhcp" not in path}
    late |= {"/etc/cloud/cloud.cfg.d/95-test.cfg": TextFile(cloud)}
    late |= {path: TextFile(text) for path, text in files.items()}
    networkd = (("systemctl", "--quiet", "disable", "systemd-networkd.service", "systemd-networkd.socket"),)
    return dataclasses.replace(plain, late=late, commands=(
        *plain.commands, *(networkd if renderer == "eni" else ()),
        *((("systemctl", "--quiet", "enable", enabled),) if enabled else ())))


ADDRESSES = {"ifupdown": "192.168.86.61", "netplan": "192.168.86.62"}
WRITTEN = {"ifupdown": "/etc/network/interfaces.d/50-cloud-init", "netplan": "/etc/netplan/50-cloud-init.yaml"}
"""What cloud-init's renderer makes of the seed."""
VARIANTS = {
    "ifupdown": _variant("eni", "ifupdown", {"/etc/network/interfaces": "auto lo\niface lo inet loopback\n"
                                                                       "source /etc/network/interfaces.d/*\n"},
                         "networking.service"),
    "netplan": _variant("netplan", "netplan.io", {}, ""),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_guest_of_another_kind_has_what_its_seed_says(lan: Lan, keys: dict[str, str], name: str) -> None:
    store = Store(lan.world)
    world = World(data=lan.world.data, run=lan.world.run, config=lan.world.config)
    with Transaction(wiring.host(world), print) as transaction:
        images.build(transaction, store, Name(name), VARIANTS[name], sources=host_sources("bookworm"),
                     cache=f"{CACHE}/images")
    address = ADDRESSES[name]  # each its own: the router remembers whose an address was
    create(lan, name, keys["old"], "--ip", address, image=name)
    try:
        lan.run("vmstart", name)
        lan.run("vmwait", name)
        said = lan.ssh(name, keys["old"], address,
                       "hostname -f; ls /etc/netplan/50* /etc/network/interfaces.d/50* 2>/dev/null; "
                       "sudo cat /etc/ssh/ssh_host_ed25519_key.pub; echo; ip -4 route show default")
        lines = said.stdout.splitlines()
        assert said.stderr == "" and len(lines) == 4, said
        assert lines[:2] == [f"{name}.lan.cloudme", WRITTEN[name]]
        assert lines[2].split()[1] == text(lan.folder(name) / "host_key.pub").split()[1]
        assert f"via {ROUTER} dev eth0" in lines[3]
    finally:
        lan.run("vmstop", "-d", "-y", "--timeout", "5", name)


def test_the_lans_own_dhcp_serves_who_has_no_address_of_ours(lan: Lan, keys: dict[str, str]) -> None:
    create(lan, "vm3", keys["old"])
    assert text(lan.folder("vm3") / "vm.ip") == "dhcp"
    try:
        lan.run("vmstart", "vm3")
        lan.run("vmwait", "vm3", "--for", "booted")
        address = leased(lan, lan.record("vm3")["nics"][0]["mac"])
        pin = (lan.folder("vm3") / "known_hosts").read_text(encoding="utf-8").split(" ", 1)[1]
        (lan.folder("vm3") / "known_hosts").write_text(f"{address} {pin}", encoding="utf-8")
        for _ in range(60):
            if (said := lan.ssh("vm3", keys["old"], address, "hostname")).returncode == 0:
                break
            time.sleep(0.5)
        assert said.stdout == "vm3\n", said
    finally:
        lan.run("vmstop", "-d", "-y", "--timeout", "1", "vm3")


def leased(lan: Lan, mac: str) -> str:
    """What the router's DHCP server gave to a card."""
    for _ in range(300):
        words = Path(lan.home, "router.leases").read_text(encoding="utf-8").split()
        if mac in words:
            return words[words.index(mac) + 1]
        time.sleep(0.1)
    raise AssertionError("nothing")


def test_a_display_at_a_port_opens_with_a_password_of_the_moment(lan: Lan, keys: dict[str, str]) -> None:
    create(lan, "vm4", keys["old"], "--ip", "192.168.86.70", "--vnc-port", "5907")
    try:
        lan.run("vmstart", "vm4")
        lan.run("vmwait", "vm4", "--for", "booted")
        assert not _opens(lan, 5907, "")
        ended = lan.call("vm", "-G", "vm4")
        password = ended.stderr.decode().split("s: ")[1].split()[0]
        assert ended.returncode == 69  # there is no screen here
        assert not _opens(lan, 5907, "12345678")
        assert _opens(lan, 5907, password)
        assert text(lan.folder("vm4") / "vnc.port") == "5907"
        assert lan.from_router("bash", "-c", f"exec 3<>/dev/tcp/{HOST}/5907", check=False).returncode == 1
    finally:
        lan.run("vmstop", "-d", "-y", "--timeout", "1", "vm4")


def _opens(lan: Lan, port: int, password: str) -> bool:
    return inside(lan.world.namespace, lambda: _log_in(port, password))


def _log_in(port: int, password: str) -> bool:
    """RFC 6143, 7.1 and 7.2.2: a challenge, answered by DES with the password's bits mirrored in each byte."""
    from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
    from cryptography.hazmat.primitives.ciphers import Cipher, modes

    with socket.create_connection(("127.0.0.1", port), 5) as viewer:
        viewer.recv(12)
        viewer.send(b"RFB 003.008\n")
        kinds = viewer.recv(16)
        if 2 not in kinds[1:]:
            return False
        viewer.send(b"\2")
        challenge = viewer.recv(16)
        mirrored = bytes(int(f"{byte:08b}"[::-1], 2) for byte in password.encode().ljust(8, b"\0"))
        des = Cipher(TripleDES(mirrored * 3), modes.ECB()).encryptor()
        viewer.send(des.update(challenge))
        return bool(struct.unpack("!I", viewer.recv(4))[0] == 0)
