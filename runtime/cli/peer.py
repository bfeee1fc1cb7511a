"""Verbs about the peer process: up, peers, status, service."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, cast

from flocklet.cli.output import Output
from flocklet.cli.session import ask, home_of
from flocklet.errors import LinkError

__all__ = ["add_parser"]


def add_parser(verbs: Any) -> None:
    """Add the verbs of this module."""
    up = verbs.add_parser(
        "up",
        help="run the peer in the foreground",
        description="Run the peer until SIGINT or SIGTERM. Peers on the same network are found by mDNS.",
    )
    _add_network_options(up)
    up.set_defaults(run=_up)
    peers = verbs.add_parser("peers", help="show the peers that are near")
    peers.set_defaults(run=_peers)
    status = verbs.add_parser("status", help="show what this device holds and does")
    status.set_defaults(run=_status)
    service = verbs.add_parser(
        "service",
        help="print a systemd unit that runs the peer",
        description="Print a hardened systemd user unit: flocklet service > ~/.config/systemd/user/flocklet.service",
    )
    _add_network_options(service)
    service.set_defaults(run=_service)


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, metavar="N", help="TCP port (default: any free one)")
    parser.add_argument(
        "--interface",
        action="append",
        metavar="NAME",
        help="use only this interface or address; may be repeated",
    )
    parser.add_argument("--peer", action="append", metavar="HOST:PORT", help="a peer to dial")
    parser.add_argument(
        "--mdns",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="announce and browse by mDNS (yes)",
    )
    parser.add_argument(
        "--gossip-s", type=float, metavar="S", help="seconds between exchanges, 0: only answer"
    )


def _up(args: argparse.Namespace) -> int:
    import asyncio

    from flocklet.node.node import Node, NodeSettings
    from flocklet.node.settings import resolve

    output = Output(args)
    home = home_of(args)
    found = {name: one.value for name, one in resolve(home.config, vars(args)).items()}
    settings = NodeSettings(
        port=cast("int", found["port"]),
        interfaces=cast("tuple[str, ...]", found["interface"]) or None,
        peers=cast("tuple[str, ...]", found["peer"]),
        is_mdns_on=cast("bool", found["mdns"]),
        gossip_s=cast("float", found["gossip_s"]),
    )

    async def live() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        async with Node(home, settings) as node:
            status = await node.status()
            output.line(
                f"{status.short_id} in a{'n' if status.flock == 'open' else ''} {status.flock} flock, "
                f"port {status.port}, {status.documents} documents; Ctrl-C stops"
            )
            for problem in status.problems:
                output.warning(f"{problem} ('flocklet doctor' explains)")
            output.document(
                {name: getattr(status, name) for name in ("device_id", "short_id", "flock", "port", "pid")}
            )
            sys.stdout.flush()
            await stop.wait()
        output.remark("stopped")

    asyncio.run(live())
    return 0


def _peers(args: argparse.Namespace) -> int:
    output = Output(args)
    if not home_of(args).socket.exists():
        raise LinkError("no peer is running in this home", remedy="start it: flocklet up")
    peers = ask(args, "peers", {})
    output.document({"peers": peers})
    if not peers:
        output.remark("no peer was seen yet; 'flocklet doctor' explains what may be wrong")
        return 0
    rows = []
    for peer in peers:
        state = "linked" if peer["is_linked"] else "another flock" if peer["is_foreign"] else peer["liveness"]
        rtt = "" if peer["rtt_ms"] is None else f"{peer['rtt_ms']} ms"
        rows.append(
            (
                peer["short"],
                state,
                rtt,
                " ".join(peer["addresses"]),
                " ".join(peer["sources"]),
                peer["problem"],
            )
        )
    output.table(("peer", "state", "round trip", "addresses", "seen by", "last problem"), rows)
    return 0


def _status(args: argparse.Namespace) -> int:
    output = Output(args)
    facts = ask(args, "status", {})
    facts = {"is_running": "pid" in facts, **facts}
    output.document(facts)
    rows = []
    for name, value in facts.items():
        if name == "refusals":
            rows += [("refused", f"{row['reason']}: {row['what']}") for row in value]
        elif isinstance(value, dict):
            rows += [(f"{name}: {key}", number) for key, number in value.items()]
        elif isinstance(value, list):
            rows += [(name, item) for item in value]
        else:
            rows.append((name.replace("_", " "), value))
    output.table(("what", "value"), rows)
    return 0


# What a user's own systemd can do without privileges: prctl and seccomp always; the file system only with PrivateUsers,
# which keeps the unit from starting where users may not make namespaces (217/USER), so it is printed where they may.
# ProtectKernelModules and every other line that drops a capability fails too (218/CAPABILITIES); a user's process has
# none of them anyway. MemoryDenyWriteExecute is not set because compiled kernels are loaded, PrivateTmp because
# 'flocklet add /tmp/...' is done by the running peer.
_UNIT = """\
# flocklet: the peer of this user. Install:
#   mkdir -p ~/.config/systemd/user
#   flocklet service > ~/.config/systemd/user/flocklet.service
#   systemctl --user enable --now flocklet ; loginctl enable-linger
[Unit]
Description=flocklet peer
StartLimitIntervalSec=0

[Service]
ExecStart={command}
Restart=on-failure
RestartSec=5
TimeoutStopSec=20
Nice=5
UMask=0077
MemoryHigh=256M
NoNewPrivileges=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
{private_users}
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={home} /tmp
CacheDirectory=flocklet
CacheDirectoryMode=0700
ProtectKernelTunables=yes
ProtectControlGroups=yes

[Install]
WantedBy=default.target
"""


_NO_NAMESPACES = "# users may not make namespaces here, so systemd ignores the next lines up to [Install]:"


def _users_may_make_namespaces(root: Path = Path("/proc/sys")) -> bool:
    def setting(name: str, unknown: int) -> int:
        try:
            return int((root / name).read_text())
        except (OSError, ValueError):
            return unknown

    return (
        setting("user/max_user_namespaces", 0) > 0
        and setting("kernel/unprivileged_userns_clone", 1) != 0  # Debian's own switch
        and setting("kernel/apparmor_restrict_unprivileged_userns", 0) == 0  # Ubuntu's
    )


def _service(args: argparse.Namespace) -> int:
    output = Output(args)
    home = home_of(args).path.absolute()
    program = shutil.which(sys.argv[0]) or sys.argv[0]
    words = [os.fspath(Path(program).absolute()), "--home", str(home), "up"]
    if args.port is not None:
        words += ["--port", str(args.port)]
    for name in args.interface or ():
        words += ["--interface", name]
    for peer in args.peer or ():
        words += ["--peer", peer]
    if args.mdns is False:
        words.append("--no-mdns")
    if args.gossip_s is not None:
        words += ["--gossip-s", f"{args.gossip_s:g}"]
    command = " ".join(_quote(word.replace("$", "$$")) for word in words)
    private = "PrivateUsers=yes" if _users_may_make_namespaces() else _NO_NAMESPACES
    unit = _UNIT.format(command=command, home=_quote(f"-{home}"), private_users=private)
    output.line(unit.rstrip("\n"))
    output.document({"unit": unit})
    return 0


def _quote(word: str) -> str:
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if any(c in word for c in " \t\"'\\") else escaped
