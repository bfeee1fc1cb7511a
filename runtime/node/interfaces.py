"""Where a peer listens and dials from: everywhere, or the interfaces and addresses that its owner named."""

from __future__ import annotations

from collections.abc import Sequence

from flocklet.errors import ConfigError

__all__ = ["dialling_sources", "is_loopback_only", "listening_hosts"]

_LOOPBACK = ("lo", "lo0", "127.0.0.1", "::1")


def is_loopback_only(wanted: Sequence[str] | None) -> bool:
    """Whether only this machine is to be reached; None stands for everything."""
    return wanted is not None and all(name in _LOOPBACK for name in wanted)


def listening_hosts(wanted: Sequence[str] | None) -> Sequence[str]:
    """Return the addresses to listen on.

    Raises:
        ConfigError: there is no such interface or address.
    """
    if wanted is None:
        return ("0.0.0.0", "::")  # noqa: S104 - every link must prove its key and the secret of the flock
    from flocklet.discovery.interfaces import choose, list_interfaces

    everything = list_interfaces()
    picked, missing = choose(everything, tuple(wanted))
    if missing:
        raise ConfigError(
            f"there is no interface or address {missing[0]!r} on this machine",
            remedy=f"one of: {', '.join(sorted({interface.name for interface in everything}))}",
        )
    return [host for interface in picked for host in interface.hosts if not host.startswith("fe80:")]


def dialling_sources(wanted: Sequence[str] | None) -> Sequence[str]:
    """Return where dials come from: anywhere, or the chosen interfaces."""
    if wanted is None:
        return ()
    from flocklet.discovery.interfaces import sources_of

    return sources_of(listening_hosts(wanted))
