"""Who is there: mDNS, remembered and configured addresses, peers told by peers; one table of them.

`flocklet.discovery.mdns` is not imported here: it loads zeroconf, so import it only where mDNS is on.
"""

from __future__ import annotations

from flocklet.discovery.address import Address, is_dialable, parse_address, race_order
from flocklet.discovery.announcement import PROTOCOL_VERSION, SERVICE_TYPE, Announcement
from flocklet.discovery.bounds import Outcome, TableSettings
from flocklet.discovery.dialling import DialCandidate
from flocklet.discovery.record import AddressState, Liveness, PeerRecord
from flocklet.discovery.remembered import AddressBook, RememberedPeer, RememberedSource
from flocklet.discovery.source import Sighting, Sink, Source, SourceKind
from flocklet.discovery.static import StaticSource
from flocklet.discovery.table import PeerTable
from flocklet.discovery.told import MAX_TOLD, ToldSource, decode_told, encode_told

__all__ = [
    "MAX_TOLD",
    "PROTOCOL_VERSION",
    "SERVICE_TYPE",
    "Address",
    "AddressBook",
    "AddressState",
    "Announcement",
    "DialCandidate",
    "Liveness",
    "Outcome",
    "PeerRecord",
    "PeerTable",
    "RememberedPeer",
    "RememberedSource",
    "Sighting",
    "Sink",
    "Source",
    "SourceKind",
    "StaticSource",
    "TableSettings",
    "ToldSource",
    "decode_told",
    "encode_told",
    "is_dialable",
    "parse_address",
    "race_order",
]
