"""The code that lets a device join: the flock's secret, a one-time token, and the root of its names.

    plain: secret (16 B)          with names: secret (16 B) | token (8 B) | first 8 bytes of the founder's device id

as base32 with check characters. Whoever shows the token to the device that invited is named by it; whoever has the secret
alone is a guest.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from flocklet.errors import IdentityError
from flocklet.identity.flock import SECRET_BYTES
from flocklet.identity.luhn32 import spell, unspell
from flocklet.identity.roster import ROOT_BYTES

__all__ = ["TOKEN_BYTES", "WINDOW_S", "Invitation", "prove_token"]

TOKEN_BYTES = 8
WINDOW_S = 600.0
_WHAT, _REMEDY = "this invitation", "compare it with what 'flocklet invite' printed"
_PLAIN_LETTERS = 28


@dataclass(frozen=True)
class Invitation:
    """What a code says; `token` and `root` are empty in a flock that names nobody."""

    secret: bytes
    token: bytes = b""
    root: bytes = b""

    @classmethod
    def parse(cls, text: str) -> Invitation:
        """Read a code; raise IdentityError that names the mistyped group."""
        letters = sum(c.isalnum() for c in text)
        if letters <= _PLAIN_LETTERS + 4:
            return cls(unspell(text, SECRET_BYTES, _WHAT, _REMEDY))
        data = unspell(text, SECRET_BYTES + TOKEN_BYTES + ROOT_BYTES, _WHAT, _REMEDY)
        return cls(data[:SECRET_BYTES], data[SECRET_BYTES : SECRET_BYTES + TOKEN_BYTES], data[-ROOT_BYTES:])

    def spelled(self) -> str:
        """Return the code."""
        if (len(self.token), len(self.root)) not in ((0, 0), (TOKEN_BYTES, ROOT_BYTES)):
            raise IdentityError("an invitation has a token and a root, or neither")
        return spell(self.secret + self.token + self.root)


def prove_token(token: bytes, newcomer_id: bytes, inviter_id: bytes) -> bytes:
    """Return the 32 bytes by which a newcomer shows a token to the device that invited, over an authenticated link."""
    return hmac.digest(token, b"flocklet token" + newcomer_id + inviter_id, "sha256")
