"""What verbs may ask of a device, as plain maps: the same whether a peer runs or not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flocklet.device import Device, PastClick
from flocklet.documents import Skipped, read_paths
from flocklet.errors import UsageError
from flocklet.models.search.items import Document

__all__ = ["perform"]

_BATCH = 64


def perform(device: Device, verb: str, values: Mapping[str, Any]) -> Any:
    """Do one verb on `device` and return a plain answer for msgpack; raise UsageError for an unknown verb."""
    try:
        action = _ACTIONS[verb]
    except KeyError:
        raise UsageError(
            f"the peer does not know the verb {verb!r}", remedy="update it, then start it again"
        ) from None
    return action(device, values)


def _add(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    """Index `paths` (absolute); batches keep the store's transactions short and the progress honest."""
    added = seen = 0
    skipped: list[dict[str, str]] = []
    batch: list[tuple[Document, str | None]] = []
    for item in read_paths([Path(path) for path in values["paths"]]):
        if isinstance(item, Skipped):
            skipped.append({"path": str(item.path), "why": item.why})
            continue
        seen += 1
        batch.append((item.document, str(item.path)))
        if len(batch) == _BATCH:
            added += device.add_documents(batch)
            batch = []
    added += device.add_documents(batch)
    return {"added": added, "unchanged": seen - added, "skipped": skipped, "documents": len(device.index)}


def _add_documents(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    documents = [(Document.of(key, title, text), None) for key, title, text in values["documents"]]
    return {"added": device.add_documents(documents), "documents": len(device.index)}


def _remove(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "removed": sum(device.remove_path(path) for path in values["paths"]),
        "documents": len(device.index),
    }


def _search(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    return asdict(device.search(values["query"], person=values["person"], limit=values["limit"]))


def _click(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    entry = device.click(values["query_id"], values["rank"])
    return {"query": entry.query, "item_id": entry.item, "seq": entry.seq}


def _people(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    device.add_people(values["people"])
    return {"people": len(device.people)}


def _record(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    clicks = (
        PastClick(person, query, tuple(shown), clicked, at_s)
        for person, query, shown, clicked, at_s in values["clicks"]
    )
    return {"recorded": device.record(clicks)}


def _rank(device: Device, values: Mapping[str, Any]) -> list[bytes]:
    """Rank many queries at once; each answer is the item ids as big-endian u64."""
    queries = [(person, query) for person, query in values["queries"]]
    ranked = device.rank(queries, limit=values["limit"], own_only=values["own_only"])
    return [ids.astype(">u8").tobytes() for ids in ranked]


def _status(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    return device.facts()


_ACTIONS: dict[str, Callable[[Device, Mapping[str, Any]], Any]] = {
    "add": _add,
    "add_documents": _add_documents,
    "remove": _remove,
    "search": _search,
    "click": _click,
    "people": _people,
    "record": _record,
    "rank": _rank,
    "status": _status,
}
