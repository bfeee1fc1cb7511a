"""What can go wrong, as one tree.

    FlockletError                 exit 1
     +-- UsageError               exit 2   the command line does not make sense
     +-- ConfigError              exit 3   home directory, settings, environment
     |    +-- IdentityError       exit 3   key, certificate, device id
     +-- LinkError                exit 4   the network or a peer failed us
     |    +-- PeerRefused         exit 5   a peer said no, or we said no to a peer
     +-- WireError (ValueError)   exit 5   bytes that break the protocol
     |    +-- SchemaMismatch      exit 5   parameters of another model
     +-- StoreError               exit 6   the embedded store
     +-- MissingExtra (ImportError) exit 7 an optional package is not installed
     +-- ExportError              exit 8   a model cannot become firmware
     +-- VerificationError        exit 8   a proof did not hold

Every error carries one line that says what happened and why, and a remedy that says what to do.
"""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "ExportError",
    "FlockletError",
    "IdentityError",
    "LinkError",
    "MissingExtra",
    "PeerRefused",
    "SchemaMismatch",
    "StoreError",
    "UsageError",
    "VerificationError",
    "WireError",
]


class FlockletError(Exception):
    """Root of the tree: `str(error)` is one line, `remedy` says what to do, `exit_code` ends the command."""

    exit_code = 1
    remedy = ""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        if remedy:
            self.remedy = remedy


class UsageError(FlockletError):
    """Report a command line that does not make sense."""

    exit_code = 2
    remedy = "run 'flocklet VERB --help'"


class ConfigError(FlockletError):
    """Report a home directory, setting or environment that cannot be used."""

    exit_code = 3
    remedy = "check --home and FLOCKLET_HOME; 'flocklet doctor' explains what it finds"


class IdentityError(ConfigError):
    """Report a key, certificate or device id that is missing, damaged or not ours."""

    remedy = "run 'flocklet init' to make an identity, or pass --home to use another one"


class LinkError(FlockletError):
    """Report a network or a peer that failed us."""

    exit_code = 4
    remedy = "'flocklet doctor' checks the network"


class PeerRefused(LinkError):
    """Report a refusal, by a peer or of a peer; `reason` is the code from PROTOCOL.md."""

    exit_code = 5
    remedy = "both devices must be in the same flock: 'flocklet invite' there, 'flocklet join CODE' here"

    def __init__(self, message: str, *, reason: str = "refused", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason


class WireError(FlockletError, ValueError):
    """Report bytes that break the protocol; `reason` is a short code that is counted per peer."""

    exit_code = 5
    remedy = "the peer runs another version or is hostile; update both devices"

    def __init__(self, message: str, *, reason: str = "malformed", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.reason = reason


class SchemaMismatch(WireError):
    """Report parameters that belong to another model; they are never merged."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message, reason="schema", remedy=remedy)


class StoreError(FlockletError):
    """Report an embedded store that cannot be read or written; nothing acknowledged is lost."""

    exit_code = 6
    remedy = "check free space and permissions of the home directory"


class MissingExtra(FlockletError, ImportError):
    """Report an optional package that is not installed."""

    exit_code = 7

    def __init__(self, package: str, extra: str, what_for: str) -> None:
        super().__init__(
            f"{what_for} needs the package '{package}', which is not installed",
            remedy=f"pip install '.[{extra}]'",
        )
        self.package = package
        self.extra = extra


class ExportError(FlockletError):
    """Report a model that cannot become firmware; the message names the layer."""

    exit_code = 8
    remedy = "docs/microcontrollers.md lists what can be exported"


class VerificationError(FlockletError):
    """Report a proof that did not hold."""

    exit_code = 8
    remedy = "do not use this output; report it with the printed seed"
