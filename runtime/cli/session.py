"""How a verb reaches the device: through the running peer, or on the store itself when none runs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from flocklet.errors import IdentityError, UsageError
from flocklet.store.home import Home, default_home
from flocklet.wire.visible import visible

__all__ = ["ask", "home_of"]

_LOCK_WAIT_S = 10.0


def home_of(args: argparse.Namespace) -> Home:
    """Return the home that `--home`, `$FLOCKLET_HOME` or the platform names."""
    return Home(args.home or default_home())


def ask(args: argparse.Namespace, verb: str, values: Mapping[str, Any], *, may_create: bool = False) -> Any:
    """Let the peer of this home do `verb`, or do it here under the lock of the home; return the plain answer.

    With `may_create` a home without a device gets one first (a closed flock of its own).
    """
    from flocklet.node import control

    _check_text(values)
    home = home_of(args)
    if home.socket.exists():
        try:
            return control.ask(home, verb, values)
        except FileNotFoundError:
            pass  # a killed peer left its socket behind
    return _alone(home, verb, values, may_create=may_create)


def _check_text(values: object) -> None:
    """Raise UsageError for an argument with bytes that are no text (paths travel as bytes)."""
    if isinstance(values, str):
        try:
            values.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"'{visible(values)}' holds bytes that are no UTF-8 text",
                remedy="type it anew, or set LANG to a UTF-8 locale",
            ) from None
    elif isinstance(values, Mapping):
        for pair in values.items():
            _check_text(pair)
    elif isinstance(values, (list, tuple)):
        for value in values:
            _check_text(value)


def _alone(home: Home, verb: str, values: Mapping[str, Any], *, may_create: bool) -> Any:
    from flocklet.clock import SystemClock
    from flocklet.device.commands import perform
    from flocklet.device.device import Device
    from flocklet.device.membership import create_membership, has_membership, load_membership

    if not has_membership(home):
        if not may_create:
            raise IdentityError(
                f"there is no flocklet device in {home.path}",
                remedy="'flocklet init' or 'flocklet add PATH' makes one",
            )
        home.ensure()
    with home.lock(wait_s=_LOCK_WAIT_S):
        membership = load_membership(home) if has_membership(home) else create_membership(home)
        with Device(home, membership, SystemClock()) as device:
            return perform(device, verb, values)
