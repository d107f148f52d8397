"""The host's own network settings, changed so that a card becomes the port of a bridge and its address the bridge's.

Text in, text out: interfaces(5) of ifupdown, netplan(5), systemd.network(5). `mac` is the card's, '' where it is not
known: the bridge gets it, too. Else systemd-udevd makes one up, and DHCP gives the host another address; where there is
no udev, it would be the lowest of all ports, and change when a machine starts.
"""

from __future__ import annotations

import configparser
import fnmatch
import io
import re
from collections.abc import Sequence
from typing import Any

from cloudme.errors import ConfigError

KEYWORDS = ("auto", "allow-", "iface", "mapping", "source", "source-directory", "rename", "no-auto-down", "no-scripts")
"""What begins a stanza (interfaces(5)); all other lines belong to the one before."""
BRIDGE_OPTIONS = ("bridge_stp off", "bridge_fd 0")
STAYS = ("match", "set-name", "mtu", "wakeonlan", "macaddress", "link-local")
"""What netplan says of a card rather than of what it carries."""


def interfaces(text: str, bridge: str, nic: str, more: Sequence[str] = ()) -> str:
    """/etc/network/interfaces. Raises ConfigError where it does not set `nic` up; one that has `bridge` stays.

    more:  options of the bridge, which are not the same in every ifupdown.
    """
    stanzas = _stanzas(text)
    if sets_up(text, bridge):
        return text
    if not sets_up(text, nic):
        raise ConfigError(f"/etc/network/interfaces says nothing of {nic}", hint="cmcheck nic")
    lines: list[str] = []
    first = True
    for head, body in stanzas:
        if head[:2] != ["iface", nic]:
            lines += body
            continue
        options = [line for line in body[1:] if line.strip()]
        lines += [f"iface {nic} {head[2]} manual", ""]
        lines += [f"auto {bridge}"] if first else []
        lines += [f"iface {bridge} {' '.join(head[2:])}", *options]
        lines += [f"    {option}" for option in (f"bridge_ports {nic}", *BRIDGE_OPTIONS, *more)] if first else []
        lines += [""]
        first = False
    return "\n".join(lines).rstrip("\n") + "\n"


def sets_up(text: str, link: str) -> bool:
    """Whether a file of ifupdown's has a stanza of `link`."""
    return any(head[:2] == ["iface", link] for head, _ in _stanzas(text))


def _stanzas(text: str) -> list[tuple[list[str], list[str]]]:
    """(words of the first line, all lines), in order; what stands before the first one has no words."""
    found: list[tuple[list[str], list[str]]] = [([], [])]
    for line in text.splitlines():
        words = line.split()
        if words and (words[0] in KEYWORDS or words[0].startswith("allow-")):
            found.append((words, [line]))
        else:
            found[-1][1].append(line)
    return found


def netplan(text: str, bridge: str, nic: str, mac: str = "") -> str | None:
    """One file of netplan's; None where it says nothing of `nic`. Comments are lost."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """YAML 1.2: one without it takes a MAC of digits for a number to the base of 60."""

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in found if tag.rpartition(":")[2] not in ("int", "float")]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()}
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
    try:
        document: dict[str, Any] = yaml.load(text, Loader) or {}
        network: dict[str, Any] = document["network"]
        cards: dict[str, Any] = network["ethernets"]
    except (KeyError, TypeError):
        return None
    except yaml.YAMLError as error:
        raise ConfigError(f"netplan's settings cannot be read: {error}") from error
    if nic not in cards:
        return None
    if bridge in network.get("bridges", {}):
        return text
    card = cards[nic] or {}
    carried = {key: value for key, value in card.items() if key not in STAYS}
    cards[nic] = {**{key: value for key, value in card.items() if key in STAYS}, "dhcp4": False, "dhcp6": False}
    network.setdefault("bridges", {})[bridge] = {
        "interfaces": [nic], **({"macaddress": mac} if mac else {}), **carried,
        "parameters": {"stp": False, "forward-delay": 0}}
    return str(yaml.safe_dump(document, sort_keys=False))


def networkd(text: str, bridge: str, nic: str, mac: str = "") -> dict[str, str] | None:
    """A .network file -> name -> text of the files that take its place; None where it does not match `nic`."""
    heads = re.findall(r"(?m)^\[(\w+)\]", text)
    if len(set(heads)) < len(heads) and any(fnmatch.fnmatchcase(nic, name) for name in _names(text)):
        raise ConfigError(f"systemd-networkd's settings of {nic} have a section twice", hint="write the bridge by hand")
    found = _sections()
    try:
        found.read_string(text)
    except configparser.Error as error:
        raise ConfigError(f"systemd-networkd's settings cannot be read: {error}") from error
    names = found.get("Match", "Name", fallback="").split()
    if not any(fnmatch.fnmatchcase(nic, name) for name in names):
        return None
    carried = {name: dict(found[name]) for name in found.sections() if name not in ("Match", "Link")}
    stem = "00-cloudme"
    return {
        f"{stem}-{bridge}.netdev": _rendered({"NetDev": {"Name": bridge, "Kind": "bridge",
                                                         **({"MACAddress": mac} if mac else {})},
                                              "Bridge": {"STP": "no", "ForwardDelaySec": "0"}}),
        f"{stem}-{nic}.network": _rendered({"Match": {"Name": nic}, "Network": {"Bridge": bridge}}),
        f"{stem}-{bridge}.network": _rendered({"Match": {"Name": bridge}, **carried}),
    }


def _names(text: str) -> list[str]:
    return [name for line in re.findall(r"(?m)^Name=(.*)$", text) for name in line.split()]


def _sections() -> configparser.RawConfigParser:
    """Keys may stand more than once in systemd's files: the later lines of one are kept below the first."""
    parser = configparser.RawConfigParser(strict=False, dict_type=_Repeated)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    return parser


class _Repeated(dict[str, Any]):
    """What a key is given again is appended (configparser keeps the lines of a value in a list while it reads)."""

    def __setitem__(self, key: str, value: Any) -> None:
        if isinstance(value, list) and isinstance(self.get(key), list):
            value = [*self[key], *value]
        super().__setitem__(key, value)


def _rendered(sections: dict[str, dict[str, str]]) -> str:
    text = io.StringIO()
    for name, values in sections.items():
        text.write(f"[{name}]\n" + "".join(
            f"{key}={line}\n" for key, value in values.items() for line in value.splitlines()) + "\n")
    return text.getvalue()
