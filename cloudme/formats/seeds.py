"""The cloud-init disk of a machine: NoCloud's three files (cloud-init documentation, 'NoCloud')."""

from __future__ import annotations

from dataclasses import dataclass

from cloudme.formats import render
from cloudme.model.machine import Machine

LABEL = "cidata"
"""The volume label by which cloud-init knows the disk."""

FILES = {"user-data": "user-data.j2", "meta-data": "meta-data.j2", "network-config": "network-config.j2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """public: who may come in. host_private, host_public: what the guest shows. Lines and files as OpenSSH has them."""

    public: str
    host_private: str
    host_public: str

    def __repr__(self) -> str:
        return "Keys(***)"


def files(machine: Machine, keys: Keys, *, domain: str, config: str) -> dict[str, bytes]:
    """Return name -> content of the files on the disk. `config` is the folder whose templates/ win."""
    values = {
        "name": machine.name, "fqdn": f"{machine.name}.{domain}", "user": machine.access.user,
        "instance_id": machine.uuid, "public_key": keys.public.strip(), "host_key_private": keys.host_private,
        "host_key_public": keys.host_public.strip(),
    }
    return {name: render.text(template, config, **values).encode() for name, template in FILES.items()}


def known_hosts(machine: Machine, host_public: str) -> str:
    """The known_hosts line (sshd(8)) that pins a machine's host key to its name and its address."""
    kind, key = host_public.split()[:2]
    return f"{','.join(filter(None, (machine.name, machine.address)))} {kind} {key}\n"
