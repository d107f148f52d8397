"""What UEFI guests are made of: Debian's signed boot loaders, a kernel, and the disk that firmware starts."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

LOADERS = {
    "shim-signed": {"usr/lib/shim/shimx64.efi.signed": "EFI/BOOT/BOOTX64.EFI"},
    "grub-efi-amd64-signed": {"usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed": "EFI/BOOT/grubx64.efi"},
}
"""Package -> its file -> where it is on the disk. They are unpacked, not installed: that would be the host's loader."""
FIRMWARE = Path("/usr/share/OVMF")
ROOT_OFFSET = 1 << 20
"""Of the file system in our images."""
GRUB = """\
if linux /vmlinuz root=LABEL=root ro console=ttyS0,115200 loglevel=5 cryptomgr.notests ds=nocloud; then
	initrd /initrd.img
	boot
fi
echo refused
halt
"""
ESP_KIB = 64 << 10
CERTIFICATES = 4
"""Of the data directories of a PE file (PE Format, Optional Header Data Directories), which begin at byte 112."""


def loaders(cache: Path) -> dict[str, Path]:
    """Place on the disk -> file, from Debian's packages, fetched once a host."""
    cache.mkdir(parents=True, exist_ok=True)
    found = {}
    for package, files in LOADERS.items():
        tree = cache / package
        if not tree.exists():
            subprocess.run(["apt-get", "download", "--quiet", package], cwd=cache, check=True, timeout=120)
            (archive,) = cache.glob(f"{package}_*.deb")
            subprocess.run(["dpkg", "-x", archive, f"{tree}.new"], check=True)
            archive.unlink()
            Path(f"{tree}.new").rename(tree)
        found.update({place: tree / file for file, place in files.items()})
    return found


def kernel(root: Path, folder: Path) -> dict[str, Path]:
    """The kernel and its first file system, read from the file system in a raw disk."""
    found = {}
    for name in ("vmlinuz", "initrd.img"):
        link = _debugfs(root, f"stat /{name}").partition('Fast link dest: "')[2].partition('"')[0]
        found[name] = folder / name
        _debugfs(root, f"dump /{link.lstrip('/')} {found[name]}")
    return found


def _debugfs(root: Path, command: str) -> str:
    return subprocess.run(["debugfs", "-R", command, f"{root}?offset={ROOT_OFFSET}"], capture_output=True, text=True,
                          check=True).stdout


def unsigned(image: bytes) -> bytes:
    """A signed PE file without its signature: the table of certificates is at its end."""
    header = struct.unpack_from("<I", image, 0x3c)[0]
    assert image[header:header + 4] == b"PE\0\0"
    entry = header + 24 + 112 + 8 * CERTIFICATES
    offset, size = struct.unpack_from("<II", image, entry)
    assert size and offset + size == len(image)
    return image[:entry] + bytes(8) + image[entry + 8:offset]


def esp(disk: Path, files: dict[str, Path], menu: Path) -> None:
    """A disk that is one FAT file system, with these files and GRUB's menu."""
    menu.write_text(GRUB, "utf-8")
    subprocess.run(["mkfs.vfat", "-C", disk, str(ESP_KIB)], check=True, capture_output=True)
    subprocess.run(["mmd", "-i", disk, "::EFI", "::EFI/BOOT", "::EFI/debian"], check=True)
    for place, file in {**files, "EFI/debian/grub.cfg": menu}.items():
        subprocess.run(["mcopy", "-i", disk, file, f"::{place}"], check=True)
