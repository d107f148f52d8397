"""What our images run before their root is mounted (initramfs-tools(7))."""

SCSI_MODULES = """\
#!/bin/sh
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
manual_add_modules virtio_scsi sd_mod
"""

EARLY = """\
#!/bin/sh
[ "$1" = prereqs ] && exit 0
# Disks of definitions are behind a SCSI controller of virtio's (virtio, 4.1.2.1: transitional, modern); others need no
# SCSI at all.
for device in /sys/bus/pci/devices/*/device; do
	read -r id <"$device"
	case $id in
	0x1004 | 0x1048)
		modprobe -a virtio_scsi sd_mod
		;;
	esac
done
# Only where the CPU is emulated: it translates a library once for every address that it is loaded at, so let that be
# always the same; and drivers for the CPU's gifts (nested machines, fast ciphers) give nothing there.
while read -r line; do
	case $line in
	*"QEMU TCG"*)
		echo 0 >/proc/sys/kernel/randomize_va_space
		mkdir -p /run/modprobe.d
		for module in kvm_amd kvm_intel aesni_intel ghash_clmulni_intel sha512_ssse3 sha256_ssse3 sha1_ssse3 \\
			crct10dif_pclmul crc32_pclmul crc32c_intel; do
			echo "blacklist $module"
		done >/run/modprobe.d/emulated.conf
		break
		;;
	esac
done </proc/cpuinfo
"""
