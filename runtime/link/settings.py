"""Times and sizes of a link."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LinkSettings"]


@dataclass(frozen=True)
class LinkSettings:
    """Times in seconds, sizes in bytes; see PROTOCOL.md for why these are the defaults."""

    handshake_s: float = 5.0  # TCP, TLS and proof together
    heartbeat_s: float = 5.0  # a ping after that much silence
    silence_s: float = 15.0  # the link is dead after that much silence
    operation_s: float = 30.0  # send, recv and request, unless the call says otherwise
    close_s: float = 2.0
    max_links: int = 256
    max_half_open: int = 128
    max_rejects: int = 16
    ban_s: float = 600.0
    max_bytes_per_s: float | None = None  # of one link, inwards; above it we read more slowly
    burst_bytes: int = 4 * 1024 * 1024
