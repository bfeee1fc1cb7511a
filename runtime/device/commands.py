"""What verbs may ask of a device, as plain maps: the same whether a peer runs or not."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from flocklet.device.commands_devices import act_on_devices
from flocklet.device.commands_recommend import ADVICE
from flocklet.device.device import Device
from flocklet.device.folders import Added, Plan, plan_of, read_batches
from flocklet.device.quotas import QUOTAS, change_quota, quotas_of
from flocklet.device.ratings_file import is_name
from flocklet.device.results import PastClick
from flocklet.errors import UsageError
from flocklet.events.item import Document
from flocklet.wire.visible import visible

__all__ = ["paths_of", "perform", "plan_for"]

_BATCH = 512
_PERSON_MAX = 64
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


def paths_of(names: Sequence[bytes | str]) -> list[Path]:
    """Return the paths of a request; names that are no text come as bytes."""
    return [Path(os.fsdecode(name)) for name in names]


def plan_for(device: Device, verb: str, values: Mapping[str, Any]) -> Plan:
    """Return what `add` looks at, or `folders` with the action "refresh": all that is followed, or the given ones."""
    paths = paths_of(values.get("paths", ()))
    if verb == "folders" and not paths:
        paths = [Path(folder.path) for folder in device.store.folders()]
    return plan_of(
        device,
        paths,
        exclude=values.get("exclude", ()) if verb == "add" else (),
        is_hidden=bool(values.get("hidden", False)),
        is_again=bool(values.get("again", False)),
    )


def _look(device: Device, verb: str, values: Mapping[str, Any]) -> dict[str, Any]:
    plan = plan_for(device, verb, values)
    total = Added()
    for batch in read_batches(plan):
        total.take(device, batch)
    return total.finish(device, plan)


def _add(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    return _look(device, "add", values)


def _folders(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    """List the folders that are followed, look at them again, or leave out what fits a pattern."""
    if values["action"] == "refresh":
        return _look(device, "folders", values)
    if values["action"] == "exclude":
        (path,) = map(str, paths_of(values["paths"]))
        held = {folder.path: folder for folder in device.store.folders()}.get(device.library.find_path(path))
        if held is None:
            raise UsageError(
                f"{visible(path)} is not followed", remedy="'flocklet folders list' shows which are"
            )
        device.store.keep_folder(replace(held, exclude=tuple(values["exclude"])))
        return _look(device, "folders", values)
    rows = [
        {
            "path": visible(folder.path),
            "documents": len(device.store.paths_below(folder.path)),
            "exclude": list(folder.exclude),
            "hidden": folder.is_hidden,
        }
        for folder in device.store.folders()
    ]
    return {"folders": rows}


def _add_documents(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    documents = [(Document.of(key, title, text), None) for key, title, text in values["documents"]]
    return {"added": device.add_documents(documents), "documents": len(device.index)}


def _remove(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "removed": sum(device.library.remove_path(str(path)) for path in paths_of(values["paths"])),
        "documents": len(device.index),
    }


def _search(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    results = device.search(
        values["query"],
        person=values["person"],
        limit=values["limit"],
        model=values.get("model", "posterior"),
        is_explained=bool(values.get("explain", False)),
        page=int(values.get("page", 1)),
        is_folded=bool(values.get("fold", True)),
        is_private=bool(values.get("private", False)),
    )
    answer = asdict(results)
    for found in answer["found"]:
        for place in (found, *found["twins"]):
            place["path"] = None if place["path"] is None else visible(place["path"])
    return answer


def _open(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    """Say where result `rank` of the last query lies, and note that it was chosen."""
    event = device.store.last_event(device.identity_of(values["person"]).origin)
    entry = device.click(event.query_id, values["rank"])
    document = None if entry.item is None else device.store.document(entry.item)
    if document is None or document.path is None:
        raise UsageError(
            f"result {values['rank']} of {event.query!r} is no file", remedy="flocklet search shows it"
        )
    return {"path": os.fsencode(document.path), "title": document.title, "query": event.query}


def _click(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    entry = device.click(values["query_id"], values["rank"])
    return {"query": entry.query, "item_id": entry.item, "seq": entry.seq}


def _devices(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    """Act on the flock's devices; `links` (id -> public key) are those that a running peer is linked with."""
    seen = {peer.device_id: (peer.name, peer.last_seen_s) for peer in device.store.peers()}
    return act_on_devices(device.devices, values, values.get("links", {}), seen)


def _people(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    for name in values["people"]:
        if not is_name(name, _PERSON_MAX):
            raise UsageError(
                f"{name!r} is no name",
                remedy=f"1 to {_PERSON_MAX} characters, none of them a control character",
            )
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


def _quota(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    """Change a quota (a `value` of None: the default), or none without a `name`; return all of them."""
    if (name := values.get("name")) is not None:
        change_quota(device.store, name, values.get("value"))
    held = quotas_of(device.store)
    return {name: {"value": getattr(held, name), "what": what} for name, what in QUOTAS.items()}


_ACTIONS: dict[str, Callable[[Device, Mapping[str, Any]], Any]] = {
    "add": _add,
    "add_documents": _add_documents,
    "folders": _folders,
    "remove": _remove,
    "search": _search,
    "click": _click,
    "open": _open,
    "devices": _devices,
    "people": _people,
    "quota": _quota,
    "record": _record,
    "rank": _rank,
    "status": _status,
    **ADVICE,
}
