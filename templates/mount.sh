# Mount the folders that this machine shares with its host, now and after every boot. Run as root in the guest: at each
# boot by cloud-init, and by the guest agent where it did not boot, or its shares change while it runs. Words: when they
# were said, in seconds since 1970; then for each share its tag, its mount point, ro or rw. What was said before it forgets,
# and unmounts. A guest that reboots while its QEMU stays has an old seed: it goes by what it was told last.
mark=x-cloudme.share
said=$1
shift
[ $# -gt 0 ] || grep -q "$mark" /etc/fstab || exit 0
known=$(sed -n "s/^# $mark=//p" /etc/fstab)
if [ "${known:-0}" -gt "$said" ]; then
	said=$known
	# shellcheck disable=SC2046  # words without spaces
	set -- $(sed -n "/^[^#].*$mark/s/^\([^ ]*\) \([^ ]*\) [^ ]* \(r[ow]\).*/\1 \2 \3/p" /etc/fstab)
fi

wanted=" $* "
grep "^[^#].*$mark" /etc/fstab | sort -rk 2,2 | while read -r tag place _ options _; do
	case $wanted in
	*" $tag $place ${options%%,*} "*) ;;
	*) ! grep -qF -- "$tag $place " /proc/mounts || umount "$place" || exit 5 ;;
	esac
done || exit 5
sed -i "/$mark/d" /etc/fstab
[ -z "$(tail -c 1 /etc/fstab)" ] || echo >>/etc/fstab  # its last line may have no end
echo "# $mark=$said" >>/etc/fstab
[ $# -gt 0 ] || exit 0

type='' tries=0
while [ -z "$type" ]; do
	if grep -qsx 0x001a /sys/bus/virtio/devices/*/device; then
		type=virtiofs
	elif grep -qsx 0x0009 /sys/bus/virtio/devices/*/device; then
		type=9p
	elif [ $((tries += 1)) -gt 50 ]; then
		echo 'no device for a share has come' >&2
		exit 3
	else
		sleep 0.2
	fi
done
case $type in
virtiofs) options='' ;;
9p) options=,trans=virtio,version=9p2000.L,msize=262144 ;;
esac

status=0
while [ $# -gt 0 ]; do
	mkdir -p "$2"
	echo "$1 $2 $type $3,nofail,$mark$options 0 0" >>/etc/fstab
	until mountpoint -q "$2" || words=$(mount "$2" 2>&1); do  # its device may still be coming
		if [ $((tries += 1)) -gt 50 ]; then
			echo "$words" >&2
			status=4
			break
		fi
		sleep 0.2
	done
	shift 3
done
exit $status
