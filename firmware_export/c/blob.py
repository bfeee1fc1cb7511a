"""Write and check a weights blob: `NAME.bin` lets a flying controller take new weights without new firmware.

Layout, little-endian: magic "FLW1", layout id (network shape, data type, activations, semantics), payload
bytes, zero; then the bytes of the weights struct; then the CRC-32 (zlib) of everything before it.
`NAME_load()` checks all of it and keeps the old weights where anything differs. Integer exports are proved
against overflow before a blob is written.
"""

from __future__ import annotations

import struct
import zlib

from flocklet.errors import ExportError
from flocklet.firmware_export.c.emit import BLOB_HEADER_BYTES, BLOB_MAGIC
from flocklet.firmware_export.plan.plan import Plan, make_plan
from flocklet.firmware_export.read.network import Network

__all__ = ["blob_bytes", "check_blob", "reweighted"]


def blob_bytes(plan: Plan) -> bytes:
    """Return the blob of the weights of a plan."""
    payload = plan.payload
    body = struct.pack("<IIII", BLOB_MAGIC, plan.layout_id, len(payload), 0) + payload
    return body + struct.pack("<I", zlib.crc32(body))


def check_blob(plan: Plan, blob: bytes) -> None:
    """Raise `ExportError` where NAME_load() of this plan would refuse the blob."""
    if len(blob) != BLOB_HEADER_BYTES + len(plan.payload) + 4:
        raise ExportError(f"the blob has {len(blob)} bytes, not {BLOB_HEADER_BYTES + len(plan.payload) + 4}")
    magic, layout, size, _ = struct.unpack_from("<IIII", blob)
    if magic != BLOB_MAGIC or layout != plan.layout_id or size != len(plan.payload):
        raise ExportError("the blob belongs to another network, data type or set of rules")
    if zlib.crc32(blob[:-4]) != struct.unpack("<I", blob[-4:])[0]:
        raise ExportError("the blob is damaged: its checksum does not fit")


def reweighted(plan: Plan, network: Network) -> Plan:
    """Return the plan of the same export with other weights (after a model delta); shapes must not change."""
    fresh = make_plan(
        plan.name, network, dtype=plan.dtype, obs=plan.obs, action=plan.action, cached=plan.cached or None
    )
    if fresh.layout_id != plan.layout_id:
        raise ExportError(
            "the new weights are of another network", remedy="export again and flash the firmware"
        )
    return fresh
