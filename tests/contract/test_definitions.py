"""The command line of a definition: the real QEMU takes it, and has each device where it was allotted."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloudme.model.definitions.nouns import Merged
from cloudme.qemu.definitions import command
from tests.conftest import ROOT
from tests.unit.test_definitions import Machina

pytestmark = [pytest.mark.contract,
              pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="qemu-system-x86_64 is missing")]

ATTRS = {"memory": {"ram": 64}, "cpu": {"sockets": 1, "cores": 2}, "qmp": {"enabled": True},
         "firmware": {"code": {"name": "code", "storage": "fw"}, "vars": {"name": "vars", "storage": "own"}},
         "agent": {"qemu": {"enabled": True}}}
KINDS = ("raw", "raw-scsi", "raw-block", "qcow2", "vvfat-block", "iso-ahci", "iso-scsi", "iso-usb", "qcow2-block")


@pytest.fixture
def machina() -> Iterator[Machina]:
    """In a short folder: a socket's path has 108 bytes at most."""
    folder = tempfile.mkdtemp(prefix="cm-")
    yield Machina(Path(folder))
    shutil.rmtree(folder)


def definition(machina: Machina, *, connections: int, spice_port: int = 0) -> tuple[Merged, list[str]]:
    """A machine with a volume of every kind, one of them with a comma in its name, and its command line."""
    folder = machina.folder / "disks"
    (folder / "vvfat-block,0").mkdir(parents=True)
    for name in ("code", "vars"):
        (folder / name).write_bytes(b"\0" * (1 << 17))
    for kind in set(KINDS) - {"vvfat-block"}:
        (folder / f"{kind},0").write_bytes(b"\0" * (1 << 20))
    for kind in ("qcow2", "qcow2-block"):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(folder / f"{kind},0"), "1M"], check=True)
    pools = {kind: {"path": str(folder), "pattern": "${volume}", "type": kind} for kind in KINDS}
    fw = {"path": str(folder), "pattern": "${volume}", "type": "firmware"}
    machina.host({"storage": pools | {"fw": fw | {"readonly": True}, "own": fw}, "network": {"lan": {}}})
    spice = {"spice": {"enabled": True, "port": spice_port, "displays": 2}} if spice_port else {}
    machina.machine("vm", {
        "attrs": ATTRS | spice,
        "volumes": [{"name": f"{kind},0", "storage": kind, "bootindex": index} for index, kind in enumerate(KINDS, 1)],
        "connections": [{"name": str(index), "network": "lan"} for index in range(connections)]})
    site = machina.read()
    (machine,) = site.pick(["vm"])
    run = str(machina.folder)
    options = command.options(machine, site.host, command.Ground(run=run))
    return machine, [word.replace("/run/machina", run) for word in command.argv(options)]


def here(argv: list[str]) -> list[str]:
    """The same for this host: emulated, with cards in no network, stopped."""
    words = ["max" if word == "host" else word for word in argv if word != "-enable-kvm"]
    words = [f"user,id={word.split(',')[1].removeprefix('id=')},restrict=on" if word.startswith("tap,") else word
             for word in words]
    return [*words, "-S", "-accel", "tcg"]


@contextmanager
def asked(machine: Merged, machina: Machina, argv: list[str], *questions: str) -> Iterator[list[Any]]:
    """QEMU's answers by the second of its QMP sockets; it has ended afterwards."""
    (machina.folder / "vm").mkdir()
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               text=True)
    path = machine.attributes.qmp_sockets[1].replace("/run/machina", str(machina.folder))
    try:
        while not Path(path).exists():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rw") as stream:
            connection.connect(path)
            stream.readline()
            answers = []
            for question in ("qmp_capabilities", *questions):
                stream.write(json.dumps({"execute": question}) + "\n")
                stream.flush()
                answer = json.loads(stream.readline())
                assert "error" not in answer
                answers.append(answer["return"])
        yield answers[1:]
    finally:
        process.kill()
        process.communicate()


def test_qemu_takes_every_kind_of_volume_and_has_it_where_it_was_allotted(machina: Machina) -> None:
    machine, argv = definition(machina, connections=70)
    with asked(machine, machina, here(argv), "query-pci", "query-block") as (buses, drives):
        ports = {(device["slot"], device["function"]) for device in buses[0]["devices"]
                 if device["class_info"]["class"] == 0x0604}
    wanted = {tuple(int(part, 16) for part in word.split(",addr=")[1].split(",")[0].split("."))
              for word in argv if word.startswith("ioh3420,")}
    assert ports == wanted and (10, 1) in ports
    assert {Path(drive["inserted"]["file"]).name.partition(":")[0] for drive in drives if "inserted" in drive} >= {
        f"{kind},0" for kind in KINDS if kind not in ("vvfat-block", "qcow2", "qcow2-block")}


def test_qemu_takes_displays_and_what_a_viewer_needs(machina: Machina) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machine, argv = definition(machina, connections=1, spice_port=port)
    with asked(machine, machina, here(argv), "query-spice", "query-chardev") as (spice, chardevs):
        assert spice["port"] == port
        assert {"vdagent", "usbredir.0", "usbredir.1", "guestagent"} <= {chardev["label"] for chardev in chardevs}


def test_the_program_says_what_the_core_says(machina: Machina) -> None:
    _, argv = definition(machina, connections=1)
    said = subprocess.run([ROOT / "bin/vmargs", "--root", str(machina.folder.parents[1]), "vm", "--json"],
                          capture_output=True, text=True, check=True).stdout
    assert [word.replace("/run/machina", str(machina.folder)) for word in json.loads(said)[0]["argv"]] == argv
