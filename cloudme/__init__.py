"""cloudMe: a mini-cloud of QEMU machines from small commands."""

__version__ = "0.1.0"
