"""What the verbs trust, rate, recommend and import ask of a device, as plain maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flocklet.device.device import OWNER, Device
from flocklet.device.ratings_file import is_name, read_ratings
from flocklet.device.recommender import LIKED_STARS, TOP_STARS
from flocklet.errors import UsageError
from flocklet.events.click import NO_CLICK
from flocklet.events.item import item_id_of
from flocklet.identity.key import Identity
from flocklet.models.recommend.feedback import Played
from flocklet.models.search.index.text import tokenize

__all__ = ["ADVICE"]

_MAX_DWELL_S = 366 * 86_400.0


def _trust(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    """Record an opinion when there is a `peer`, else return whom the person trusts and through whom."""
    taste = device.taste
    person = device.identity_of(values.get("person", OWNER))
    if values.get("peer") is not None:
        target = taste.origin_called(values["peer"])
        taste.trust(person, target, float(values["weight"]))
        return {"peer": target.hex(), "weight": float(values["weight"])}
    names = taste.names()
    rows = taste.view(person).trusted()
    return {
        "trusted": [
            {
                "peer": row.origin.hex(),
                "name": names.get(row.origin, ""),
                "score": row.score,
                "influence": row.influence,
                "path": [names.get(step) or step.hex()[:12] for step in row.path],
            }
            for row in rows[: int(values.get("limit", 20))]
        ],
        "known": len(taste.graph.people),
    }


def _rate(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    """Sign and keep stars; keep what was done with the item here only: it is nobody else's business."""
    person = device.identity_of(values.get("person", OWNER))
    item_id, name = _item(device, values["item"])
    stars, is_finished, dwell_s = values.get("stars"), values.get("is_finished"), values.get("dwell_s")
    if dwell_s is not None and not 0 <= float(dwell_s) <= _MAX_DWELL_S:
        raise UsageError(f"{dwell_s:g} seconds", remedy="0 to 31,536,000 (a year)")
    new_name = None if _is_held(device, item_id) else name
    if stars is not None:
        device.taste.rate(person, item_id, float(stars), new_name)
    elif new_name is not None:
        device.store.name_items([(item_id, new_name)])
    if is_finished is not None or dwell_s is not None:
        device.store.add_played(
            person.origin,
            item_id,
            None if is_finished is None else bool(is_finished),
            None if dwell_s is None else float(dwell_s),
            device.clock.time(),
        )
    elif stars == 0:
        device.store.remove_played(person.origin, item_id)
    return {
        "item_id": item_id,
        "name": device.store.item_name(item_id) or name,
        "stars": stars,
        "is_finished": is_finished,
        "dwell_s": dwell_s,
    }


def _recommend(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    taste = device.taste
    person = device.identity_of(values.get("person", OWNER))
    view = taste.fitted(person, lambda item: _words(device, item))
    names = taste.names()
    played = [Played(*row) for row in device.store.played(person.origin)]
    found = []
    rows = view.recommend(int(values["limit"]), explain=bool(values["explain"]), played=played)
    for rank, row in enumerate(rows, 1):
        because = [device.store.item_name(item) or f"{item:016x}" for item in row.because]
        through = [names.get(origin) or origin.hex()[:12] for origin in row.through]
        name = device.store.item_name(row.item_id)
        found.append(
            {
                "rank": rank,
                "item_id": row.item_id,
                "name": name or f"{row.item_id:016x}",
                "score": row.score,
                "because": because,
                "through": through,
            }
        )
    return {
        "found": found,
        "played": len(played),
        "is_trust_used": view.is_trust_used,
        "people": len(taste.graph.people),
        "edges": len(taste.graph),
        "liked_from": LIKED_STARS,
    }


def _import(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    if values.get("clicks"):
        return _import_clicks(device)
    path = Path(values["path"])
    rows = read_ratings(path, float(values.get("scale", TOP_STARS)), now_s=device.clock.time())
    only = values.get("user")
    if only is not None:
        rows = [row._replace(user=OWNER) for row in rows if row.user == only]
        if not rows:
            raise UsageError(
                f"{path} has no rating of {only!r}", remedy="--user takes a name of the first column"
            )
    new = {row.user for row in rows} - set(device.people)
    device.add_people({user: Identity.generate().seed for user in sorted(new)})
    device.store.name_items({item_id_of(row.item): row.item for row in rows}.items())
    ratings = [(device.identity_of(user), item_id_of(item), stars, at_s) for user, item, stars, at_s in rows]
    return {
        "ratings": len(rows),
        "new": device.taste.record(ratings),
        "people": len({row.user for row in rows}),
        "liked": sum(row.stars >= LIKED_STARS for row in rows),
    }


def _import_clicks(device: Device) -> dict[str, Any]:
    """Take every click of the people here for a rating of 4 stars; a later rating of one's own holds over it."""
    ratings = []
    for name in device.people:
        person = device.identity_of(name)
        for entry in device.log.entries(person.origin):
            if entry.clicked != NO_CLICK:
                ratings.append((person, entry.shown[entry.clicked], LIKED_STARS, entry.ts))
    people = len({person.origin for person, *_ in ratings})
    return {
        "ratings": len(ratings),
        "new": device.taste.record(ratings),
        "people": people,
        "liked": len(ratings),
    }


def _item(device: Device, text: str) -> tuple[int, str]:
    """Return the item that a path, a title that finds one document, 16 hex digits or any other name means."""
    path = str(Path(text).absolute())
    if held := device.store.item_ids_at(path):
        return held[0], text
    if len(text) == 16 and all(c in "0123456789abcdef" for c in text):
        return int(text, 16), text
    if not is_name(text, 512):
        raise UsageError("an item has a name of 1 to 512 characters, none of them a control character")
    item_id = item_id_of(text)
    if _is_held(device, item_id) or device.store.item_name(item_id) is not None:
        return item_id, text
    with_title = [
        int(item)
        for item in device.index.candidates(text, 20)[0].tolist()
        if (device.store.item_name(int(item)) or "").casefold() == text.casefold()
    ]
    return (with_title[0], text) if len(with_title) == 1 else (item_id, text)


def _is_held(device: Device, item_id: int) -> bool:
    return device.store.document(item_id) is not None


def _words(device: Device, item_id: int) -> list[str]:
    document = device.store.document(item_id)
    return tokenize(f"{document.title} {document.text[:2000]}") if document is not None else []


ADVICE: dict[str, Callable[[Device, Mapping[str, Any]], Any]] = {
    "trust": _trust,
    "rate": _rate,
    "recommend": _recommend,
    "import": _import,
}
