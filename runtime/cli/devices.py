"""Verbs on the devices of the flock: devices list, name, remove, back, obey; leave."""

from __future__ import annotations

import argparse
import time
from typing import Any

from flocklet.cli.output import Output
from flocklet.cli.parser import add_sub_verbs
from flocklet.cli.session import ask

__all__ = ["add_parser"]

_ABOUT = """\
Named devices link by their key; the code only admits newcomers. A removed device is refused by every device that has
heard of it, by key and by secret: the flock gets a new secret, which the others are given over their links. Devices that
are off hear it from the first remaining device that they meet. What the removed one knows already it keeps."""


def add_parser(verbs: Any) -> None:
    """Add the verbs of this module."""
    devices = verbs.add_parser(
        "devices", help="list, name, remove the devices of the flock", description=_ABOUT
    )
    acts = add_sub_verbs(verbs, devices)
    acts.add_parser("list", help="every device: named, guest or out").set_defaults(run=_list)
    name = acts.add_parser("name", help="name a device: it links by its key from now on")
    name.add_argument("device", help="the id that 'flocklet peers' prints, or its name now")
    name.add_argument("name", help="what to call it")
    name.set_defaults(run=_name)
    remove = acts.add_parser("remove", help="put a device out (without DEVICE: only a new secret)")
    remove.add_argument("device", nargs="?", help="a name, or the id that 'flocklet devices list' prints")
    remove.add_argument("--drop", action="store_true", help="forget what it clicked, rated and trusted, too")
    remove.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="DEVICE",
        help="stays although only the removed one named it",
    )
    remove.add_argument(
        "--unname", action="store_true", help="the others that only the removed one named become guests"
    )
    remove.set_defaults(run=_remove)
    back = acts.add_parser("back", help="let a device in again")
    back.add_argument("device")
    back.add_argument("--here", action="store_true", help="on this device alone")
    back.set_defaults(run=_back)
    obey = acts.add_parser("obey", help="obey a removal that waits")
    obey.add_argument("number", help="its number in 'flocklet devices list'")
    obey.set_defaults(run=_obey)
    leave = verbs.add_parser(
        "leave",
        help="leave the flock",
        description="Leave the flock: the others are told, the secrets are erased, everything else stays here.",
    )
    leave.set_defaults(run=_leave)


def _show(args: argparse.Namespace, answer: dict[str, Any]) -> int:
    output = Output(args)
    output.document(answer)
    rows = []
    for row in answer["devices"]:
        state = f"out (by {', '.join(row['put_out_by'])})" if row["put_out_by"] else row["state"]
        seen = "now" if row["is_linked"] else _ago(row["last_seen_s"])
        rows.append((row["short"], row["name"], state, seen))
    output.table(("device", "name", "state", "last seen"), rows)
    for one in answer["held"]:
        output.remark(
            f"{one['author']} wants {one['target']} out, its second removal today: it is obeyed tomorrow, or now by "
            f"'flocklet devices obey {one['number']}'"
        )
    return 0


def _ago(at_s: float | None) -> str:
    if at_s is None:
        return ""
    minutes = max(0.0, time.time() - at_s) / 60
    return f"{minutes:.0f} min ago" if minutes < 100 else time.strftime("%Y-%m-%d", time.localtime(at_s))


def _list(args: argparse.Namespace) -> int:
    return _show(args, ask(args, "devices", {"act": "list"}))


def _name(args: argparse.Namespace) -> int:
    return _show(args, ask(args, "devices", {"act": "name", "target": args.device, "name": args.name}))


def _remove(args: argparse.Namespace) -> int:
    output = Output(args)
    if args.device is None:
        answer = ask(args, "devices", {"act": "secret"})
        output.remark("a new secret; guests need a new code: flocklet invite")
        return _show(args, answer)
    answer = ask(
        args,
        "devices",
        {"act": "remove", "target": args.device, "drop": args.drop, "keep": args.keep, "unname": args.unname},
    )
    if answer["is_open"]:
        output.remark(
            "refused on this device from now on; an open flock has no way to put anybody out elsewhere"
        )
    for name in answer["also_unnamed"]:
        output.remark(f"{name} was named by the removed device alone and is a guest now")
    told = answer.get("told")
    if told is not None:
        output.remark(
            f"obeyed by {told['obeyed']} of {told['named']}; those that are off hear it when they come"
        )
    return _show(args, answer)


def _back(args: argparse.Namespace) -> int:
    return _show(args, ask(args, "devices", {"act": "back", "target": args.device, "here": args.here}))


def _obey(args: argparse.Namespace) -> int:
    return _show(args, ask(args, "devices", {"act": "obey", "target": args.number}))


def _leave(args: argparse.Namespace) -> int:
    answer = ask(args, "devices", {"act": "leave"})
    Output(args).remark(
        "this device has left; 'flocklet join CODE' or 'flocklet init' gives it a flock again"
    )
    return _show(args, answer)
