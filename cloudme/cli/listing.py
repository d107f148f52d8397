"""What vmrunning finds and prints. It is on the way of the plain vmrunning: nothing is imported that costs."""

from __future__ import annotations

import os

from cloudme import cli, errors, index

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cloudme.layout import World


def found(world: World, args: Any) -> list[dict[str, Any]]:
    """The machines of this world, or those of all users. Raises NotPermitted."""
    if not args.all_users:
        return index.listing(world, every=args.all)
    from cloudme import everyone

    if os.geteuid():
        raise errors.NotPermitted("only root sees the machines of others", hint="sudo vmrunning --all-users")
    return [machine for machine in everyone.listing(everyone.homes(), every=args.all)
            if args.realm in (None, machine["realm"])]


def show(machines: list[dict[str, Any]], args: Any) -> None:
    if args.json:
        cli.print_json(machines)
        return
    import sys
    import time

    keys = ["name", "group", "type", "address"] + ["address6"] * args.verbose + ["state"] * args.all
    if args.all_users:
        from cloudme import everyone

        elsewhere = any(not everyone.usual(machine["home"]) for machine in machines)
        keys = ["user", "realm"] + ["home"] * elsewhere + keys
    cli.print_table(
        ([machine[key] or "-" for key in keys] +
         [time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(machine["since"])) if machine["since"] else "-"]
         for machine in machines), heads=[*keys, "since"])
    for machine in machines:
        for share in machine.get("shares", ()):
            if machine["state"] == "running" and share["served"] is False:
                print(f"vmrunning: {machine['name']}: the share '{share['tag']}' is down: vmrestart {machine['name']}",
                      file=sys.stderr)
