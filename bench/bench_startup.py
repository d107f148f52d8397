"""What commands cost before they do anything, against an interpreter that does nothing.

CLOUDME_BENCH names a folder of installed commands (/usr/local/bin); without it the checkout is measured.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from bench.ratios import compare
from cloudme import layout, store
from cloudme.model.machine import Access, Disk, Machine, Nic, Shape
from cloudme.model.names import Name, numbered

ROOT = Path(__file__).resolve().parent.parent
MACHINES = 200
RUNNING = 20


def machine(number: int) -> Machine:
    return Machine(
        name=numbered("web", number), uuid="9c5b94b1-35ad-49bb-b118-8e8fc24abf80", group=f"pf{number % 4}",
        type=Name("web"), template=Name("debian"), shape=Shape(vcpus=2, ram_mib=512),
        disks=(Disk(file="disk.qcow2", size_bytes=4 << 30),),
        nics=(Nic(network=Name("default"), mac=f"52:54:00:00:00:{number:02x}", address=f"198.51.100.{number}"),),
        access=Access(user="root", key_of=Name("debian"), seeded=True), created="2025-11-20T22:00:00Z")


def populate(world: layout.World) -> list[int]:
    """Make the machines; returns the locks of those that seem to run."""
    for made in map(machine, range(MACHINES)):
        os.makedirs(world.machine(made.name))
        Path(layout.lock(world.machine(made.name))).touch()
        store.Store(world).publish(made)
    return [store.take_lock(layout.lock(world.machine(machine(number).name))) for number in range(RUNNING)]


def commands(folder: str | None) -> dict[str, str]:
    """Name -> path of every command."""
    places = [Path(folder), Path(folder).parent / "sbin"] if folder else [ROOT / "bin", ROOT / "sbin"]
    known = [path.name for place in (ROOT / "bin", ROOT / "sbin") for path in sorted(place.iterdir()) if path.is_file()]
    return {name: str(place / name) for name in known for place in places if (place / name).exists()}


def main() -> None:
    found = commands(os.environ.get("CLOUDME_BENCH"))
    home = tempfile.mkdtemp(prefix="cm-bench-")
    env = {name: value for name, value in os.environ.items()
           if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith("CLOUDME_")} | {"CLOUDME_HOME": home}
    with open(found["vmrunning"], encoding="utf-8") as program:
        line = program.readline().removeprefix("#!").split()
    python = line[0] if len(line) == 1 else sys.executable
    nothing = {"python3 -c pass": [python, "-c", "pass"]}
    os.environ["CLOUDME_HOME"] = home
    locks = populate(layout.world())
    try:
        compare(f"vmrunning, {MACHINES} machines of which {RUNNING} run", nothing | {
            " ".join(["vmrunning", *words]): [python, found["vmrunning"], *words]
            for words in ([], ["-a"], ["-g", "pf1"], ["-a", "--json"])}, env=env)
        helps = {f"{name} --help": [python, path, "--help"] for name, path in found.items()}
        compare("--help", nothing | helps, env=env)
        compare("--version", nothing | {"vmstop --version": [python, found["vmstop"], "--version"]}, env=env)
    finally:
        for fd in locks:
            os.close(fd)
        shutil.rmtree(home)


if __name__ == "__main__":
    main()
