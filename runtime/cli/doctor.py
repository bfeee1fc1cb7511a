"""The verb that explains what is wrong: doctor."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any, cast

from flocklet.cli.output import Output
from flocklet.cli.session import home_of
from flocklet.errors import FlockletError, UsageError

__all__ = ["add_parser"]

_LISTEN_MAX_S = 600.0


def add_parser(verbs: Any) -> None:
    """Add the verb of this module."""
    doctor = verbs.add_parser(
        "doctor",
        help="explain what is wrong, or that all is well",
        description="Check the home, the network and what computes here; listen for peers for a few seconds.",
    )
    doctor.add_argument(
        "--seconds", type=float, default=3.0, metavar="S", help="how long to listen, 0: not at all"
    )
    doctor.add_argument("--interface", action="append", metavar="NAME", help="listen only there")
    doctor.add_argument("--refresh", action="store_true", help="measure again what computes here")
    doctor.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    import asyncio

    from flocklet.accel import choose as accel
    from flocklet.device.membership import has_membership, load_membership
    from flocklet.discovery.probe import probe
    from flocklet.node.doctor import Finding, Level, diagnose, explain_probe
    from flocklet.node.settings import resolve

    if not 0 <= args.seconds <= _LISTEN_MAX_S:
        raise UsageError(f"--seconds is {args.seconds:g}", remedy=f"0 to {_LISTEN_MAX_S:g}")
    output = Output(args)
    home = home_of(args)
    interfaces = resolve(home.config, vars(args))["interface"].value or None
    findings = []
    tag, own_id = "open", None
    keys: tuple[bytes, ...] = ()
    if not has_membership(home):
        findings.append(Finding(Level.NOTE, f"no device in {home.path}", "", "'flocklet init' makes one"))
    else:
        try:
            membership = load_membership(home)
            tag, keys = membership.flock.tag, membership.flock.discovery_keys
            own_id = membership.identity.device_id
            findings.append(Finding(Level.OK, f"the device in {home.path} is sound"))
        except FlockletError as error:
            findings.append(Finding(Level.FAILURE, str(error), "", error.remedy))
    findings += diagnose()
    if args.seconds > 0:
        report = asyncio.run(
            probe(
                tag,
                keys=keys,
                seconds=args.seconds,
                own_id=own_id,
                interfaces=cast("tuple[str, ...] | None", interfaces),
            )
        )
        findings += explain_probe(report, args.seconds)
    computing = accel.probe(refresh=args.refresh)
    output.document(
        {
            "findings": [asdict(finding) for finding in findings],
            "compute": asdict(computing),
            "home": str(home.path),
        }
    )
    for finding in findings:
        if args.quiet and finding.level in (Level.OK, Level.NOTE):
            continue
        why = f": {finding.why}" if finding.why else ""
        remedy = f"\n         {finding.remedy}" if finding.remedy else ""
        output.line(f"{finding.level:<8} {finding.what}{why}{remedy}")
    for line in computing.lines():
        output.remark(f"compute  {line}")
    return 3 if any(finding.level is Level.FAILURE for finding in findings) else 0
