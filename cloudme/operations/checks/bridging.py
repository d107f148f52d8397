"""A bridge of the LAN that is there after the next boot, in the way of whoever sets the host's network up."""

from __future__ import annotations

import os

from cloudme.errors import ConfigError, HostUnavailable, UsageError
from cloudme.formats import hostnet
from cloudme.model.network import LINK_NAMES, is_link_name
from cloudme.model.steps import Step
from cloudme.operations.checks.look import Look
from cloudme.operations.checks.mend import Lines, Replace

NETPLAN, NETWORKD, IFUPDOWN = "/etc/netplan", "/etc/systemd/network", "/etc/network/interfaces"
MORE_INTERFACES = "/etc/network/interfaces.d"
"""Of ifupdown, where `source` or `source-directory` in the first file names it (interfaces(5))."""
BRIDGING = ("/etc/network/if-pre-up.d/bridge", "/usr/share/ifupdown2")
"""Debian's ifupdown knows bridges by bridge-utils only; ifupdown2, and Alpine's ifupdown-ng, by themselves."""
CLOUD_INIT, CLOUD_INIT_OFF = "50-cloud-init", "/etc/cloud/cloud.cfg.d/99-cloudme-network.cfg"
"""cloud-init writes its file anew for each new instance, unless it is told to leave the network alone."""


def steps(look: Look, bridge: str, nic: str) -> tuple[list[Step], str]:
    """The files to write, and the command that makes them true at once: it may cut this host off for a moment.

    Raises:  UsageError for what is no name, ConfigError where nobody known sets `nic` up, or it is Wi-Fi,
             HostUnavailable where the host's own programs make no bridges: it would boot without a network.
    """
    for name in (bridge, nic):
        if not is_link_name(name):
            raise UsageError(f"'{name}' is no name of a link", hint=LINK_NAMES)
    if bridge == nic:
        raise UsageError("a card is no port of itself", hint="cmcheck --persist --bridge br0 --nic ens18")
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
        old = files.read(path) if name.endswith(".yaml") else None
        if old and (new := hostnet.netplan(old, bridge, nic, _mac(look, nic))):
            return ([Replace(path, new), *_left_alone(look, name)] if new != old else []), "netplan apply"
    return None


def _networkd(look: Look, bridge: str, nic: str) -> tuple[list[Step], str] | None:
    files = look.host.files
    for name in files.names(NETWORKD):
        text = files.read(f"{NETWORKD}/{name}") or ""
        if name.endswith(".network") and (made := hostnet.networkd(text, bridge, nic, _mac(look, nic))):
            new = {f"{NETWORKD}/{file}": text for file, text in made.items()}
            done = all(files.read(path) == text for path, text in new.items())
            ours = name.startswith("00-cloudme-")
            return ([] if done or ours else [Replace(path, text) for path, text in new.items()]), "networkctl reload"
    return None


def _ifupdown(look: Look, bridge: str, nic: str) -> tuple[list[Step], str] | None:
    texts = _interfaces(look)
    if not texts:
        return None
    path = next((path for path, text in texts.items() if hostnet.sets_up(text, nic)), IFUPDOWN)
    done = any(hostnet.sets_up(text, bridge) for text in texts.values())
    new = texts[path] if done else hostnet.interfaces(texts[path], bridge, nic, _same_mac(look, bridge, nic))
    found: list[Step] = []
    if new != texts[path]:
        _check_bridging(look)  # not beside the others: all that is in that folder is read
        found += [Replace(path, new, aside=os.path.dirname(IFUPDOWN)), *_left_alone(look, os.path.basename(path))]
    if look.distribution == "alpine":
        if "bridge" not in (look.host.files.read("/etc/modules") or "").split():
            found.append(Lines("/etc/modules", ("bridge", "tun")))
        return found, "rc-update add networking boot; rc-update add sysctl boot; rc-service networking restart"
    return found, "systemctl restart networking"


def _same_mac(look: Look, bridge: str, nic: str) -> tuple[str, ...]:
    """An option of bridge-utils (bridge-utils-interfaces(5)); elsewhere a command, which every ifupdown runs."""
    if not (mac := _mac(look, nic)):
        return ()
    return (f"up ip link set dev {bridge} address {mac}",) if look.distribution == "alpine" else (f"bridge_hw {mac}",)


def _mac(look: Look, nic: str) -> str:
    return (look.host.files.read(f"/sys/class/net/{nic}/address") or "").strip()


def _interfaces(look: Look) -> dict[str, str]:
    """The files of ifupdown, by path: the first, and those that it names."""
    files = look.host.files
    first = files.read(IFUPDOWN)
    if first is None:
        return {}
    paths = [f"{MORE_INTERFACES}/{name}" for name in files.names(MORE_INTERFACES) if not name.endswith("~")]
    sourced = any(line.split()[:1] in (["source"], ["source-directory"]) and "interfaces.d" in line
                  for line in first.splitlines())
    return {IFUPDOWN: first, **({path: text for path in paths if (text := files.read(path))} if sourced else {})}


def _check_bridging(look: Look) -> None:
    if look.distribution in ("debian", "ubuntu") and not any(look.existing(path) for path in BRIDGING):
        raise HostUnavailable("ifupdown makes bridges with bridge-utils, which is not installed: this host would boot "
                              "without a network", hint="apt install bridge-utils")


def _left_alone(look: Look, name: str) -> list[Step]:
    if not name.startswith(CLOUD_INIT) or look.existing(CLOUD_INIT_OFF):
        return []
    return [Replace(CLOUD_INIT_OFF, "network: {config: disabled}\n")]
