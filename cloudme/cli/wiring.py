"""Builds the real host and reads the settings: the only place where both sides of the ports meet."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator

from cloudme import layout
from cloudme.formats import catalogue as catalogue_format
from cloudme.formats import settings as settings_format
from cloudme.layout import World
from cloudme.model.catalogue import Entry
from cloudme.model.hostconfig import Accelerator, Settings
from cloudme.model.ports import Host, Outside
from cloudme.model.steps import Step

DOOR = "CLOUDME_OUTSIDE"
"""Where it is set, this command was started by one that is in the realm already: the door that this one opened."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cloudme.host.outside import Here


def settings(world: World, accel: str | None) -> Settings:
    """System, user and ./cloudme.toml, the later over the earlier; an option over all."""
    files = [os.path.join(world.config, "cloudme.toml"), "cloudme.toml"]
    if "CLOUDME_HOME" not in os.environ:
        files.insert(0, "/etc/cloudme/cloudme.toml")
    found = settings_format.read(list(dict.fromkeys(files)))
    return dataclasses.replace(found, accel=Accelerator(accel)) if accel else found


def catalogue(world: World) -> dict[str, Entry]:
    """The images that can be pulled: ours, the system's, the user's; a later entry replaces one of the same name."""
    files = [os.path.join(layout.text_templates(), layout.CATALOGUE), world.catalogue]
    if "CLOUDME_HOME" not in os.environ:
        files.insert(1, os.path.join("/etc/cloudme", layout.CATALOGUE))
    return catalogue_format.read(list(dict.fromkeys(files)))


def host(world: World) -> Host:
    """Enter the realm and return the adapters. A user's own realm that is not there is an empty one.

    Raises:  NotFound where there is no such realm.
    """
    from cloudme.host import realm

    if world.rootless:
        return visiting(world)
    outside = _outside(world)
    if world.realm:
        realm.enter(world.namespace, world.realm)
    return _adapters(world, outside)


def visiting(world: World) -> Host:
    """Like `host`; a realm that is missing is an empty one, which ends with this process.

    A command that was started by one of ours, inside, stays there.
    """
    from cloudme.host import realm, rootless

    if door := os.environ.get(DOOR):
        return _adapters(world, _behind(door))
    outside = _outside(world)
    if world.rootless:
        os.makedirs(world.data, mode=0o700, exist_ok=True)  # his machines are nobody else's business
        if not _inside(world):
            rootless.fresh()
    elif world.realm and realm.exists(world.namespace):
        realm.enter(world.namespace, world.realm)
    elif world.realm:
        realm.fresh()
    return _adapters(world, outside)


@contextlib.contextmanager
def founded(
    world: World, *, dry_run: bool, say: Callable[[str], None], kept: Callable[[], bool] = lambda: False,
) -> Iterator[Host]:
    """Like `host`; a realm that is missing is made, and unmade where the block fails. kept: not even then, since
    something lives there."""
    from cloudme.host import realm, rootless

    if world.rootless:
        if not any(rootless.keepers(world)):
            say("make a user namespace and a network namespace in it")
        yield visiting(world)
        return
    if not world.realm or realm.exists(world.namespace):
        yield host(world)
        return
    say(f"make the network namespace {world.namespace}")
    if dry_run:
        yield visiting(world)
        return
    outside = _outside(world)
    try:
        realm.make(world.namespace)
        yield _adapters(world, outside)
    except BaseException:
        if not kept():
            realm.remove(world.namespace)
        raise


def staying(world: World) -> Host:
    """The adapters in the host's own namespace: packages come from elsewhere."""
    return _adapters(world, _outside(world))


def _inside(world: World) -> bool:
    """Enter the namespaces of a user's realm, if somebody lives in them."""
    from cloudme.host import rootless

    return any(rootless.enter(pid) for pid in rootless.keepers(world))


def _outside(world: World) -> Outside:
    """To be called before the realm is entered."""
    from cloudme.host import outside

    return outside.forked(_here()) if world.private else _here()


def _behind(door: str) -> Outside:
    from cloudme.host import outside

    return outside.behind(door)


def _here() -> Here:
    from cloudme.host import outside, run

    return outside.Here(run.Programs())


@dataclasses.dataclass(frozen=True, slots=True)
class RemoveRealm:
    """The last step of a stop: it has no way back, and needs none."""

    path: str

    def describe(self) -> str:
        return f"remove the network namespace {self.path}"

    def do(self, host: Host) -> None:
        from cloudme.host import realm

        realm.remove(self.path)

    def undo(self, host: Host) -> None:
        """Nothing comes after it."""


def abandon(world: World) -> list[Step]:
    """The step that removes the realm, where it is a named one that is there."""
    there = world.realm and not world.rootless and os.path.exists(world.namespace)
    return [RemoveRealm(world.namespace)] if there else []


def _adapters(world: World, outside: Outside) -> Host:
    from cloudme.host import (
        agent,
        cgroup,
        clock,
        companions,
        download,
        events,
        files,
        iso,
        keys,
        netlink,
        playbook,
        qemu,
        relays,
        rootless,
        run,
        ssh,
        streams,
        systemd,
        vfio,
    )

    runner = run.Programs()
    net = netlink.Links(outside, runner)
    groups = cgroup.Groups(runner)
    return Host(
        run=runner, qemu=qemu.Qemu(runner, net, groups), events=events.Monitors(), groups=groups, net=net,
        outside=outside, relays=relays.Relays(runner), companions=companions.Beside(runner),
        units=systemd.Systemd(runner), shell=ssh.Ssh(outside), agent=agent.GuestAgent(),
        streams=streams.Standard(outside), playbooks=playbook.Ansible(runner, world.config),
        download=download.Http(), iso=iso.IsoWriter(),
        keys=keys.SshKeys(), files=files.Below(), devices=vfio.Sysfs(), now=time.time,
        synchronised=clock.synchronised, become_root=lambda: rootless.become_root(outside),
    )
