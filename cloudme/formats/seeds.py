"""The cloud-init disk of a machine: NoCloud's three files (cloud-init documentation, 'NoCloud')."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from typing import Any

from cloudme.errors import SpecError
from cloudme.formats import render
from cloudme.model.machine import Machine, Nic
from cloudme.model.names import Name
from cloudme.model.network import Network

LABEL = "cidata"
"""The volume label by which cloud-init knows the disk."""

FILES = {"user-data": "user-data.j2", "meta-data": "meta-data.j2", "network-config": "network-config.j2"}

KINDS = {
    "#cloud-config-archive": "cloud-config-archive", "#cloud-config": "cloud-config", "#!": "x-shellscript",
    "#include": "x-include-url", "#cloud-boothook": "cloud-boothook", "## template: jinja": "jinja2",
}
"""How a part begins, and its MIME type below text/ (cloud-init documentation, 'User data formats')."""

BOUNDARY = "cloudme"
"""Between the parts: the same input gives the same disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """public: who may come in. host_private, host_public: what the guest shows. Lines and files as OpenSSH has them."""

    public: str
    host_private: str
    host_public: str

    def __repr__(self) -> str:
        return "Keys(***)"


def files(
    machine: Machine, keys: Keys, networks: Mapping[Name, Network], *, config: str, more: str = "", said: int = 0,
) -> dict[str, bytes]:
    """Return name -> content of the files on the disk.

    config:  the folder whose templates/ win.
    more:    the user's own user-data, which cloud-init merges with ours by its own rules: ours comes last, replaces
             plain values, and appends to lists.
    said:    when that is, in seconds since 1970.
    """
    values = {
        "name": called(machine), "fqdn": f"{called(machine)}.{domain(machine, networks)}", "user": machine.access.user,
        "instance_id": machine.seed_id or machine.uuid, "host_key_private": keys.host_private,
        "host_key_public": keys.host_public.strip(),
        "public_keys": [line.strip() for line in keys.public.splitlines() if line.strip() and line[0] != "#"],
        "cards": [_card(nic, networks[nic.network]) for nic in machine.nics],
        "bootcmd": _commands(machine, config, said),
    }
    made = {name: render.text(template, config, **values) for name, template in FILES.items()}
    if more:
        made["user-data"] = _joined(made["user-data"], more)
    return {name: text.encode() for name, text in made.items()}


def called(machine: Machine) -> str:
    """What a machine calls itself."""
    return machine.hostname or machine.name


def mounts(machine: Machine, said: int) -> list[str]:
    """The words of templates/mount.sh, outer mounts first. said: when that is, in seconds since 1970."""
    return [str(said), *(word for share in sorted(machine.shares, key=lambda share: share.mount_point)
                         for word in (share.tag, share.mount_point, "ro" if share.readonly else "rw"))]


def _commands(machine: Machine, config: str, said: int) -> list[list[str]]:
    """What is done at each boot: keys that a seed before this one brought go, to which cloud-init would only add;
    shares are mounted, and those of such a seed forgotten."""
    user, found = machine.access.user, []
    if user != "root":
        found.append(["cloud-init-per", "instance", "cloudme-keys", "sh", "-c", f"rm -f ~{user}/.ssh/authorized_keys"])
    if machine.shares or machine.seed_id:
        found.append(["sh", "-c", render.script("mount.sh", config), "mount.sh", *mounts(machine, said)])
    return found


def kind(user_data: str, where: str) -> str:
    """The MIME type, below text/, of user-data that comes from a user. Raises SpecError."""
    for mark, name in KINDS.items():
        if user_data.startswith(mark):
            return name
    raise SpecError([f"{where}:1: this is no user-data of cloud-init"],
                    hint=f"it begins with one of {', '.join(repr(mark) for mark in KINDS)}")


def domain(machine: Machine, networks: Mapping[Name, Network]) -> str:
    return networks[machine.nics[0].network].domain if machine.nics else next(iter(networks.values())).domain


def known_hosts(machine: Machine, host_public: str) -> str:
    """The known_hosts line (sshd(8)) that pins a machine's host key to its name and its addresses."""
    key_type, key = host_public.split()[:2]
    addresses = [address for nic in machine.nics for address in (nic.address, nic.address6) if address]
    return f"{','.join((machine.name, *addresses))} {key_type} {key}\n"


def _card(nic: Nic, network: Network) -> dict[str, Any]:
    """What network-config.j2 says of a card; `address` only where the guest is told it."""
    return {
        "mac": nic.mac, "domain": network.domain, "gateway": network.address.ip, "dns": network.name_servers,
        "address": f"{nic.address}/{network.address.network.prefixlen}" if nic.static else None,
    }


def _joined(ours: str, theirs: str) -> str:
    """Both as parts of one message (RFC 2046): cloud-init's handlers do the rest."""
    message = MIMEMultipart(boundary=BOUNDARY)
    for number, (name, text) in enumerate(((kind(theirs, "user-data"), theirs), ("cloud-config", ours))):
        part = MIMEText(text, name, "utf-8")
        part.add_header("Content-Disposition", "attachment", filename=f"part-{number}")
        message.attach(part)
    return message.as_string()
