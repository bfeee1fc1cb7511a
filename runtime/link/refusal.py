"""Why a peer is refused: the reason codes of PROTOCOL.md, each with a line and a remedy for the owner."""

from __future__ import annotations

from flocklet.errors import PeerRefused

__all__ = ["REASONS", "heard_reason", "refusal"]

# code: (what happened, what to do)
REASONS: dict[str, tuple[str, str]] = {
    "version": ("no protocol version is common to both", "update flocklet on the older device"),
    "flock": (
        "it is in another flock",
        "run 'flocklet invite' on one device and 'flocklet join CODE' on the other",
    ),
    "key": (
        "it has another key than expected",
        "compare 'flocklet id' on both devices; somebody may be in between",
    ),
    "proof": ("its proof of identity does not hold", "the peer is broken or hostile"),
    "reflected": ("our own proof came back", "the peer is hostile"),
    "replay": ("its proof was used before", "the peer is hostile"),
    "expired": (
        "its certificate has an expiry date of its own",
        "delete the certificate there: it is remade",
    ),
    "certificate": ("its certificate cannot be read", "delete the certificate there: it is remade"),
    "clone": (
        "it has the same key as this device: a copied disk",
        "run 'flocklet init --rotate' on the copy",
    ),
    "self": ("it is this device itself", "remove our own address from the peers"),
    "removed": ("it was put out of the flock", "'flocklet devices list' says by whom"),
    "rotated": (
        "it is a guest, and the flock's secret changed",
        "run 'flocklet invite' on a named device and 'flocklet join CODE' on the guest",
    ),
    "unknown": ("it is not among the peers that may connect", "pair the two devices first"),
    "banned": ("it broke the protocol too often", "wait, or update the peer"),
    "full": ("too many links are open", "raise the limit, or wait"),
    "duplicate": ("another link between the same two peers is kept", "nothing to do"),
    "garbage": ("its bytes break the protocol", "update both devices; the peer may be hostile"),
    "order": ("a message came at the wrong time", "update both devices"),
    "credit": ("it sent more than it was allowed", "update both devices"),
    "timeout": ("it was silent for too long", "'flocklet doctor' checks the network"),
    "closing": ("it is shutting down", "it will be tried again"),
    "missing": ("it does not have what was asked for", "ask another peer"),
    "kind": ("it does not speak this kind of message", "update flocklet on that device"),
    "busy": ("it asks for more at once than its share", "nothing to do: it is answered later"),
    "slow": ("it took too long", "nothing to do: it is asked again later"),
    "internal": ("an error of our own", "'flocklet doctor' shows it; please report it"),
    "other": ("for a reason that this version does not know", "update both devices"),
}


def heard_reason(value: object) -> str:
    """Return the reason that a peer gave, made safe to log and to count: a code that we know, or `other`."""
    return value if type(value) is str and value in REASONS else "other"


def refusal(reason: str, peer: str, *, by_peer: bool = False, detail: str = "") -> PeerRefused:
    """Return the error for a known or unknown reason code; `by_peer` tells who refused."""
    what, remedy = REASONS.get(reason, ("it gave no known reason", ""))
    more = f" ({detail})" if detail else ""
    if by_peer:
        what = what.replace("it is in another flock", "we are in different flocks")
        return PeerRefused(f"{peer} refused us: reason '{reason}', seen from there: {what}{more}", reason=reason,
                           remedy=remedy)  # fmt: skip
    return PeerRefused(f"{peer} is refused: {what}{more}", reason=reason, remedy=remedy)
