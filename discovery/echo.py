"""Send one multicast packet to ourselves and see whether it comes back: the only firewall test that never
lies.
"""

from __future__ import annotations

import secrets
import socket
import struct
import time

from flocklet.discovery.announcement import SERVICE_TYPE

__all__ = ["MDNS_GROUP", "MDNS_PORT", "multicast_echo"]

MDNS_GROUP = "224.0.0.251"
MDNS_PORT = 5353


def multicast_echo(host: str, *, timeout_s: float = 0.5, port: int = MDNS_PORT) -> bool:
    """Ask an ordinary mDNS question on the interface of IPv4 `host`; True if we hear ourselves ask.

    It proves joining, routing, sending and the local firewall, not what switches and access points drop.
    Blocks for at most `timeout_s`. Raises OSError where the system refuses (no multicast, no such address,
    port taken).
    """
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth,
    ):
        for one in (ear, mouth):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "SO_REUSEPORT"):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        ear.bind(("", port))
        membership = socket.inet_aton(MDNS_GROUP) + socket.inet_aton(host)
        ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        mouth.bind((host, port))
        mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(host))
        mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
        mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
        question = _question(secrets.randbits(16))
        mouth.sendto(question, (MDNS_GROUP, port))
        end_s = time.monotonic() + timeout_s
        while (left_s := end_s - time.monotonic()) > 0:
            ear.settimeout(left_s)
            try:
                heard = ear.recv(9000)
            except TimeoutError:
                return False
            if heard == question:
                return True
    return False


def _question(number: int) -> bytes:
    """Return a DNS query for our service type (RFC 1035 section 4.1), told from others by its id."""
    labels = SERVICE_TYPE.rstrip(".").split(".")
    name = b"".join(bytes([len(label)]) + label.encode("ascii") for label in labels) + b"\0"
    return struct.pack(">6H", number, 0, 1, 0, 0, 0) + name + struct.pack(">2H", 12, 1)
