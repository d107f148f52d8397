"""Builds the real host and reads the settings: the only place where both sides of the ports meet."""

from __future__ import annotations

import dataclasses
import os
import time

from cloudme.formats import settings as settings_format
from cloudme.layout import World
from cloudme.model.hostconfig import Accelerator, Settings
from cloudme.model.ports import Host


def settings(world: World, accel: str | None) -> Settings:
    """System, user and ./cloudme.toml, the later over the earlier; an option over all."""
    files = [os.path.join(world.config, "cloudme.toml"), "cloudme.toml"]
    if "CLOUDME_HOME" not in os.environ:
        files.insert(0, "/etc/cloudme/cloudme.toml")
    found = settings_format.read(list(dict.fromkeys(files)))
    return dataclasses.replace(found, accel=Accelerator(accel)) if accel else found


def host(world: World) -> Host:
    """Enter the realm and return the adapters."""
    from cloudme.host import agent, iso, keys, netlink, playbook, qemu, realm, run, ssh, streams

    if world.realm:
        realm.enter(world.namespace, world.realm)
    runner = run.Programs()
    net = netlink.Links(runner)
    return Host(
        run=runner, qemu=qemu.Qemu(runner, net), net=net, shell=ssh.Ssh(), agent=agent.GuestAgent(),
        streams=streams.Standard(), playbooks=playbook.Ansible(runner), iso=iso.IsoWriter(), keys=keys.SshKeys(),
        now=time.time,
    )
