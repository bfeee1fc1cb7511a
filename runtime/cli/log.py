"""`flocklet log`: what concerned security on this device."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from typing import Any

from flocklet.cli.output import Output
from flocklet.cli.session import home_of

__all__ = ["add_parser"]


def add_parser(verbs: Any) -> None:
    """Add the verb of this module."""
    log = verbs.add_parser(
        "log",
        help="show joins, removals, refusals, bans, clocks and clones",
        description="What concerned security here, oldest first. Times are those of this device's clock.",
    )
    log.add_argument("--security", action="store_true", help="security events (what is shown by default)")
    log.add_argument("-n", "--limit", type=int, default=50, metavar="N", help="the newest N (default: 50)")
    log.set_defaults(run=_log)


def _log(args: argparse.Namespace) -> int:
    from flocklet.store.security_log import SecurityLog

    output = Output(args)
    events = list(SecurityLog(home_of(args).security_log).read())
    events = events[max(0, len(events) - max(0, args.limit)) :]
    output.document({"events": [asdict(event) for event in events]})
    if not events:
        output.remark("nothing yet")
        return 0
    rows = [
        (time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(e.at_s)), e.kind, e.who, e.what) for e in events
    ]
    output.table(("when", "kind", "who", "what"), rows)
    return 0
