"""The only place that touches processes, sockets, netlink and ssh: adapters behind the Protocols of model/ports."""
