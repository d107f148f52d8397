# What every clone must get afresh, taken from a template before it is cloned (machine-id(5); systemd's "Building images
# safely"). Run as root in the guest, by vmcreate over ssh and by vmwarm through the guest agent.
set -e
command -v python3 >/dev/null || { echo 'python3 is missing' >&2; exit 3; }
if command -v cloud-init >/dev/null; then cloud-init clean --logs; fi
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id /etc/ssh/ssh_host_* /var/lib/systemd/random-seed /root/.bash_history
rm -f /var/lib/dhcp/*.leases
sync
