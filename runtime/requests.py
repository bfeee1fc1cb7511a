"""What verbs may ask of a device, as plain maps: the same whether a peer runs or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flocklet.device import Device, PastClick
from flocklet.documents import Skipped, read_paths
from flocklet.errors import UsageError
from flocklet.models.search.items import Document

__all__ = ["Batch", "perform", "read_batches"]

_BATCH = 512
_BATCH_CHARS = 8 << 20


def perform(device: Device, verb: str, values: Mapping[str, Any]) -> Any:
    """Do one verb on `device` and return a plain answer for msgpack; raise UsageError for an unknown verb."""
    try:
        action = _ACTIONS[verb]
    except KeyError:
        raise UsageError(
            f"the peer does not know the verb {verb!r}", remedy="update it, then start it again"
        ) from None
    return action(device, values)


@dataclass(slots=True)
class Batch:
    """Documents with the paths of their files, and what was left out on the way, each with its reason."""

    documents: list[tuple[Document, str | None]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)


def read_batches(paths: Sequence[Path]) -> Iterator[Batch]:
    """Yield the documents of files and directories, so many at a time that memory and transactions stay small."""
    batch, size = Batch(), 0
    for item in read_paths(paths):
        if isinstance(item, Skipped):
            batch.skipped.append({"path": str(item.path), "why": item.why})
        else:
            batch.documents.append((item.document, str(item.path)))
            size += len(item.document.text)
        if len(batch.documents) >= _BATCH or size >= _BATCH_CHARS:
            yield batch
            batch, size = Batch(), 0
    yield batch


def _add(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    added = seen = 0
    skipped: list[dict[str, str]] = []
    for batch in read_batches([Path(path) for path in values["paths"]]):
        seen += len(batch.documents)
        skipped += batch.skipped
        added += device.add_documents(batch.documents)
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
