"""Every key of the file, what it may be, and what it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from cloudme.errors import UsageError
from cloudme.formats import values
from cloudme.formats.homelab.complaints import Reader
from cloudme.formats.homelab.table import Convert, Key, Kind, Table, mixed, named, number, parsed, record, several
from cloudme.model import limits, units
from cloudme.model.homelab.nouns import Declared, Defaults, Homelab, Networks, PortRange, Share, Vlan, VlanMode
from cloudme.model.machine import CID_MAX, CID_MIN, MAX_VCPUS, Board, Limits, Shape, login
from cloudme.model.names import TEMPLATES, ImageName, Name
from cloudme.model.network import LINK_NAMES, is_link_name
from cloudme.model.share import TAG_MAX

REPLICAS_MAX = 250

_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_ADDRESS = rf"({_OCTET}\.){{3}}{_OCTET}"
_WORDS = r"^[^\u0000-\u001f\u007f]+$"
_SIZE = r"^\s*[0-9]+\s*([kKmMgGtT]([iI]?[bB])?)?\s*$"
_LOGIN = "[A-Za-z0-9_][A-Za-z0-9_-]{0,31}"


def _one_of(enum: type[StrEnum]) -> Kind:
    words = ", ".join(enum)

    def convert(given: str) -> StrEnum:
        if given not in tuple(enum):
            raise UsageError(f"'{given[:40]}' is none of {words}")
        return enum(given)

    return Kind(parsed(convert, "", words).convert, {"enum": [str(word) for word in enum]}, " or ".join(enum), str)


def _name(what: str, make: type[Name] = Name) -> Kind:
    pattern = rf"^{_LABEL}$" if make is Name else r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"
    return parsed(lambda given: make(given, what), pattern, what)


def _group(given: str) -> Name:
    if given == TEMPLATES:
        raise UsageError(f"the group '{TEMPLATES}' is reserved")
    return Name(given, "name of a group")


def _words(given: str) -> str:
    if not given.strip():
        raise UsageError("it is empty")
    return given


def _path(given: str) -> str:
    """Without what means nothing in it, so that two that are one are seen to be."""
    steps = [step for step in given.split("/") if step not in ("", ".")]
    if not given.startswith("/") or not steps or ".." in steps:
        raise UsageError(f"'{given[:80]}' is no folder's path from the root, as /srv/vault is")
    return "/" + "/".join(steps)


def _link(given: str) -> str:
    if not is_link_name(given):
        raise UsageError(f"'{given[:40]}' is no name of a link", hint=LINK_NAMES)
    return given


def _matching(pattern: str, what: str) -> Callable[[str], str]:
    def convert(given: str) -> str:
        if not re.fullmatch(pattern, given):
            raise UsageError(f"'{given[:40]}' is no {what}")
        return given

    return convert


def _filled(convert: Convert, pattern: str, form: str) -> Kind:
    """For converters to whom '' is nothing."""
    def whole(reader: Reader, value: Any, path: str) -> Any:
        return reader.complain(path, f"{form} is wanted, not ''") if value == "" else convert(reader, value, path)

    return Kind(whole, {"type": "string", "pattern": pattern}, form)


def _subnet(given: str) -> IPv4Network:
    try:
        network = IPv4Network(given, strict=False)
    except ValueError:
        raise UsageError(f"'{given[:40]}' is no network", hint="as 10.20.10.0/24") from None
    if "/" not in given or network != IPv4Network(given.partition("/")[0]).supernet(new_prefix=network.prefixlen) \
            or str(network) != given:
        raise UsageError(f"'{given[:40]}' is not how a network is written", hint=str(network))
    if not 8 <= network.prefixlen <= 30:
        raise UsageError(f"{network} has no place for machines, or for too many", hint="/8 to /30")
    return network


def _ports(given: str) -> PortRange:
    found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp))?", given)
    if not found:
        raise UsageError(f"'{given[:40]}' is no port", hint="22, 30000-32767, 53/udp")
    first, last = int(found[1]), int(found[2] or found[1])
    if not 1 <= first <= 65535 or not 1 <= last <= 65535:
        raise UsageError(f"'{given}' is no port", hint="1 to 65535")
    if first > last:
        raise UsageError(f"the range {given} has its end before its beginning")
    return PortRange(first, last, found[3] or "tcp")


def _plain_ports(ports: PortRange) -> int | str:
    return int(str(ports)) if str(ports).isdigit() else str(ports)


def _ram(given: str) -> int:
    mib = Shape(vcpus=1, ram_mib=units.ram_mib(given)).ram_mib
    if mib >= 1 << 30:
        raise UsageError(f"'{given}' is too much memory")
    return mib


def _plain_ram(mib: int) -> int | str:
    return mib if mib % 1024 else f"{mib // 1024}G"


def _counted(count: int, thousand: int) -> str:
    """'100M': without a remainder. thousand: or 1024."""
    return next(f"{count // thousand ** power}{letter}" for power, letter in ((3, "G"), (2, "M"), (1, "K"), (0, ""))
                if count % thousand ** power == 0)


def _ratio(reader: Reader, value: Any, path: str) -> Any:
    if type(value) in (int, float) and 0.1 <= value <= 100:
        return float(value)
    return reader.complain(path, f"a number from 0.1 to 100 is wanted, not {values.shown(value)}")


def _vlan(reader: Reader, value: Any, path: str) -> Any:
    """`management: 10` is as `management: {id: 10}`."""
    if isinstance(value, dict):
        return _LONG_VLAN.convert(reader, value, path)
    reader.spelled[f"{path}.id"] = path
    found = _VLAN_ID.convert(reader, value, path)
    return found if found is values.ABSENT else Vlan(id=found)


def _plain_vlan(vlan: Vlan) -> Any:
    whole = _LONG_VLAN.plain(vlan)
    return whole["id"] if len(whole) == 1 else whole


def _limit(name: str, schema: dict[str, Any], form: str, plain: Callable[[Any], Any]) -> Kind:
    field = limits.KINDS[name][0]
    return mixed(lambda given: limits.one(name, given)[field], schema, form,
                 lambda value: "max" if value == limits.UNLIMITED else plain(value))


def _machine(reader: Reader, value: Any, path: str) -> Any:
    found = _MACHINE.convert(reader, value, path)
    name = path.rpartition(".")[2]
    if found is not values.ABSENT and found.replicas and len(name) + 3 > 63:
        return reader.complain(path, "its name is too long to be counted on: 60 characters at most", key=True)
    return found


def _schema(*types: str, pattern: str = "") -> dict[str, Any]:
    """Of numbers, and of texts of this pattern."""
    return {"anyOf": [{"type": "string", "pattern": pattern}, *({"type": one} for one in types)]}


NAME = _name("name of a machine")
VLAN_NAME = _name("name of a VLAN")
FLAG = Kind(values.flag, {"type": "boolean"}, "true or false")
ADDRESS = parsed(IPv4Address, f"^{_ADDRESS}$", "IPv4 address")
FILE = parsed(_words, _WORDS, "file")
FOLDER = parsed(_path, r"^/.*[^/]", "path from the root")
LINK = parsed(_link, r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$", "name of a link, 15 characters at most")
PCI = _filled(values.pci, r"^([0-9a-fA-F]{4}:)?[0-9a-fA-F]{2}:[01][0-9a-fA-F]\.[0-7]$", "PCI address")
MAC = _filled(values.mac, r"^[0-9a-fA-F][02468aceACE]([:-]?[0-9a-fA-F]{2}){5}$", "hardware address")
RATE = mixed(
    units.bit_rate,
    _schema("integer", pattern=r"^\s*[0-9]+(\.[0-9]+)?\s*[kKmMgG]?([bB][iI][tT](/[sS])?|[bB][pP][sS])?\s*$"),
    "bits a second, as 100M", lambda bits: _counted(bits, 1000))
RAM = mixed(_ram, {"anyOf": [{"type": "integer", "minimum": 32}, {"type": "string", "pattern": _SIZE}]},
            "MiB, or a size as 2G", _plain_ram)
_VLAN_ID = number(1, 4094)
_COUNT_OR_MAX = _schema("integer", pattern="^([0-9]+|max|default)$")
_SIZE_OR_MAX = _schema("integer", pattern=rf"{_SIZE}|^(max|default)$")

LIMITS = Table(noun=Limits, keys=(
    Key(name="cpus", field="cpus", says="the time of so many CPUs",
        kind=_limit("cpus", _schema("number", pattern=r"^([0-9.]+|max|default)$"), "a number as 1.5", float)),
    Key(name="weight", field="cpu_weight", says="against the 100 of others",
        kind=_limit("weight", _COUNT_OR_MAX, "a number from 1 to 10000", int)),
    Key(name="memory", field="memory_mib", says="of the guest and of QEMU itself together",
        kind=_limit("memory", _SIZE_OR_MAX, "MiB, or a size as 2G", _plain_ram)),
    Key(name="tasks", field="tasks", says="threads and processes of QEMU's",
        kind=_limit("tasks", _COUNT_OR_MAX, "a number from 100", int)),
    Key(name="io", field="io_bps", says="bytes a second, of reading and of writing each",
        kind=_limit("io", _SIZE_OR_MAX, "a size as 50M", lambda value: _counted(value, 1 << 10))),
))

VLAN = Table(noun=Vlan, apart=(("cidr", "prefix"),), keys=(
    Key(name="id", kind=_VLAN_ID, wanted=True, says="the VLAN's number"),
    Key(name="cidr", kind=parsed(_subnet, rf"^{_ADDRESS}/([89]|[12][0-9]|30)$", "network as 10.20.10.0/24"),
        says="its network; else it follows from gateway, or from its machines' addresses, and prefix"),
    Key(name="gateway", kind=ADDRESS, says="the host's address in it; else the first one"),
    Key(name="prefix", kind=number(8, 30), says="the length of its network's prefix; else that of all networks"),
    Key(name="dns", kind=several(ADDRESS), says="name servers of its machines; else those of all networks"),
    Key(name="reaches", kind=several(VLAN_NAME),
        says="VLANs to which its machines may open connections; to others none"),
))
_LONG_VLAN = record(VLAN, "object")
VLAN_KIND = Kind(_vlan, {"anyOf": [_VLAN_ID.schema, _LONG_VLAN.schema]}, "number, or object", _plain_vlan)

NETWORKS = Table(noun=Networks, keys=(
    Key(name="vlan_mode", kind=_one_of(VlanMode),
        says="one bridge that keeps VLANs apart, or a bridge for each, which every kernel can"),
    Key(name="bridge", kind=LINK, says="the name of that bridge"),
    Key(name="uplink", kind=LINK, says="the host's card on which VLANs leave it, tagged"),
    Key(name="dns", kind=several(ADDRESS), says="name servers of machines on VLANs; else the gateway"),
    Key(name="prefix", kind=number(8, 30), says="the length of the prefix of VLANs' networks"),
    Key(name="vlans", kind=named(VLAN_NAME, VLAN_KIND, "VLANs by their names"),
        says="the VLANs; `management: 10` is short for `management: {id: 10}`"),
))

SHARE = Table(noun=Share, keys=(
    Key(name="source", kind=FOLDER, wanted=True, says="the host's folder"),
    Key(name="mount_point", also=("mountPoint",), kind=FOLDER, wanted=True, says="where the machine has it"),
    Key(name="tag", kind=parsed(_matching(f"[A-Za-z0-9_.-]{{1,{TAG_MAX}}}", "tag of a share"),
                                f"^[A-Za-z0-9_.-]{{1,{TAG_MAX}}}$", "tag, 31 characters at most"),
        says="by which the guest finds it; else made from the mount point"),
    Key(name="readonly", also=("readOnly",), kind=FLAG, says="the machine cannot write to it"),
    Key(name="owner", kind=parsed(_matching(f"{_LOGIN}(:{_LOGIN})?", "owner, as root:kvm is"),
                                  f"^{_LOGIN}(:{_LOGIN})?$", "user, or user:group"),
        says="whose a missing folder becomes that is made"),
    Key(name="mode", kind=parsed(lambda given: int(_matching("0?[0-7]{3}", "mode, as \"0755\" is")(given), 8),
                                 "^0?[0-7]{3}$", "mode as \"0755\", in quotes", lambda mode: f"{mode:04o}"),
        says="the mode with which a missing folder is made"),
))

MACHINE = Table(
    noun=Declared,
    apart=(("template", "image"), ("vlan", "network"),
           *(("replicas", key) for key in ("mac", "tap_id", "hostname", "gpu", "devices"))),
    needs=(("initrd", "kernel"), ("cmdline", "kernel")),
    keys=(
        Key(name="template", kind=_name("name of a template"), says="what it is a clone of"),
        Key(name="image", kind=_name("name of an image", ImageName), says="the image that its disk stands on"),
        Key(name="kernel", kind=FILE, says="a kernel that QEMU starts itself"),
        Key(name="initrd", kind=FILE, says="its initial file system"),
        Key(name="cmdline", kind=parsed(_words, _WORDS, "text"), says="its command line"),
        Key(name="machine", kind=_one_of(Board),
            says="QEMU's type of machine; microvm boots faster and has no PCI; else q35"),
        Key(name="vcpu", kind=number(1, MAX_VCPUS), says="CPUs"),
        Key(name="mem", kind=RAM, says="memory"),
        Key(name="vlan", kind=VLAN_NAME, says="the VLAN that it is on"),
        Key(name="network", kind=_name("name of a network"), says="the network (cmnet) that it is on, instead"),
        Key(name="ip", kind=ADDRESS, says="its address; that of the first of replicas"),
        Key(name="mac", kind=MAC, says="its card's address; else made from its name"),
        Key(name="tap_id", also=("tapId",), kind=LINK, says="the host's name of its tap; else vm-NAME"),
        Key(name="hostname", kind=_name("name of a host"), says="what it calls itself; else its name"),
        Key(name="vsock_cid", also=("vsockCid",), kind=number(CID_MIN, CID_MAX),
            says="its number for vsock (0, 1, 2 are reserved); that of the first of replicas"),
        Key(name="ports", kind=named(_name("name of a port"), mixed(
            _ports, {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 65535},
                               {"type": "string", "pattern": "^[0-9]{1,5}(-[0-9]{1,5})?(/(tcp|udp))?$"}]},
            "a port", _plain_ports), "ports by their names"),
            says="ports that others reach, and no more: 22, 30000-32767, 53/udp"),
        Key(name="shares", also=("storage",), kind=several(record(SHARE, "object")), says="folders of the host's"),
        Key(name="gpu", kind=several(PCI), says="GPUs that it gets whole"),
        Key(name="devices", kind=several(PCI), says="other PCI devices that it gets whole"),
        Key(name="tags", kind=several(parsed(_words, _WORDS, "name of a tag")), says="tags of the host configuration"),
        Key(name="group", kind=Kind(parsed(_group, "", "").convert, {
            "type": "string", "pattern": f"^{_LABEL}$", "not": {"const": TEMPLATES}}, "name of a group", str),
            says="its group; else homelab"),
        Key(name="type", kind=_name("name of a type"), says="what it is in its group; else default"),
        Key(name="user", kind=parsed(login, "^[a-zA-Z_][a-zA-Z0-9_-]{0,31}$", "user"), says="as whom ssh gets in"),
        Key(name="playbook", kind=FILE, says="Ansible's, applied to it"),
        Key(name="user_data", kind=FILE, says="cloud-init's, besides ours"),
        Key(name="depends_on", kind=several(NAME), says="machines that are started before it"),
        Key(name="replicas", kind=number(1, REPLICAS_MAX), says="so many machines, NAME00, NAME01 ..."),
        Key(name="autostart", kind=FLAG, says="it starts with the host; else true"),
        Key(name="limits", kind=record(LIMITS, "object"), says="what it may take of the host"),
        Key(name="isolate", kind=FLAG, says="it reaches no other machine on its network"),
        Key(name="net_rate", kind=RATE, says="of sending and of receiving each"),
    ))
_MACHINE = record(MACHINE, "object")
MACHINE_KIND = Kind(_machine, _MACHINE.schema, "object", _MACHINE.plain)

_DEFAULTS = ("template", "image", "machine", "vcpu", "mem", "vlan", "network", "group", "type", "user", "playbook",
             "user_data", "autostart")
HOSTS = Table(
    noun=Defaults,
    apart=(("template", "image"), ("vlan", "network")),
    keys=(
        *(key for key in MACHINE.keys if key.name in _DEFAULTS),
        Key(name="memory_ratio", kind=Kind(_ratio, {"type": "number", "minimum": 0.1, "maximum": 100}, "number"),
            says="how many times the host's memory all machines together may have"),
    ))

HOMELAB = Table(noun=Homelab, keys=(
    Key(name="networks", kind=record(NETWORKS, "object"), says="the host's VLANs"),
    Key(name="hosts", kind=record(HOSTS, "object"), says="what machines have that say nothing themselves"),
    Key(name="machines", kind=named(NAME, MACHINE_KIND, "machines by their names"), says="the machines"),
))
HOMELAB_KIND = record(HOMELAB, "object")
