"""What goes into a Debian image that we make: a value. Equal recipes give equal images, package versions aside.

The image is for any machine: it has no machine-id, no host keys and no random seed; it asks for DHCP on every card
named e*; a NoCloud seed, where there is one, gives it its name and keys.

Everything is tested with guests whose CPU is emulated, twenty times slower than ours. So the initramfs loads two
modules and mounts the root, cloud-init runs once before sshd and once after everything else, and nothing that a
throw-away machine does without is started.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from cloudme.errors import UsageError
from cloudme.model.bootscripts import EARLY, SCSI_MODULES
from cloudme.model.units import GIB

VERSION = 1
"""Part of the digest. Raise it when the way of building changes what comes out."""

DISK_BYTES = 4 * GIB
"""Of the disk: sparse, and grown at boot when the disk was made larger."""

SECTOR_BYTES = 512
FIRST_SECTOR = 2048
"""Of the only partition: 1 MiB, as every partitioner has it. GRUB's core image lives in the gap before it."""

BOOT_CODE_BYTES = 440
"""Of the first sector; the disk's id and the partition table follow (UEFI specification, 5.2.1, table 5-1)."""

PACKAGES = (
    "linux-image-cloud-amd64", "initramfs-tools", "zstd", "kmod", "udev",
    "systemd", "systemd-sysv", "systemd-resolved", "libnss-resolve", "libpam-systemd", "dbus",
    "grub-pc-bin", "grub2-common", "e2fsprogs", "fdisk", "cloud-guest-utils",
    "iproute2", "iputils-ping", "ca-certificates", "less", "openssh-server",
    "python3", "cloud-init", "qemu-guest-agent", "sudo",
)

NODES = {"console": (5, 1), "full": (1, 7), "null": (1, 3), "ptmx": (5, 2), "random": (1, 8), "tty": (5, 0),
         "urandom": (1, 9), "zero": (1, 5)}
"""Of /dev, before anything is mounted there: major and minor (Linux, Documentation/admin-guide/devices.txt)."""

USER = "debian"
"""Whom Debian's cloud-init lets in where nobody else is named (its cloud.cfg, default_user)."""

DPKG_OPTIONS = (
    "path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright", "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*", "path-exclude=/usr/share/lintian/*", "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
)
"""Nobody reads manuals in a throw-away guest. Licences stay."""

GRUB_MODULES = (
    "biosdisk", "part_msdos", "ext2", "search", "search_fs_uuid", "normal", "configfile", "linux", "gzio",
    "serial", "terminal", "echo", "test", "ls", "minicmd",
)
"""All that is needed before /boot/grub/i386-pc can be read, and to look around when it cannot."""

KERNEL_ARGUMENTS = "console=tty0 console=ttyS0,115200 loglevel=5 cryptomgr.notests ds=nocloud"
"""loglevel=5: panics, errors and warnings reach the serial console. cryptomgr.notests: self-tests of ciphers take half
a second of an emulated CPU. ds=nocloud: cloud-init needs no network, so its local stage does all that sshd needs."""

DISABLED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
    "fstrim.timer", "systemd-pstore.service",
)
ENABLED = ("systemd-networkd.service", "systemd-resolved.service", "cloudme-grow.service")
MASKED = (
    "user@0.service",  # root's own systemd: seconds before the first prompt, for nothing
    "cloud-init-hotplugd.socket", "systemd-journald-audit.socket",
    # the kernel loads these by itself when they are used
    "modprobe@dm_mod.service", "modprobe@loop.service", "modprobe@drm.service", "modprobe@fuse.service",
    "modprobe@configfs.service", "sys-fs-fuse-connections.mount", "sys-kernel-config.mount",
)
MASKED_GENERATORS = (
    "systemd-cryptsetup-generator", "systemd-veritysetup-generator", "systemd-integritysetup-generator",
    "systemd-hibernate-resume-generator", "systemd-gpt-auto-generator", "systemd-bless-boot-generator",
)
"""They look at every boot for what these machines do not have. An empty file masks one (systemd.generator(7))."""

MASKED_BOOKWORM = (
    "cloud-init.service",  # the stage with network: the local one has done it all
    "cloud-config.service",  # its modules run in the final stage
)

LEFTOVERS = (
    "etc/ssh/ssh_host_*", "etc/.pwd.lock", "var/lib/systemd/random-seed", "var/lib/dbus/machine-id",
    "var/lib/cloud/*", "var/log/**/*", "var/cache/apt/*", "var/cache/debconf/*-old", "var/lib/dpkg/*-old",
    "var/lib/apt/lists/*", "root/.bash_history", "tmp/*",
)
"""Globs of what must differ between machines, and of what building leaves behind. Folders of packages stay."""


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file of the image."""

    text: str
    mode: int = 0o644


Files = Mapping[str, TextFile]
"""By absolute path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """early: files that hooks of the packages read, there before any is configured. late: files over what they wrote.

    commands: run in the tree at last, as root.
    """

    suite: str
    packages: tuple[str, ...]
    early: Files
    late: Files
    commands: tuple[tuple[str, ...], ...]
    leftovers: tuple[str, ...] = LEFTOVERS
    disk_bytes: int = DISK_BYTES
    version: int = VERSION


def digest(recipe: Recipe) -> str:
    """64 hexadecimal digits, the same on every host and for every run."""
    text = json.dumps(asdict(recipe), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def filesystem_uuid(recipe: Recipe) -> str:
    """The uuid of the root file system, by which the kernel finds it."""
    return str(uuid.UUID(digest(recipe)[:32], version=4))


def debian(suite: str = "bookworm", include: Sequence[str] = ()) -> Recipe:
    """Return the recipe of a Debian image with the packages `include` on top. Raises UsageError for what is no name."""
    for word in (suite, *include):
        if not word or set(word) - set("abcdefghijklmnopqrstuvwxyz0123456789+-.:"):
            raise UsageError(f"'{word}' is no name of a {'suite' if word is suite else 'package'}")
    bookworm = suite == "bookworm"
    masked = MASKED + (MASKED_BOOKWORM if bookworm else ())
    return Recipe(
        suite=suite,
        packages=(*PACKAGES, *sorted(set(include) - set(PACKAGES))),
        early=_boot_files(),
        late={**_system_files(), **_network_files(), **_ssh_files(), **_cloud_files(),
              **(_bookworm_files() if bookworm else {})},
        commands=(
            ("systemctl", "--quiet", "disable", *DISABLED),
            ("systemctl", "--quiet", "enable", *ENABLED),
            ("systemctl", "--quiet", "mask", *masked),
            *((("systemctl", "--quiet", "add-wants", "multi-user.target", "cloud-init.target"),) if bookworm else ()),
        ),
    )


def _boot_files() -> dict[str, TextFile]:
    return {
        "/etc/initramfs-tools/conf.d/cloudme.conf": TextFile(
            "MODULES=list\nBUSYBOX=n\nKEYMAP=n\nCOMPRESS=zstd\nCOMPRESSLEVEL=3\nRESUME=none\n"),
        "/etc/initramfs-tools/modules": TextFile("virtio_pci\nvirtio_blk\n"),
        "/etc/initramfs-tools/hooks/cloudme": TextFile(SCSI_MODULES, 0o755),
        # These two take the place of udev: the modules of the list make the disk appear, or the first one does.
        "/etc/initramfs-tools/scripts/init-top/udev": TextFile(EARLY, 0o755),
        "/etc/initramfs-tools/scripts/init-bottom/udev": TextFile("#!/bin/sh\n", 0o755),
        # No check at boot (the last 0): ext4 replays its journal when it is mounted.
        "/etc/fstab": TextFile("LABEL=root / ext4 errors=remount-ro,discard 0 0\n"),
        "/etc/kernel-img.conf": TextFile("do_symlinks = yes\n"),
        "/etc/default/grub": TextFile(
            "GRUB_DEFAULT=0\nGRUB_TIMEOUT=0\nGRUB_TIMEOUT_STYLE=hidden\nGRUB_RECORDFAIL_TIMEOUT=0\n"
            "GRUB_DISTRIBUTOR=Debian\nGRUB_DISABLE_OS_PROBER=true\nGRUB_DISABLE_SUBMENU=y\n"
            'GRUB_TERMINAL="serial console"\nGRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"\n'
            f'GRUB_CMDLINE_LINUX_DEFAULT=""\nGRUB_CMDLINE_LINUX="{KERNEL_ARGUMENTS}"\n'),
    }


def _system_files() -> dict[str, TextFile]:
    return {
        "/etc/hostname": TextFile("localhost\n"),
        "/etc/hosts": TextFile("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"),
        # Empty, not missing: a machine gets an id of its own, but is not asked for its time zone (machine-id(5)).
        "/etc/machine-id": TextFile("", 0o444),
        "/etc/dpkg/dpkg.cfg.d/cloudme": TextFile("".join(f"{option}\n" for option in DPKG_OPTIONS)),
        "/etc/apt/apt.conf.d/90cloudme": TextFile('Acquire::Languages "none";\n'),
        "/etc/systemd/system.conf.d/cloudme.conf": TextFile("[Manager]\nDefaultTimeoutStopSec=15s\n"),
        # The agent answers early, so that the host can tell "boots" from "hangs".
        "/etc/systemd/system/qemu-guest-agent.service.d/cloudme.conf": TextFile(
            "[Unit]\nDefaultDependencies=no\nAfter=systemd-remount-fs.service systemd-tmpfiles-setup.service\n"
            "Conflicts=shutdown.target\nBefore=shutdown.target\n"),
        **{f"/etc/systemd/system-generators/{name}": TextFile("") for name in MASKED_GENERATORS},
        # Half of all devices are consoles nobody looks at, memory blocks, work queues: no rule of udev asks for them.
        "/etc/systemd/system/systemd-udev-trigger.service.d/cloudme.conf": TextFile(COLDPLUG),
        "/etc/systemd/system/cloudme-grow.service": TextFile(
            "[Unit]\nDescription=Let the root file system fill its disk\n\n"
            "[Service]\nType=oneshot\nExecStart=/usr/local/sbin/cloudme-grow\n\n[Install]\nWantedBy=multi-user.target\n"),
        "/usr/local/sbin/cloudme-grow": TextFile(GROW, 0o755),
    }


COLDPLUG = """\
[Service]
ExecStart=
ExecStart=-udevadm trigger --action=add --type=devices --prioritized-subsystem=module,block,net \\
  --subsystem-nomatch=tty --subsystem-nomatch=vc --subsystem-nomatch=wakeup --subsystem-nomatch=bdi \\
  --subsystem-nomatch=memory --subsystem-nomatch=mem --subsystem-nomatch=event_source --subsystem-nomatch=workqueue
ExecStart=-udevadm trigger --action=add --type=devices --subsystem-match=tty --sysname-match=ttyS*
"""

GROW = """\
#!/bin/sh -e
# Lets the root file system fill its disk when that was made larger. Without news it starts one process.
cd "/sys/dev/block/$(mountpoint -d /)"
read -r start <start; read -r size <size; read -r number <partition; read -r total <../size
[ $((total - start - size)) -gt 4096 ] || exit 0
. ./uevent
partition=$DEVNAME
. ../uevent
growpart "/dev/$DEVNAME" "$number"
resize2fs "/dev/$partition"
"""


def _network_files() -> dict[str, TextFile]:
    return {
        # Any card, whatever its address: a clone with another one is another DHCP client.
        "/etc/systemd/network/80-dhcp.network": TextFile(
            "[Match]\nName=e*\nKind=!*\n\n[Network]\nDHCP=ipv4\n\n[DHCPv4]\nClientIdentifier=mac\nUseDomains=yes\n"
            "UseHostname=no\n"),
        # For what cloud-init writes, which says nothing about identifiers.
        "/etc/systemd/networkd.conf.d/cloudme.conf": TextFile("[DHCPv4]\nDUIDType=link-layer\n"),
        # One card with an address is "online"; without any card there is nothing to wait for.
        "/etc/systemd/system/systemd-networkd-wait-online.service.d/cloudme.conf": TextFile(
            "[Unit]\nConditionPathExistsGlob=/sys/class/net/e*\n\n"
            "[Service]\nExecStart=\nExecStart=/lib/systemd/systemd-networkd-wait-online --any --timeout=30\n"),
    }


def _ssh_files() -> dict[str, TextFile]:
    return {
        # The name and the first line are cloud-init's: it finds nothing to change, and does not start sshd again.
        "/etc/ssh/sshd_config.d/50-cloud-init.conf": TextFile(
            "PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
            "KbdInteractiveAuthentication no\nUseDNS no\n"),
        # cloud-init gives or makes the host key; where it did neither, one is made here.
        "/etc/systemd/system/ssh.service.d/cloudme.conf": TextFile(
            "[Unit]\nAfter=cloud-init-local.service cloud-init.service\n\n[Service]\nExecStartPre=\n"
            "ExecStartPre=/bin/sh -c 'for key in /etc/ssh/ssh_host_*_key; do [ -s $$key ] && exit 0; done;"
            " exec ssh-keygen -q -t ed25519 -N \"\" -f /etc/ssh/ssh_host_ed25519_key'\n"),
    }


def _cloud_files() -> dict[str, TextFile]:
    return {
        "/etc/cloud/cloud.cfg.d/90-cloudme.cfg": TextFile("""\
datasource_list: [ NoCloud, None ]
disable_root: false
ssh_pwauth: false
ssh_genkeytypes: [ ed25519 ]
ssh_deletekeys: true
ssh_quiet_keygen: true
users: []
preserve_hostname: false
locale: false
no_ssh_fingerprints: true
growpart: { mode: "off" }
resize_rootfs: false
system_info: { network: { renderers: [ networkd ] } }
# Before sshd only what it needs.
cloud_init_modules: [ bootcmd, write-files, set_hostname, update_hostname, update_etc_hosts, users-groups, ssh ]
cloud_config_modules: []
cloud_final_modules:
  [ disk_setup, mounts, ca-certs, set-passwords, apt-configure, ntp, timezone, runcmd, package-update-upgrade-install,
    write-files-deferred, scripts-vendor, scripts-per-once, scripts-per-boot, scripts-per-instance, scripts-user,
    phone-home, final-message, power-state-change ]
"""),
    }


def _bookworm_files() -> dict[str, TextFile]:
    """cloud-init 22.4 as two processes instead of four, each without what takes an emulated CPU seconds."""
    return {
        # It looks for clouds at every boot; there is a seed or there is none.
        "/etc/systemd/system-generators/cloud-init-generator": TextFile(""),
        "/usr/local/lib/cloudme/cloud-init": TextFile("""\
#!/usr/bin/python3 -I
# cloud-init without the check of its configuration against a schema, which takes longer than all the rest.
import gc
import sys

gc.disable()
sys.modules["jsonschema"] = None
from cloudinit.cmd.main import main

sys.argv[0] = "cloud-init"
sys.exit(main())
""", 0o755),
        "/etc/systemd/system/cloud-init-local.service.d/cloudme.conf": TextFile(
            "[Unit]\nBefore=ssh.service systemd-user-sessions.service\n\n"
            "[Service]\nExecStart=\nExecStart=/usr/local/lib/cloudme/cloud-init init --local\n"),
        "/usr/local/lib/cloudme/cloud-final": TextFile(CLOUD_FINAL, 0o755),
        "/etc/systemd/system/cloud-final.service.d/cloudme.conf": TextFile(
            "[Service]\nExecStart=\nExecStart=/usr/local/lib/cloudme/cloud-final\n"),
    }


CLOUD_FINAL = """\
#!/bin/sh
# cloud-init's last stage, unless the seed asks for nothing but what the first one did: then only its result is noted,
# for those who wait with `cloud-init status --wait`.
cd /var/lib/cloud
done='bootcmd|disable_root|fqdn|hostname|manage_etc_hosts|prefer_fqdn_over_hostname|preserve_hostname|ssh_[a-z_]+|users?'
if grep -Eqv "^([ #.-].*|($done):.*|)$" instance/cloud-config.txt ||
	[ -n "$(find scripts instance/scripts -type f 2>/dev/null)" ]; then
	exec /usr/local/lib/cloudme/cloud-init modules --mode=final
fi
echo '{"v1": {"datasource": "DataSourceNoCloud", "errors": []}}' >data/result.json
ln -sf ../../var/lib/cloud/data/result.json /run/cloud-init/result.json
"""


def grub_cfg(recipe: Recipe) -> str:
    """The first menu; update-grub in the guest replaces it."""
    root = filesystem_uuid(recipe)
    return (
        "serial --unit=0 --speed=115200\nterminal_input serial console\nterminal_output serial console\nset timeout=0\n"
        f"search --no-floppy --fs-uuid --set=root {root}\n"
        f"menuentry 'Debian' {{\n\tlinux /vmlinuz root=UUID={root} ro {KERNEL_ARGUMENTS}\n\tinitrd /initrd.img\n}}\n"
    )


def mmdebstrap_argv(recipe: Recipe, tree: str, early: str, sources: Sequence[str]) -> list[str]:
    """mmdebstrap(1). tree: the folder to fill; early: a folder that is copied over it before packages are configured.

    sources:  lines of sources.list(5), or URIs; none means: mmdebstrap's own.

    It binds the host's /sys and /dev/shm into the tree. In namespaces of its own these mounts, and every process that
    dpkg started, are gone with it, also when it is killed: what removes the tree next cannot reach through to the host.
    """
    return [
        "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
        "mmdebstrap", "--quiet", "--mode=root", "--format=directory", "--variant=apt",
        "--dpkgopt=force-unsafe-io", "--dpkgopt=force-confold", *(f"--dpkgopt={option}" for option in DPKG_OPTIONS),
        '--aptopt=Acquire::Languages "none"', f"--essential-hook=copy-in {early}/etc /",
        f"--include={','.join(recipe.packages)}", recipe.suite, tree, *sources,
    ]


def mke2fs_argv(recipe: Recipe, tree: str, raw: str) -> list[str]:
    """mke2fs(8): a file system with the contents of `tree` in the partition of the file `raw`. Its zeros are real."""
    offset = FIRST_SECTOR * SECTOR_BYTES
    return [
        "mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-m", "1", "-U", filesystem_uuid(recipe),
        "-E", f"offset={offset},lazy_itable_init=0,assume_storage_prezeroed=1,nodiscard", "-d", tree,
        raw, f"{(recipe.disk_bytes - offset) // 1024}k",
    ]


def nodes_script(names: Iterable[str]) -> str:
    """debugfs(8), input: device nodes, which only the real root can make in a folder. The kernel opens /dev/console."""
    lines = [f"mknod {name} c {major} {minor}\nset_inode_field {name} mode 020666"
             for name, (major, minor) in NODES.items() if name in names]
    return "\n".join(["cd /dev", *lines]) + "\n"


def debugfs_argv(raw: str) -> list[str]:
    return ["debugfs", "-w", "-f", "-", f"{raw}?offset={FIRST_SECTOR * SECTOR_BYTES}"]


def sfdisk_script(recipe: Recipe) -> str:
    """sfdisk(8), input: one bootable Linux partition up to the end."""
    return f"label: dos\nlabel-id: 0x{digest(recipe)[:8]}\nstart={FIRST_SECTOR}, type=83, bootable\n"


def grub_argv(output: str) -> list[str]:
    """grub-mkimage(1). A prefix without a disk means the disk it was loaded from: any order of disks will do."""
    return ["grub-mkimage", "-O", "i386-pc", "-o", output, "-p", "(,msdos1)/boot/grub", *GRUB_MODULES]
