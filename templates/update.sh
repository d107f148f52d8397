# Makes another key and another address true in a machine that runs: what its next boot would do by its seed.
# $1 user, $2 MAC of the card, $3 old address, $4 new address, $5 length of the prefix, $6 gateway; stdin: authorized_keys
set -eu
home=$(getent passwd "$1" | cut -d: -f6)
[ -n "$home" ] || { echo "there is no user $1" >&2; exit 1; }
umask 077
mkdir -p "$home/.ssh"
cat >"$home/.ssh/authorized_keys.new"
chown "$1": "$home/.ssh" "$home/.ssh/authorized_keys.new"
mv "$home/.ssh/authorized_keys.new" "$home/.ssh/authorized_keys"
[ "$3" != "$4" ] || exit 0

card=
for file in /sys/class/net/*/address; do
	[ "$(cat "$file")" = "$2" ] && card=$(basename "$(dirname "$file")")
done
[ -n "$card" ] || { echo "there is no card $2" >&2; exit 1; }

# What cloud-init wrote: whoever reads it again shall find the new address.
old=$(echo "$3" | sed 's/\./\\./g')
for file in /etc/systemd/network/*cloud-init* /etc/netplan/*cloud-init* /run/systemd/network/*netplan* \
	/etc/network/interfaces /etc/network/interfaces.d/*cloud-init* \
	/etc/NetworkManager/system-connections/*cloud-init* /etc/hosts; do
	[ ! -f "$file" ] || [ -z "$3" ] || sed -i "s/\\([^0-9.]\\|^\\)$old\\([^0-9.]\\|\$\\)/\\1$4\\2/g" "$file"
done

# The change itself outlives the connection over which it was asked for.
(
	sleep 0.3
	ip address add "$4/$5" dev "$card" || true
	[ -z "$3" ] || ip address del "$3/$5" dev "$card" || true
	ip route replace default via "$6" dev "$card" || true
	if systemctl -q is-active systemd-networkd 2>/dev/null; then
		networkctl reload
	elif systemctl -q is-active NetworkManager 2>/dev/null; then
		nmcli connection reload
	fi
) </dev/null >/dev/null 2>&1 &
