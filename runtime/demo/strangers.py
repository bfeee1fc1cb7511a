"""Two who try to get in: a device with the wrong secret, and somebody who sends garbage."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path

import numpy as np

from flocklet.demo.flock import LOOPBACK, PeerProcess, wait_until
from flocklet.identity.flock import Flock

__all__ = ["send_garbage", "try_wrong_secret"]

_PATIENCE_S = 15.0


def try_wrong_secret(folder: Path, victim: PeerProcess, port: int) -> bool:
    """Run a real peer of another flock that dials the victim; True when both sides report the refusal."""
    stranger = PeerProcess(folder, Flock.generate(), ("--peer", f"{LOOPBACK}:{port}", "--no-mdns"))
    stranger.start()
    try:
        stranger.wait_ready()

        def is_refused(peer: PeerProcess) -> bool:
            return any(row["reason"] == "flock" for row in peer.ask("status")["refusals"])

        both = wait_until(lambda: is_refused(stranger) and is_refused(victim), _PATIENCE_S)
        return both and stranger.ask("status")["links"] == 0
    finally:
        stranger.stop()


def send_garbage(victim: PeerProcess, port: int, rng: np.random.Generator) -> bool:
    """Send random bytes before and inside TLS; True when the victim refuses them and goes on as before."""
    links = victim.ask("status")["links"]
    before = len(victim.ask("status")["refusals"])
    with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=5) as channel:
        _talk(channel, rng)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        contextlib.suppress(OSError),
        socket.create_connection((LOOPBACK, port), timeout=5) as raw,
        context.wrap_socket(raw) as channel,
    ):
        _talk(channel, rng)
    refused = wait_until(lambda: len(victim.ask("status")["refusals"]) > before, _PATIENCE_S)
    status = victim.ask("status")
    return refused and status["links"] == links


def _talk(channel: socket.socket, rng: np.random.Generator) -> None:
    """Send garbage and listen until the victim hangs up."""
    channel.sendall(rng.bytes(4000))
    channel.settimeout(5)
    while channel.recv(4096):
        pass
