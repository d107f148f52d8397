"""Machines -> Ansible's inventory (Ansible documentation, 'Developing dynamic inventory')."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from cloudme.model.machine import Machine
from cloudme.model.ports import Target

SSH_OPTIONS = (
    "StrictHostKeyChecking=yes", "GlobalKnownHostsFile=/dev/null", "IdentitiesOnly=yes",
    "PreferredAuthentications=publickey", "ForwardAgent=no",
)


def groups(machine: Machine) -> list[str]:
    """Ansible's names of the groups that a machine is in: <group>, <type>, <group>_<type>.

    A hyphen, which Ansible bears in no name of a group, becomes an underscore.
    """
    group, kind = machine.group.replace("-", "_"), machine.type.replace("-", "_")
    return [group, kind, f"{group}_{kind}"]


def limit(machine: Machine) -> str:
    """The group that holds all machines of this one's group and type."""
    return groups(machine)[-1]


def variables(machine: Machine, target: Target, proxy: Sequence[str] = ()) -> dict[str, str]:
    """How Ansible reaches a machine. `proxy`: a command line that connects its stdin and stdout to port 22."""
    options = [*SSH_OPTIONS, f"UserKnownHostsFile={_quoted(target.known_hosts_file)}",
               f"HostKeyAlias={machine.name}"]
    if proxy:
        options.append(f"ProxyCommand={shlex.join(proxy)}")
    return {
        "ansible_host": target.address, "ansible_user": target.user,
        "ansible_ssh_private_key_file": target.key_file,
        "ansible_ssh_common_args": shlex.join(word for option in options for word in ("-o", option)),
        "cloudme_group": machine.group, "cloudme_type": machine.type,
    }


def _quoted(path: str) -> str:
    """ssh splits the value of UserKnownHostsFile at blanks, unless it is quoted (ssh_config(5))."""
    return f'"{path}"' if " " in path else path


def listing(hosts: Mapping[Machine, Mapping[str, str]]) -> dict[str, Any]:
    """What `--list` prints: the groups with their hosts, and the variables of every host below _meta."""
    found: dict[str, Any] = {}
    for machine in hosts:
        for group in groups(machine):
            members = found.setdefault(group, {"hosts": []})["hosts"]
            if machine.name not in members:
                members.append(str(machine.name))
    found["_meta"] = {"hostvars": {str(machine.name): dict(values) for machine, values in hosts.items()}}
    return found


def static(hosts: Mapping[Machine, Mapping[str, str]]) -> dict[str, Any]:
    """The same as a static inventory (Ansible's YAML plug-in, which reads JSON)."""
    children: dict[str, Any] = {}
    for machine in hosts:
        for group in groups(machine):
            children.setdefault(group, {"hosts": {}})["hosts"][str(machine.name)] = {}
    return {"all": {"hosts": {str(m.name): dict(values) for m, values in hosts.items()}, "children": children}}


def proxy(program: str, machine: Machine, *, realm: str, home: str | None) -> list[str]:
    """The ProxyCommand into a named realm: `program` is the path of `vm`; home is CLOUDME_HOME, where it is set."""
    environment = ["env", f"CLOUDME_HOME={os.path.abspath(home)}"] if home else []
    return [*environment, program, "--realm", realm, "--proxy", machine.name] if realm else []
