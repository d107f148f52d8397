"""What logs say of a machine's start: serial console, firmware, dnsmasq, QEMU. Text -> evidence, pure."""

from __future__ import annotations

import re
from calendar import timegm
from time import strptime

from cloudme.model.readiness import Boot, Dhcp, DhcpState, Firmware, Serial

START_MARK = "-- cloudMe starts"
"""The launcher writes a line that begins so into the serial log: what is above it was said in an earlier life."""

LINE_MAX = 160
"""More of a line than this does not help in a message."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[ -/]*[0-~])|[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""ECMA-48 control sequences, which systemd and GRUB use for colour, and other control characters."""

_SIGNS: tuple[tuple[Boot, str], ...] = (
    (Boot.loader, r"GNU GRUB +version|Welcome to GRUB|ISOLINUX \d|SYSLINUX \d|Loading Linux |^Booting `"),
    (Boot.kernel, r"\bLinux version \d"),
    (Boot.panic, r"(?<!end )Kernel panic - not syncing: "),
    (Boot.loader_stuck, r"grub rescue> ?|^grub> ?"),
    (Boot.initramfs, r"\(initramfs\)|Dropping to a shell|Entering emergency mode\. Exit the shell|dracut:/#"),
    (Boot.emergency, r"You are in (?:emergency|rescue) mode|Give root password for maintenance"),
    (Boot.halted, r"reboot: System halted"),
    (Boot.booted, r"Reached target (?:multi-user\.target|graphical\.target|Multi-User System|Graphical Interface)"
                  r"|\bCloud-init v\. \S+ finished at|^\S+ login:"),
    (Boot.system, r"systemd\[1\]: systemd \S+ running in|Welcome to .*!|OpenRC \d|Run \S*init as init process"),
)
_SIGN = re.compile("|".join(f"(?P<{boot.name}>{pattern})" for boot, pattern in _SIGNS))
_RESTARTS = (Boot.loader, Boot.kernel)
_LEAVES = re.compile(r"reboot: (?:Restarting system|Power down)")
_REBOOTING = re.compile(r"Rebooting in \d+ seconds")
_COMPLAINT = re.compile(r"cloud-init\[\d+\]: .*(?:ERROR|CRITICAL|Traceback|WARNING\]|failed)"
                        r"|Failed to start .*[Cc]loud-(?:init|config)|DataSourceNone")
_FINISHED = re.compile(r"\bCloud-init v\. \S+ finished at")
_KERNEL_TIME = re.compile(r"^\[ *\d+\.\d+\](?: \w+\[\d+\]:)? ")
_PANIC = "Kernel panic - not syncing: "


def serial(text: str) -> Serial:
    """Read the end of a serial log. A boot loader or a kernel that starts again begins a new life."""
    boot, sign, last, complaint, finished = Boot.silent, "", "", "", False
    for raw in text[max(text.rfind(START_MARK), 0):].splitlines():
        line = _KERNEL_TIME.sub("", _ESCAPES.sub("", raw).strip())[:LINE_MAX]
        if not line or line.startswith(START_MARK):
            continue
        last = line
        found = Boot[match.lastgroup] if (match := _SIGN.search(line)) and match.lastgroup else Boot.silent
        if found in _RESTARTS:
            boot, sign, complaint, finished = found, line, "", False
        elif found > boot:
            boot, sign = found, line.partition(_PANIC)[2] if found == Boot.panic else line
        elif boot == Boot.panic and _REBOOTING.search(line):
            boot, last = Boot.kernel, f"{_PANIC}{sign}"
        elif _LEAVES.search(line):
            boot = Boot.silent
        if _COMPLAINT.search(line):
            complaint = line
        finished = finished or bool(_FINISHED.search(line))
    return Serial(boot=boot, line=sign, last=last, complaint=complaint, finished=finished)


SCREEN_COLUMNS, SCREEN_CELLS, SCREEN_ADDRESS = 80, 80 * 25, 0xB8000
"""The VGA card's text mode: two bytes a cell, the character and its colour (IBM VGA Technical Reference)."""
SCREEN_COMMAND = f"xp /{SCREEN_CELLS}hx {SCREEN_ADDRESS:#x}"
"""Lets QEMU's human monitor print the cells."""


def screen(dump: str) -> str:
    """The text on a VGA screen in text mode, from what SCREEN_COMMAND prints."""
    cells = bytes(int(cell, 16) & 0xFF for cell in re.findall(r"0x([0-9a-f]{4})\b", dump))
    rows = [cells[at:at + SCREEN_COLUMNS] for at in range(0, len(cells), SCREEN_COLUMNS)]
    return "\n".join(row.decode("cp437").rstrip(" \0") for row in rows)


def firmware(text: str) -> Firmware:
    """Read the debug log of SeaBIOS (port 0x402). It is longer after each reset: the last start counts."""
    life = text[max(text.rfind("SeaBIOS (version"), 0):]
    if "No bootable device." in life:
        return Firmware.no_disk
    if re.search(r"^Booting from [0-9a-f]{4}:[0-9a-f]{4}", life, re.MULTILINE):
        return Firmware.started
    return Firmware.searching if life else Firmware.unseen


_DHCP_LINE = re.compile(r"(?:dnsmasq-dhcp\[\d+\]: (not using configured address .*)\n)?"
                        r"^(\w{3} [ \d]\d \d\d:\d\d:\d\d) dnsmasq-dhcp\[\d+\]: (?:\d+ )?(DHCP[A-Z]+)\(.*?\)(.*)$",
                        re.MULTILINE)
_STATES = {
    "DHCPDISCOVER": DhcpState.unanswered, "DHCPREQUEST": DhcpState.unanswered, "DHCPOFFER": DhcpState.offered,
    "DHCPACK": DhcpState.given, "DHCPNAK": DhcpState.refused, "DHCPDECLINE": DhcpState.declined,
    "DHCPRELEASE": DhcpState.silent,
}
_YEAR_S = 366 * 86400


def dhcp(text: str, mac: str, *, written: float, since: float) -> Dhcp:
    """Read the end of dnsmasq's log: the last word on the card `mac`, no older than `since`.

    written:  when the log was last written (its st_mtime). The log's times have no year and are in the daemon's time
              zone: they are counted from its last line.
    """
    state, words = DhcpState.silent, ""
    last = _last_time(text)
    for doubt, when, message, rest in _DHCP_LINE.findall(text):
        before, found, after = rest.partition(mac)
        age_s = (last - _time(when)) % _YEAR_S
        if found and message in _STATES and written - age_s >= int(since):
            state = _STATES[message]
            words = doubt or after.strip() if state in (DhcpState.unanswered, DhcpState.refused) else before.strip()
    return Dhcp(state=state, words=words if state not in (DhcpState.given, DhcpState.offered) else "")


def _last_time(text: str) -> int:
    times = re.findall(r"^(\w{3} [ \d]\d \d\d:\d\d:\d\d) dnsmasq", text, re.MULTILINE)
    return _time(times[-1]) if times else 0


def _time(text: str) -> int:
    """Seconds since the start of some leap year."""
    return timegm(strptime(f"2000 {text}", "%Y %b %d %H:%M:%S"))


def last_words(text: str) -> str:
    """The last line that a program said, warnings only where there is nothing else."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    grave = [line for line in lines if "warning:" not in line]
    return (grave or lines or [""])[-1]
