"""A bridge of the LAN that is there after the next boot, in the way of whoever sets the host's network up."""

from __future__ import annotations

from cloudme.errors import ConfigError
from cloudme.formats import hostnet
from cloudme.model.steps import Step
from cloudme.operations.checks.look import Look
from cloudme.operations.checks.mend import Lines, Replace

NETPLAN, NETWORKD, IFUPDOWN = "/etc/netplan", "/etc/systemd/network", "/etc/network/interfaces"


def steps(look: Look, bridge: str, nic: str) -> tuple[list[Step], str]:
    """The files to write, and the command that makes them true at once: it may cut this host off for a moment.

    Raises:  ConfigError where nobody known sets `nic` up, or it is Wi-Fi.
    """
    if look.wireless(nic):
        raise ConfigError(f"{nic} is Wi-Fi, which cannot be bridged", hint="a cable, or cmnet start")
    made = _netplan(look, bridge, nic) or _networkd(look, bridge, nic) or _ifupdown(look, bridge, nic)
    if made is None:
        raise ConfigError(f"nothing below {NETPLAN}, {NETWORKD}, {IFUPDOWN} sets {nic} up",
                          hint=f"make {bridge} by hand, with the host's address, and {nic} as its port")
    return made


def _netplan(look: Look, bridge: str, nic: str) -> tuple[list[Step], str] | None:
    files = look.host.files
    for name in files.names(NETPLAN):
        path = f"{NETPLAN}/{name}"
        if name.endswith(".yaml") and (old := files.read(path)) and (new := hostnet.netplan(old, bridge, nic)):
            return ([Replace(path, new)] if new != old else []), "netplan apply"
    return None


def _networkd(look: Look, bridge: str, nic: str) -> tuple[list[Step], str] | None:
    files = look.host.files
    for name in files.names(NETWORKD):
        text = files.read(f"{NETWORKD}/{name}") or ""
        if name.endswith(".network") and (made := hostnet.networkd(text, bridge, nic)):
            new = {f"{NETWORKD}/{file}": text for file, text in made.items()}
            done = all(files.read(path) == text for path, text in new.items())
            ours = name.startswith("00-cloudme-")
            return ([] if done or ours else [Replace(path, text) for path, text in new.items()]), "networkctl reload"
    return None


def _ifupdown(look: Look, bridge: str, nic: str) -> tuple[list[Step], str] | None:
    old = look.host.files.read(IFUPDOWN)
    if old is None:
        return None
    new = hostnet.interfaces(old, bridge, nic)
    found: list[Step] = [Replace(IFUPDOWN, new)] if new != old else []
    if look.distribution == "alpine":
        if "bridge" not in (look.host.files.read("/etc/modules") or "").split():
            found.append(Lines("/etc/modules", ("bridge", "tun")))
        return found, "rc-update add networking boot; rc-update add sysctl boot; rc-service networking restart"
    return found, "systemctl restart networking"
