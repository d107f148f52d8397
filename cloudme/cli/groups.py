"""What cmcheck --vfio prints."""

from __future__ import annotations

import argparse
import os

from cloudme import cli
from cloudme.errors import UsageError
from cloudme.model.ports import Host
from cloudme.operations.checks import vfio
from cloudme.operations.checks.vfio import Found

HEADS = ("group", "device", "class", "model", "driver", "verdict", "why")


def run(args: argparse.Namespace, host: Host) -> int:
    """Returns the exit status. It changes nothing. Raises UsageError, HostUnavailable."""
    if args.checks or args.fix or args.persist:
        raise UsageError("--vfio goes with --root and --json alone", hint="cmcheck --vfio")
    devices = host.devices
    if args.root:
        from cloudme.host import vfio as sysfs

        devices = sysfs.Sysfs(args.root)
    found = vfio.found(devices, None if args.root else host.net.links())
    if args.json:
        cli.print_json([document(one) for one in found])
    else:
        cli.print_table((row(one) for one in found), HEADS)
    return os.EX_OK


def document(one: Found) -> dict[str, object]:
    device = one.device
    return {"group": device.group, "address": device.address, "class": device.kind, "model": device.model,
            "driver": device.driver or None, "bridge": device.bridge, "verdict": one.verdict, "uses": list(one.uses),
            "along": list(one.along)}


def row(one: Found) -> list[str]:
    device = one.device
    why = "" if device.bridge else "; ".join(one.uses) or " ".join(one.along)
    told = [word or "-" for word in (device.kind, device.model, device.driver)]
    return [device.group, device.address, *told, one.verdict, why]
