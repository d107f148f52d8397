"""What logs of real guests, firmware and dnsmasq are taken to mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudme.formats import evidence
from cloudme.model.readiness import Boot, DhcpState, Firmware

DATA = Path(__file__).parent.parent / "data" / "evidence"
CARD = "de:ee:32:56:c5:66"
STRANGER = "02:00:00:00:00:99"
WRITTEN = 1_800_000_000.0
LAST_LINE = "Nov 20 22:25:43"


def read(name: str) -> str:
    return (DATA / name).read_bytes().decode()


@pytest.mark.parametrize(("log", "boot", "line"), [
    ("debian.log", Boot.booted, "guest-a login:"),
    ("panic.log", Boot.panic, "VFS: Unable to mount root fs on unknown-block(0,0)"),
    ("initramfs.log", Boot.initramfs, "ALERT!  /dev/vda does not exist.  Dropping to a shell!"),
    ("emergency.log", Boot.emergency, "You are in emergency mode."),
])
def test_the_serial_log_of_a_real_guest_is_understood(log: str, boot: Boot, line: str) -> None:
    found = evidence.serial(read(log))
    assert (found.boot, found.line[:len(line)]) == (boot, line)


@pytest.mark.parametrize(("text", "boot"), [
    ("", Boot.silent),
    ("something that no rule knows", Boot.silent),
    ("\x1b[H\x1b[J  Booting `Debian'", Boot.loader),
    ("                GNU GRUB  version 2.06-13", Boot.loader),
    ("error: no such device: 6f.\r\nEntering rescue mode...\r\ngrub rescue> ", Boot.loader_stuck),
    ("GNU GRUB  version 2.06\r\ngrub> ", Boot.loader_stuck),
    ("[    0.000000] Linux version 6.1.0-cloud-amd64", Boot.kernel),
    ("[    0.9] Run /init as init process", Boot.system),
    ("[\x1b[0;32m  OK  \x1b[0m] Reached target \x1b[0;1;39mlocal-fs.target\x1b[0m - Local File Systems.", Boot.silent),
    ("[\x1b[0;32m  OK  \x1b[0m] Reached target \x1b[0;1;39mmulti-user.target\x1b[0m - Multi-User System.", Boot.booted),
    ("Debian GNU/Linux 12 web00 ttyS0\r\n\r\nweb00 login: ", Boot.booted),
    ("[   12.1] reboot: System halted", Boot.halted),
])
def test_each_sign_on_the_serial_console_is_known(text: str, boot: Boot) -> None:
    assert evidence.serial(text).boot == boot


def test_only_what_was_written_since_the_last_start_counts() -> None:
    earlier = read("panic.log")
    assert evidence.serial(f"{earlier}\n{evidence.START_MARK} web00, 2026-11-20 22:00:00 --\n").boot == Boot.silent


def test_a_guest_that_restarts_begins_a_new_life() -> None:
    again = read("debian.log") + "[  99.1] reboot: Restarting system\r\n"
    assert evidence.serial(again).boot == Boot.silent
    assert evidence.serial(read("panic.log") + "[    0.000000] Linux version 6.1.0\n").boot == Boot.kernel


def test_a_panic_after_which_the_kernel_restarts_is_not_the_end() -> None:
    found = evidence.serial("Kernel panic - not syncing: Oops\nRebooting in 10 seconds..\n")
    assert (found.boot, found.last) == (Boot.kernel, "Kernel panic - not syncing: Oops")


def test_cloud_inits_complaints_and_its_end_are_kept() -> None:
    found = evidence.serial("[  9.1] cloud-init[390]: x - util.py[WARNING]: Failed loading yaml blob\r\n"
                            "[ 31.0] cloud-init[452]: Cloud-init v. 22.4.2 finished at Fri. Datasource DataSourceNone.")
    assert found.finished
    assert "DataSourceNone" in found.complaint


@pytest.mark.parametrize(("text", "firmware"), [
    ("", Firmware.unseen),
    ("SeaBIOS (version 1.16.2-debian-1.16.2-1)\nBUILD: gcc\n", Firmware.searching),
    (read("firmware-started.log"), Firmware.started),
    (read("firmware-no-disk.log"), Firmware.no_disk),
    (read("firmware-no-disk.log") + read("firmware-started.log"), Firmware.started),
    (read("firmware-started.log") + "SeaBIOS (version 1.16.2)\n", Firmware.searching),
])
def test_the_firmwares_log_tells_how_far_it_came(text: str, firmware: Firmware) -> None:
    assert evidence.firmware(text) == firmware


def test_the_text_on_the_screen_is_read_from_qemus_dump() -> None:
    shown = "GNU GRUB  version 2.06".ljust(80) + "grub>".ljust(80)
    cells = [f"0x07{ord(character):02x}" for character in shown]
    dump = "".join(f"00000000000b8{at * 2:03x}: {' '.join(cells[at:at + 8])}\r\n" for at in range(0, len(cells), 8))
    assert evidence.screen(dump) == "GNU GRUB  version 2.06\ngrub>"
    assert evidence.screen("Cannot access memory") == ""


def until(words: str) -> str:
    """The log up to the first line of the card that has `words`."""
    lines = read("dnsmasq.log").splitlines(keepends=True)
    return "".join(lines[:next(i for i, line in enumerate(lines) if words in line) + 1])


@pytest.mark.parametrize(("text", "card", "state", "words"), [
    ("", CARD, DhcpState.silent, ""),
    (until("sockets bound"), CARD, DhcpState.silent, ""),
    (until("DHCPDISCOVER"), CARD, DhcpState.unanswered, ""),
    (until("DHCPOFFER"), CARD, DhcpState.offered, ""),
    (until("DHCPREQUEST"), CARD, DhcpState.unanswered, ""),
    (until("DHCPACK"), CARD, DhcpState.given, ""),
    (until("DHCPNAK"), CARD, DhcpState.refused, "wrong address"),
    (until("no address available"), STRANGER, DhcpState.unanswered, "no address available"),
    (f"{LAST_LINE} dnsmasq-dhcp[1]: not using configured address 10.9.9.7 because it is leased to {STRANGER}\n"
     f"{LAST_LINE} dnsmasq-dhcp[1]: DHCPDISCOVER(br0) {CARD} no address available\n", CARD, DhcpState.unanswered,
     f"not using configured address 10.9.9.7 because it is leased to {STRANGER}"),
    (until("DHCPACK"), STRANGER, DhcpState.silent, ""),
    (f"{LAST_LINE} dnsmasq-dhcp[1]: 7 DHCPDECLINE(br0) 10.9.9.7 {CARD} \n", CARD, DhcpState.declined, "10.9.9.7"),
])
def test_dnsmasqs_last_word_on_a_card_counts(text: str, card: str, state: DhcpState, words: str) -> None:
    found = evidence.dhcp(text, card, written=WRITTEN, since=0)
    assert (found.state, found.words) == (state, words)


@pytest.mark.parametrize(("started_s_before", "state"), [(0, DhcpState.silent), (10, DhcpState.given)])
def test_what_dnsmasq_said_before_the_start_does_not_count(started_s_before: int, state: DhcpState) -> None:
    text = until("DHCPACK") + f"{LAST_LINE} dnsmasq[8189]: exiting on receipt of SIGTERM\n"
    assert evidence.dhcp(text, CARD, written=WRITTEN, since=WRITTEN - started_s_before).state == state


def test_the_turn_of_the_year_makes_no_line_old() -> None:
    text = (f"Dec 31 23:59:59 dnsmasq-dhcp[1]: 7 DHCPACK(br0) 10.9.9.7 {CARD} web00\n"
            "Jan  1 00:00:01 dnsmasq-dhcp[1]: 7 sent size\n")
    assert evidence.dhcp(text, CARD, written=WRITTEN, since=WRITTEN - 5).state == DhcpState.given


@pytest.mark.parametrize(("text", "words"), [
    ("", ""),
    ("qemu: warning: host doesn't support it\n", "qemu: warning: host doesn't support it"),
    ("qemu: cannot open disk\nqemu: warning: later\n\n", "qemu: cannot open disk"),
])
def test_last_words_are_those_that_matter(text: str, words: str) -> None:
    assert evidence.last_words(text) == words
