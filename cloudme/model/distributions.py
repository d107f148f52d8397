"""What programs are packaged as. Data: a name that is missing here is that of the program."""

from __future__ import annotations

from collections.abc import Sequence

PACKAGES = {
    "debian": {
        "qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils", "dnsmasq": "dnsmasq-base", "nft": "nftables",
        "ip": "iproute2", "ssh": "openssh-client", "mke2fs": "e2fsprogs", "sfdisk": "fdisk",
        "pasta": "passt", "newuidmap": "uidmap", "qemu-bridge-helper": "qemu-system-common",
    },
    "alpine": {
        "qemu-system-x86_64": "qemu-system-x86_64", "qemu-img": "qemu-img", "dnsmasq": "dnsmasq", "nft": "nftables",
        "ip": "iproute2", "ssh": "openssh-client-default", "mke2fs": "e2fsprogs", "sfdisk": "sfdisk",
        "pasta": "passt", "newuidmap": "shadow-uidmap", "qemu-bridge-helper": "qemu-bridge-helper",
        "python3-venv": "python3", "gpgv": "gnupg", "mmdebstrap": "",
    },
    "arch": {
        "qemu-system-x86_64": "qemu-base", "qemu-img": "qemu-img", "dnsmasq": "dnsmasq", "nft": "nftables",
        "ip": "iproute2", "ssh": "openssh", "mke2fs": "e2fsprogs", "sfdisk": "util-linux",
        "pasta": "passt", "newuidmap": "shadow", "qemu-bridge-helper": "qemu-base", "python3": "python",
        "python3-venv": "python", "gpgv": "gnupg", "mmdebstrap": "",
    },
}
"""Distribution -> program -> package; '' where it has none."""

COMMANDS = {
    "debian": "apt install", "ubuntu": "apt install", "alpine": "apk add", "arch": "pacman -S --needed",
}
PACKAGES["ubuntu"] = PACKAGES["debian"]


def of(os_release: str) -> str:
    """The first of ID and ID_LIKE (os-release(5)) that is known; debian where none is."""
    fields = dict(line.split("=", 1) for line in os_release.splitlines() if "=" in line)
    for word in f"{fields.get('ID', '')} {fields.get('ID_LIKE', '')}".replace('"', "").split():
        if word in COMMANDS:
            return word
    return "debian"


def packages(distribution: str, programs: Sequence[str]) -> list[str]:
    """The packages that bring these programs, each once, in order."""
    known = PACKAGES[distribution]
    return [package for package in dict.fromkeys(known.get(program, program) for program in programs) if package]


def install(distribution: str, programs: Sequence[str]) -> str:
    """The command that installs them."""
    return f"{COMMANDS[distribution]} {' '.join(packages(distribution, programs))}"
