"""Root's network shared with ordinary users, with the real bridge helper: what they may join, and what not."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
import subprocess
import sys

from cloudme import shared
from cloudme.layout import BRIDGE_HELPERS
from cloudme.store import Store
from tests.shared import ALICE, BOB, ETC, Sharing, etc, sharing
from tests.users import User, outside

__all__ = ["etc", "outside", "sharing"]

GREETING = "hello from the bridge"


def machine(user: User, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Make and start a machine on an empty disk: QEMU, and no guest."""
    image, key = user.home / "empty.qcow2", user.home / "key.pub"
    if not image.exists():
        user.run("qemu-img", "create", "-q", "-f", "qcow2", str(image), "64M")
        user.run("sh", "-c", f"echo ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGr3 x >{key}; touch {user.home}/key")
        user.run("cmimage", "add", "empty", str(image), "--user", "debian")
    return user.call("vmcreate", name, "--machine", "--image", "empty", "--pubkey-path", str(key), *options)


def helped(user: User, bridge: str) -> subprocess.CompletedProcess[str]:
    """What QEMU's helper says when this user calls it himself."""
    return user.call(sys.executable, "-c", f"""
import socket, subprocess, sys
ours, theirs = socket.socketpair()
sys.exit(subprocess.run([{BRIDGE_HELPERS[0]!r}, "--br={bridge}", f"--fd={{theirs.fileno()}}"],
                        pass_fds=[theirs.fileno()]).returncode)""")


def lists() -> str:
    """All that the helper may be told by our files."""
    return "".join(path.read_text() for path in [ETC / "bridge.conf", *sorted(ETC.glob("cloudme.d/*"))]
                   if path.exists())


def test_a_users_machine_is_on_roots_bridge(sharing: Sharing) -> None:
    """Each file is what only root may write, and the list of a user what only he may read."""
    assert (ETC / "bridge.conf").read_text().splitlines()[1] == f"include {ETC}/cloudme.d/{ALICE}.conf"
    assert stat.S_IMODE((ETC / "bridge.conf").stat().st_mode) == 0o644
    own = ETC / f"cloudme.d/{ALICE}.conf"
    assert (stat.S_IMODE(own.stat().st_mode), own.stat().st_uid, own.stat().st_gid) == (0o640, 0, sharing.alice.gid)
    assert own.read_text().splitlines()[1] == "allow bridge0"
    assert "allow all" not in lists()
    assert sharing.root.ports() == []
    made = machine(sharing.alice, "vm0", "--network", "host")
    assert made.returncode == 0, made.stderr
    sharing.alice.run("vmstart", "vm0")
    assert len(sharing.root.ports()) == 1
    reserved = sharing.root.store.reservations("default")
    nic = Store(sharing.alice.world).machine("vm0").nics[0]
    assert (nic.mac, nic.address) == reserved[shared.reservation(ALICE, 0)]
    refused = sharing.root.call("stop")
    assert refused.returncode == os.EX_TEMPFAIL
    assert "machines of a user" in refused.stderr
    sharing.alice.run("vmstop", "--timeout", "0s", "vm0")
    assert sharing.root.ports() == []
    assert sharing.alice.processes() == {}


def test_who_was_not_allowed_is_refused_by_us_and_by_the_helper(sharing: Sharing) -> None:
    made = machine(sharing.bob, "vm0", "--network", "host")
    assert made.returncode == os.EX_NOPERM
    assert f"cmnet start default --allow-user {BOB}" in made.stderr
    assert "access denied by acl file" in helped(sharing.bob, "bridge0").stderr
    assert helped(sharing.alice, "bridge0").returncode == 0


def test_no_other_bridge_can_be_joined_whatever_a_user_pretends(sharing: Sharing) -> None:
    """alice shows her commands records of her own making; the helper does not care."""
    sharing.root.cmnet("create", "lab", "--cidr", "10.44.0.0/24", "--resolve", "none")
    try:
        assert machine(sharing.alice, "vm0", "--network", "lab").returncode == os.EX_NOPERM
        assert "access denied" in helped(sharing.alice, "cm-lab").stderr
        forged = sharing.alice.home / "forged"
        shutil.copytree(sharing.root.home / "networks", forged / "networks")
        record = forged / "networks/lab.json"
        record.write_text(record.read_text().replace('"users": []', f'"users": ["{ALICE}"]'))
        (forged / "networks/lab.dhcp").mkdir(exist_ok=True)
        name = shared.reservation(ALICE, 0)
        (forged / f"networks/lab.dhcp/{name}").write_text(f"52:54:00:00:00:09,10.44.0.9,{name}\n")
        subprocess.run(["chown", "-R", ALICE, forged], check=True)
        liar = dataclasses.replace(sharing.alice, within=(*sharing.alice.within, "env", f"CLOUDME_HOST_HOME={forged}"))
        assert machine(liar, "vm0", "--network", "lab").returncode == 0
        started = liar.call("vmstart", "vm0")
        assert (started.returncode, "does not allow 'cm-lab'" in started.stderr) == (os.EX_NOPERM, True)
        assert sharing.root.ports("cm-lab") == []
    finally:
        sharing.root.cmnet("delete", "lab")


def test_a_user_sees_roots_network_and_changes_nothing_of_it(sharing: Sharing) -> None:
    listed = json.loads(sharing.alice.run("cmnet", "list", "--json"))
    assert [(one["network"], one["shared"], one["started"]) for one in listed] == [
        ("default", False, False), ("host", True, True)]
    assert listed[1]["reservations"] == shared.CARDS
    assert "root's" in sharing.alice.run("cmnet", "list")
    assert len(json.loads(sharing.bob.run("cmnet", "list", "--json"))) == 1
    for words in (["start", "host"], ["stop", "host"], ["delete", "host"], ["reload", "host"]):
        for user in (sharing.alice, sharing.bob):
            ended = user.call("cmnet", *words)
            assert ended.returncode == os.EX_NOPERM, (words, ended.stderr)
    assert sharing.alice.call("cmnet", "start", "--allow-user", BOB).returncode == os.EX_NOPERM
    assert sharing.alice.call("cmnet", "create", "host", "--cidr", "10.1.0.0/24").returncode == os.EX_CANTCREAT


def test_an_allowance_lasts_until_it_is_taken_back(sharing: Sharing) -> None:
    reserved = sharing.root.store.reservations("default")
    assert sharing.root.cmnet("start", "--resolve", "none", "-v") == ""
    sharing.root.cmnet("stop")
    assert lists() == ""
    assert "access denied" in helped(sharing.alice, "bridge0").stderr or not (ETC / "bridge.conf").exists()
    sharing.root.cmnet("start", "--resolve", "none")
    assert sharing.root.store.reservations("default") == reserved
    assert helped(sharing.alice, "bridge0").returncode == 0
    said = sharing.root.cmnet("start", "--resolve", "none", "--allow-user", BOB, "--deny-user", ALICE, "-v")
    assert f"give the addresses back that {ALICE} had" in said
    assert (helped(sharing.alice, "bridge0").returncode, helped(sharing.bob, "bridge0").returncode) == (1, 0)
    assert machine(sharing.alice, "vm0", "--network", "host").returncode == os.EX_NOPERM
    network = sharing.root.store.network()
    assert network and network.users == (BOB,)
    assert "allow all" not in lists()
    assert sharing.root.call("start", "--allow-user", "nobody-of-that-name").returncode == os.EX_NOINPUT
    assert sharing.root.call("start", "--allow-user", "root").returncode == os.EX_USAGE


def test_machines_there_are_reached_from_outside_alone(sharing: Sharing) -> None:
    """Somebody answers at the machine's address on root's bridge; the user's own network has the same addresses."""
    assert machine(sharing.alice, "vm0", "--network", "host").returncode == 0
    sharing.alice.run("cmnet", "start")
    sharing.alice.run("vmstart", "vm0")
    address = Store(sharing.alice.world).machine("vm0").address
    sharing.root.ip("address", "add", f"{address}/32", "dev", "bridge0")
    serve = ("import socket, sys\nserver = socket.create_server((sys.argv[1], 22))\nprint('ready', flush=True)\n"
             f"while True: server.accept()[0].sendall({GREETING!r}.encode())")
    argv = ["nsenter", f"--net=/run/netns/{sharing.root.outside}", sys.executable, "-c", serve, str(address)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout and server.stdout.readline() == "ready\n"
            assert sharing.alice.run("vm", "--proxy", "vm0") == GREETING
            assert sharing.alice.run(sys.executable, "-c", FROM_INSIDE, str(sharing.alice.programs)) == GREETING
        finally:
            server.kill()


FROM_INSIDE = """
import os, subprocess, sys, tempfile
sys.path.insert(0, sys.argv[1])
from cloudme.host import outside, rootless, run
twin = outside.forked(outside.Here(run.Programs()))
rootless.fresh()
with tempfile.TemporaryDirectory() as folder:
    twin.door(f"{folder}/door")
    proxy = subprocess.run([sys.executable, f"{sys.argv[1]}/bin/vm", "--proxy", "vm0"], stdin=subprocess.DEVNULL,
                           env=os.environ | {"CLOUDME_OUTSIDE": f"{folder}/door"}, check=True)
"""
"""As Ansible does it, whose ssh vmlaunch starts in the user's realm."""
