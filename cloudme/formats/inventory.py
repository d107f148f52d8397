"""Machines -> Ansible's inventory (Ansible documentation, 'Developing dynamic inventory')."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from cloudme.layout import World
from cloudme.model.machine import Machine
from cloudme.model.ports import Target

SSH_OPTIONS = (
    "StrictHostKeyChecking=yes", "GlobalKnownHostsFile=/dev/null", "IdentitiesOnly=yes",
    "PreferredAuthentications=publickey", "ForwardAgent=no",
)
SSH_PORT = 22

_FORBIDDEN = re.compile(r"\W|^(?=\d)", re.ASCII)
"""What Ansible bears in no name of a group: they must be good as names of variables."""


def groups(machine: Machine) -> list[str]:
    """Ansible's names of the groups that a machine is in: <group>, <type>, <group>_<type>.

    A hyphen becomes an underscore, and one is put before a leading digit.
    """
    return [_FORBIDDEN.sub("_", name) for name in (machine.group, machine.type, f"{machine.group}_{machine.type}")]


def variables(machine: Machine, target: Target, proxy: Sequence[str] = ()) -> dict[str, Any]:
    """How Ansible reaches a machine. `proxy`: a command line that connects its stdin and stdout to the ssh port."""
    options = [*(option for option in SSH_OPTIONS if target.key_file or not option.startswith("IdentitiesOnly")),
               f"UserKnownHostsFile={_file(target.known_hosts_file)}", f"HostKeyAlias={machine.name}"]
    if proxy:
        options.append(f"ProxyCommand={_literal(shlex.join(proxy))}")
    return {
        "ansible_host": target.address, "ansible_user": target.user,
        **({"ansible_port": target.port} if target.port != SSH_PORT else {}),
        **({"ansible_ssh_private_key_file": target.key_file} if target.key_file else {}),
        "ansible_ssh_common_args": shlex.join(word for option in options for word in ("-o", option)),
        "ansible_host_key_checking": True,  # a setting elsewhere would come first on ssh's command line, and win
        "cloudme_group": machine.group, "cloudme_type": machine.type,
    }


def _literal(text: str) -> str:
    """ssh replaces what begins with a % (ssh_config(5), TOKENS)."""
    return text.replace("%", "%%")


def _file(path: str) -> str:
    """ssh splits the value of UserKnownHostsFile at blanks, unless it is quoted (ssh_config(5))."""
    return f'"{_literal(path)}"' if " " in path else _literal(path)


def listing(hosts: Mapping[Machine, Mapping[str, Any]]) -> dict[str, Any]:
    """What `--list` prints: the groups with their hosts, and the variables of every host below _meta."""
    return {
        **{group: {"hosts": names} for group, names in _members(hosts).items()},
        "_meta": {"hostvars": {str(machine.name): dict(values) for machine, values in hosts.items()}},
    }


def static(hosts: Mapping[Machine, Mapping[str, Any]]) -> dict[str, Any]:
    """The same as a static inventory (Ansible's YAML plug-in, which reads JSON)."""
    return {"all": {
        "hosts": {str(machine.name): dict(values) for machine, values in hosts.items()},
        "children": {group: {"hosts": {name: {} for name in names}} for group, names in _members(hosts).items()},
    }}


def _members(hosts: Mapping[Machine, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Group -> names of its machines."""
    found: dict[str, list[str]] = {}
    for machine in hosts:
        for group in dict.fromkeys(groups(machine)):
            found.setdefault(group, []).append(str(machine.name))
    return found


def proxy(program: str, machine: Machine, world: World, *, home: str | None, door: str | None = None) -> list[str]:
    """The ProxyCommand into a realm that is not the host's: `program` is the path of `vm`; home is CLOUDME_HOME,
    where it is set; door is where one that is started inside finds what stayed outside."""
    values = [f"CLOUDME_HOME={os.path.abspath(home)}"] if home else []
    values += [f"CLOUDME_OUTSIDE={door}"] if door else []
    environment = ["env", *values] if values else []
    realm = ["--realm", world.realm] if world.realm else []
    return [*environment, program, *realm, "--proxy", machine.name] if world.private else []
