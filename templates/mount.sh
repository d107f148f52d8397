# Mount the folders that this machine shares with its host, now and after every boot. Run as root in the guest: at each boot
# by cloud-init, and by the guest agent where it did not boot. Words: for each of them its tag, its mount point, ro or rw.
# Without words it forgets those that it was told before.
mark=x-cloudme.share
if grep -q "$mark" /etc/fstab; then
	sed -i "/$mark/d" /etc/fstab
fi
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
	mountpoint -q "$2" || mount "$2" || status=4
	shift 3
done
exit $status
