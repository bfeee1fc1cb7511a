"""What verbs may ask of a device, as plain maps: the same whether a peer runs or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from flocklet.device.commands_devices import act_on_devices
from flocklet.device.commands_recommend import ADVICE
from flocklet.device.device import Device
from flocklet.device.document_reader import Skipped, read_documents
from flocklet.device.results import PastClick
from flocklet.errors import UsageError
from flocklet.events.item import Document, item_id_of

__all__ = ["Added", "Batch", "perform", "read_batches"]

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
    """Yield the documents of files and directories, so many at a time that memory and transactions stay small.

    The item id of a file is made from its title and text, not from its path: the same file is the same item on every
    peer, wherever it lies, so that clicks on it add up. An edited file is a new item.
    """
    batch, size = Batch(), 0
    for found in read_documents(paths):
        if isinstance(found, Skipped):
            batch.skipped.append({"path": str(found.path), "why": found.why, "remedy": found.remedy})
        else:
            item_id = item_id_of(f"{found.title}\0{found.text}")
            batch.documents.append((replace(found, item_id=item_id), found.key))
            size += len(found.text)
        if len(batch.documents) >= _BATCH or size >= _BATCH_CHARS:
            yield batch
            batch, size = Batch(), 0
    yield batch


@dataclass(slots=True)
class Added:
    """The sum over the batches of one `add`."""

    added: int = 0
    read: int = 0
    gone: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)

    def take(self, device: Device, batch: Batch) -> None:
        """Index one batch."""
        self.added += device.add_documents(batch.documents)
        self.read += len(batch.documents)
        self.skipped += batch.skipped

    def finish(self, device: Device, paths: Sequence[Path]) -> dict[str, Any]:
        """Forget the files that are no longer there and return the answer of the verb."""
        for path in paths:
            self.gone += device.library.forget_missing(str(path))
        return {
            "added": self.added,
            "unchanged": self.read - self.added,
            "gone": self.gone,
            "skipped": self.skipped,
            "documents": len(device.index),
        }


def _add(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    paths = [Path(path) for path in values["paths"]]
    total = Added()
    for batch in read_batches(paths):
        total.take(device, batch)
    return total.finish(device, paths)


def _add_documents(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    documents = [(Document.of(key, title, text), None) for key, title, text in values["documents"]]
    return {"added": device.add_documents(documents), "documents": len(device.index)}


def _remove(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "removed": sum(device.library.remove_path(path) for path in values["paths"]),
        "documents": len(device.index),
    }


def _search(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    results = device.search(
        values["query"],
        person=values["person"],
        limit=values["limit"],
        model=values.get("model", "posterior"),
        is_explained=bool(values.get("explain", False)),
    )
    return asdict(results)


def _click(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    entry = device.click(values["query_id"], values["rank"])
    return {"query": entry.query, "item_id": entry.item, "seq": entry.seq}


def _devices(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    """Act on the flock's devices; `links` (id -> public key) are those that a running peer is linked with."""
    seen = {peer.device_id: (peer.name, peer.last_seen_s) for peer in device.store.peers()}
    return act_on_devices(device.devices, values, values.get("links", {}), seen)


def _people(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    device.add_people(values["people"])
    return {"names": device.people}


def _record(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    clicks = (
        PastClick(person, query, tuple(shown), clicked, at_s)
        for person, query, shown, clicked, at_s in values["clicks"]
    )
    return {"recorded": device.record(clicks)}


def _rank(device: Device, values: Mapping[str, Any]) -> list[bytes]:
    """Rank many queries at once; each answer is the item ids as big-endian u64."""
    queries = [(person, query) for person, query in values["queries"]]
    ranked = device.rank(
        queries,
        limit=values["limit"],
        own_only=values["own_only"],
        model=values.get("model", "posterior"),
    )
    return [ids.astype(">u8").tobytes() for ids in ranked]


def _status(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    return device.facts()


_ACTIONS: dict[str, Callable[[Device, Mapping[str, Any]], Any]] = {
    "add": _add,
    "add_documents": _add_documents,
    "remove": _remove,
    "search": _search,
    "click": _click,
    "devices": _devices,
    "people": _people,
    "record": _record,
    "rank": _rank,
    "status": _status,
    **ADVICE,
}
