"""What ssh(1) reads to find machines (ssh_config(5)): values -> text, and text with one line more. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence

from cloudme.model.ports import Target

INCLUDE = "Include config.d/*"
_INCLUDES = re.compile(r"^\s*Include\s+(.*)$", re.IGNORECASE)
_BEGINS = re.compile(r"^\s*(?:Host|Match)\s", re.IGNORECASE)
_OURS = re.compile(r"(?:^|/)config\.d/(?:\*|cloudme\S*)$")


def text(targets: Iterable[Target], proxy: Sequence[str] | None, head: str) -> str:
    """A block for each target, in their order.

    proxy:  the command line that connects its stdin and stdout to the machine whose name follows it, for targets that
            are not outside; None: their addresses are reached from here. head: the first line, a comment.
    """
    return "".join([f"# {head}\n", *(_block(target, proxy) for target in targets)])


def _block(target: Target, proxy: Sequence[str] | None) -> str:
    lines = [f"HostName {target.address}", f"User {target.user}"]
    if target.port != 22:
        lines.append(f"Port {target.port}")
    if target.key_file:
        lines += [f"IdentityFile {_word(target.key_file)}", "IdentitiesOnly yes"]
    lines += [f"UserKnownHostsFile {_word(target.known_hosts_file)}", f"HostKeyAlias {target.name}",
              "StrictHostKeyChecking accept-new"]
    if proxy is not None and not target.outside:
        lines.append(f"ProxyCommand {_percents(shlex.join([*proxy, target.name]))}")
    return f"\nHost {target.name}\n" + "".join(f"  {line}\n" for line in lines)


def _word(path: str) -> str:
    """A name of a file, which ssh takes apart at blanks and looks into for %."""
    return _percents(f'"{path}"' if re.search(r"\s", path) else path)


def _percents(value: str) -> str:
    return value.replace("%", "%%")


def includes(config: str) -> bool:
    """Whether a configuration reads our file whatever the host: before the first Host or Match."""
    for line in config.splitlines():
        if _BEGINS.match(line):
            return False
        if (found := _INCLUDES.match(line)) and any(_OURS.search(word) for word in found[1].split()):
            return True
    return False


def including(config: str) -> str:
    """The configuration with that line before all others; what is there stays, to the letter."""
    return f"{INCLUDE}\n" + (f"\n{config}" if config else "")
