"""A group from the seed's description file: booted, configured, used, broken, stopped. The order matters."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudme import index, layout
from cloudme.store import Store
from tests.guest.conftest import ROOT, Cloud

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]

NAMES = ["web00", "web01", "sql00"]


@pytest.fixture(scope="module", params=["cold", "instant"])
def group(request: pytest.FixtureRequest, cloud: Cloud, template: str) -> Iterator[list[str]]:
    """The three machines of examples/pftest, made and started: those that boot do while the next test begins."""
    if request.param == "instant":
        request.getfixturevalue("warm")
    made = cloud.run("vminstantiate", f"--{request.param}", "-f", str(ROOT / "examples/pftest"))
    assert made.split() == NAMES
    yield NAMES
    cloud.call("vmstop", "-d", "-y", "--timeout", "1", *NAMES)  # those that the last test did not come to


@pytest.fixture(scope="module")
def launched(cloud: Cloud, group: list[str]) -> list[dict[str, str]]:
    """The group, configured by the examples' playbooks; the rows that vmlaunch printed."""
    rows = json.loads(cloud.run("vmlaunch", "pf1", "--json", "--playbooks", str(ROOT / "examples/playbooks")))
    assert isinstance(rows, list)
    return rows


def test_the_image_booted_from_its_own_disk(cloud: Cloud, launched: object) -> None:
    assert "boot=" not in cloud.run("vm", "web00", "--", "cat", "/proc/cmdline").replace("BOOT_IMAGE=", "boot=", 0)
    assert cloud.run("vm", "web00", "--", "findmnt", "-no", "SOURCE", "/").startswith("/dev/vda1")


def test_playbooks_were_applied_to_every_type(launched: list[dict[str, str]]) -> None:
    assert [(row["name"], row["type"], row["result"]) for row in sorted(launched, key=lambda row: row["name"])] == [
        ("sql00", "sql", "changed"), ("web00", "web", "changed"), ("web01", "web", "changed")]


def test_each_web_server_answers_the_outside_with_its_own_name(cloud: Cloud, launched: object) -> None:
    machines = cloud.machines()
    for name in ("web00", "web01"):
        page = cloud.inside_run(["/usr/bin/python3", "-c", "import sys, urllib.request as u\n"
                                 "print(u.urlopen(sys.argv[1]).read().decode())", f"http://{machines[name]['address']}/"])
        assert name in page


def test_the_database_answers_a_query(cloud: Cloud, launched: object) -> None:
    assert cloud.run("vm", "sql00", "--", "su postgres -c \"psql -Atc 'select 6 * 7'\"").strip() == "42"


def test_a_second_launch_starts_nothing_and_changes_nothing(cloud: Cloud, launched: object) -> None:
    again = json.loads(cloud.run("vmlaunch", "pf1", "--json", "--playbooks", str(ROOT / "examples/playbooks")))
    assert {row["result"] for row in again} == {"ok"}


def test_a_failing_task_exits_71_with_its_message(cloud: Cloud, launched: object, tmp_path: Path) -> None:
    playbook = tmp_path / "broken.yml"
    playbook.write_text("- hosts: all\n  gather_facts: false\n  tasks:\n    - name: look for the moon\n"
                        "      ansible.builtin.fail: {msg: no moon tonight}\n", encoding="ascii")
    ended = cloud.call("vmlaunch", "pf1", "-t", "web", "--playbook", str(playbook))
    assert ended.returncode == 71
    assert b"look for the moon" in ended.stderr and b"no moon tonight" in ended.stderr
    assert ended.stdout.count(b"failed") == 2


def test_clones_share_no_identity(cloud: Cloud, launched: object) -> None:
    asked = ("hostname; cat /etc/machine-id; cut -d' ' -f2 /etc/ssh/ssh_host_ed25519_key.pub; "
             "cat /sys/class/net/e*/address; ip -4 -br address show | awk '/^e/ {print $3}'")
    answers = {name: cloud.run("vm", name, "--", asked).split() for name in NAMES}
    machines = cloud.machines()
    for name, (host_name, _, _, _, address) in answers.items():
        assert host_name == name and address.split("/")[0] == machines[name]["address"]
    assert all(len(set(column)) == len(NAMES) for column in zip(*answers.values(), strict=True))


def test_the_host_key_is_the_one_that_was_pinned(cloud: Cloud, launched: object) -> None:
    pinned = Path(cloud.world.machine("web00"), "known_hosts").read_text(encoding="ascii").split()[2]
    assert cloud.run("vm", "web00", "--", "cat /etc/ssh/ssh_host_ed25519_key.pub").split()[1] == pinned


def test_names_resolve_between_guests(cloud: Cloud, launched: object) -> None:
    address = cloud.machines()["sql00"]["address"]
    assert cloud.run("vm", "web00", "--", "getent ahostsv4 sql00.cloudme").split()[0] == address
    assert cloud.run("vm", "web00", "--", "getent ahostsv4 sql00").split()[0] == address


def test_a_command_has_its_status_stdin_and_stdout_passed(cloud: Cloud, launched: object) -> None:
    every_byte = bytes(range(256)) * 1000
    ended = cloud.call("vm", "web00", "--", "cat; echo to-stderr >&2; exit 7", stdin=every_byte)
    assert (ended.returncode, ended.stdout) == (7, every_byte)
    assert ended.stderr.strip() == b"to-stderr"


def test_an_unambiguous_prefix_will_do_and_an_ambiguous_one_is_refused(cloud: Cloud, launched: object) -> None:
    assert cloud.run("vm", "sq", "--", "hostname").strip() == "sql00"
    ended = cloud.call("vm", "web", "--", "hostname")
    assert ended.returncode == 64 and b"web00, web01" in ended.stderr


def test_files_are_copied_in_and_out(cloud: Cloud, launched: object, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    sent.write_bytes(os.urandom(300_000))
    cloud.run("vmcopy", str(sent), "web00:/tmp/there")
    cloud.run("vmcopy", "web00:/tmp/there", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == sent.read_bytes()


def test_the_console_log_is_the_guests(cloud: Cloud, launched: object) -> None:
    cloud.call("vmconsole", "web00", "--timeout", "3", stdin=b"\n")
    assert "web00 login:" in cloud.run("vmlogs", "web00")


def test_plain_ansible_works_with_the_inventory(cloud: Cloud, launched: object, tmp_path: Path) -> None:
    ansible = shutil.which("ansible-playbook", path=f"{Path(os.sys.executable).parent}:{os.environ['PATH']}")  # type: ignore[attr-defined]
    assert ansible
    playbook = tmp_path / "name.yml"
    playbook.write_text("- hosts: pf1_web\n  gather_facts: false\n  tasks:\n    - ansible.builtin.command: hostname\n"
                        "      register: it\n    - ansible.builtin.debug: {var: it.stdout}\n", encoding="ascii")
    ended = subprocess.run([ansible, "-i", str(ROOT / "bin/vminventory"), str(playbook)], env=cloud.env,
                           capture_output=True, check=False, timeout=300, cwd=tmp_path)
    out = ended.stdout.decode()
    assert ended.returncode == 0, out + ended.stderr.decode()
    assert '"it.stdout": "web00"' in out and '"it.stdout": "web01"' in out and "sql00" not in out


def test_what_runs_is_listed_with_group_type_address_and_start(cloud: Cloud, launched: object) -> None:
    lines = [line.split() for line in cloud.run("vmrunning", "-g", "pf1", "-t", "web").splitlines()]
    assert [line[:3] for line in lines] == [["web00", "pf1", "web"], ["web01", "pf1", "web"]]
    assert all(re.fullmatch(r"10\.210\.0\.\d+", line[3]) for line in lines)


def test_a_machine_killed_hard_is_stopped_at_once_and_starts_again(cloud: Cloud, launched: object) -> None:
    from cloudme.host.holders import holder

    store = Store(cloud.world)
    lock = layout.lock(store.folder(store.machine("web01")))
    before = cloud.run("vm", "web01", "--", "cat /etc/machine-id; echo kept > /root/kept; sync")
    with holder(lock) as pidfd:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        import select

        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        assert poller.poll(5000)
    assert not index.held(lock)
    assert cloud.machines()["web01"]["state"] == "stopped"
    after = cloud.run("vm", "web01", "--", "cat /etc/machine-id; cat /root/kept")
    assert after.split() == [before.strip(), "kept"]


def test_a_guest_that_ignores_the_power_button_is_ended_after_the_deadline(cloud: Cloud, launched: object) -> None:
    cloud.run("vm", "web00", "--", "mkdir -p /etc/systemd/logind.conf.d; "
              "printf '[Login]\\nHandlePowerKey=ignore\\n' > /etc/systemd/logind.conf.d/deaf.conf; "
              "systemctl restart systemd-logind")
    ended = cloud.call("vmstop", "web00", "--timeout", "3")
    assert ended.returncode == 0 and b"does not heed the power button" in ended.stderr
    assert cloud.machines()["web00"]["state"] == "stopped"


def test_templates_are_not_stopped_as_a_group(cloud: Cloud, template: str) -> None:
    assert cloud.call("vmstop", "-g", "templates").returncode == 64


def test_the_template_with_clones_is_protected(cloud: Cloud, group: list[str]) -> None:
    for words in (["vmcreate", "-a", "-n", "debian", "-m", "700"], ["vmcreate", "--remove", "-y", "-n", "debian"],
                  ["vmupgrade", "debian"]):
        ended = cloud.call(*words)
        assert ended.returncode == 75 and b"web00" in ended.stderr, words
    ended = cloud.call("cmimage", "remove", "debian")
    assert ended.returncode == 75 and b"debian" in ended.stderr


def test_the_group_is_stopped_and_destroyed_and_nothing_is_left(cloud: Cloud, launched: object) -> None:
    assert cloud.call("vmstop", "-g", "pf1", "-d").returncode == 64  # nobody to ask, and no -y
    cloud.run("vmstop", "-g", "pf1", "-d", "-y")
    assert {name for name, m in cloud.machines().items() if m["group"] != "templates"} == set()
    assert index.names(cloud.world.machines) == [] and Store(cloud.world).reservations("default") == {}
