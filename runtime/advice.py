"""What the verbs trust, rate, recommend and import ask of a device, as plain maps."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flocklet.device import OWNER, Device
from flocklet.errors import UsageError
from flocklet.identity import Identity
from flocklet.models.search.clickentry import NO_CLICK
from flocklet.models.search.items import item_id_of
from flocklet.models.search.text import tokenize
from flocklet.taste import LIKED_STARS, TOP_STARS

__all__ = ["ADVICE"]

_MAX_CSV_BYTES = 256 << 20
_MAX_STARS_SCALE = 1_000.0


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
    person = device.identity_of(values.get("person", OWNER))
    item_id, name = _item(device, values["item"])
    device.taste.rate(person, item_id, float(values["stars"]), None if _is_held(device, item_id) else name)
    return {"item_id": item_id, "name": device.store.item_name(item_id) or name, "stars": values["stars"]}


def _recommend(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    taste = device.taste
    person = device.identity_of(values.get("person", OWNER))
    view = taste.fitted(person, lambda item: _words(device, item))
    names = taste.names()
    found = []
    for rank, row in enumerate(view.recommend(int(values["limit"]), explain=bool(values["explain"])), 1):
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
        "is_trust_used": view.is_trust_used,
        "people": len(taste.graph.people),
        "edges": len(taste.graph),
        "liked_from": LIKED_STARS,
    }


def _import(device: Device, values: Mapping[str, Any]) -> dict[str, Any]:
    if values.get("clicks"):
        return _import_clicks(device)
    path = Path(values["path"])
    try:
        if path.stat().st_size > _MAX_CSV_BYTES:
            raise UsageError(f"{path} is larger than 256 MiB", remedy="cut it into parts")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 (byte {error.start})", remedy="convert it to UTF-8") from error
    scale = float(values.get("scale", TOP_STARS))
    if not 0 < scale <= _MAX_STARS_SCALE:
        raise UsageError(f"--scale is {scale:g}", remedy="give the best rating that the file uses, such as 5")
    rows = list(_read_ratings(path, text, scale))
    only = values.get("user")
    if only is not None:
        rows = [(OWNER, item, stars, at_s) for user, item, stars, at_s in rows if user == only]
        if not rows:
            raise UsageError(
                f"{path} has no rating of {only!r}", remedy="--user takes a name of the first column"
            )
    people = set(device.people)
    new = {user for user, *_ in rows} - people
    device.add_people({user: Identity.generate().seed for user in sorted(new)})
    device.store.name_items({item_id_of(item): item for _, item, _, _ in rows}.items())
    ratings = [(device.identity_of(user), item_id_of(item), stars, at_s) for user, item, stars, at_s in rows]
    return {"ratings": len(rows), "new": device.taste.record(ratings), "people": len({r[0] for r in rows})}


def _import_clicks(device: Device) -> dict[str, Any]:
    """Take every click of the people here for a rating of 4 stars; a later rating of one's own holds over it."""
    ratings = []
    for name in device.people:
        person = device.identity_of(name)
        for entry in device.log.entries(person.origin):
            if entry.clicked != NO_CLICK:
                ratings.append((person, entry.shown[entry.clicked], LIKED_STARS, entry.ts))
    people = len({person.origin for person, *_ in ratings})
    return {"ratings": len(ratings), "new": device.taste.record(ratings), "people": people}


def _read_ratings(path: Path, text: str, scale: float) -> list[tuple[str, str, float, int]]:
    """Parse `user,item,rating,timestamp` lines, with or without a header; raise UsageError naming a wrong line."""
    rows = []
    for number, row in enumerate(csv.reader(io.StringIO(text)), 1):
        if not row or (number == 1 and len(row) >= 3 and not _is_number(row[2])):
            continue
        where = f"line {number} of {path}"
        if len(row) not in (3, 4):
            raise UsageError(
                f"{where} has {len(row)} fields", remedy="give user,item,rating,timestamp (UTF-8)"
            )
        user, item, rating = (cell.strip() for cell in row[:3])
        stamp = row[3].strip() if len(row) == 4 else "0"
        if not user or not item or len(user) > 64 or len(item) > 512:
            raise UsageError(f"{where} has an empty or too long name")
        if not _is_number(rating) or not _is_number(stamp):
            raise UsageError(f"{where} has a rating or time that is not a number")
        if not 0 <= float(rating) <= scale:
            raise UsageError(
                f"{where} has the rating {rating}", remedy=f"0 to {scale:g}; --scale sets the best"
            )
        if not 0 <= float(stamp) < 2**32:
            raise UsageError(f"{where} has the time {stamp}", remedy="seconds since 1970")
        rows.append((user, item, float(rating) / scale * TOP_STARS, int(float(stamp))))
    return rows


def _is_number(text: str) -> bool:
    try:
        value = float(text)
    except ValueError:
        return False
    return value == value and abs(value) != float("inf")


def _item(device: Device, text: str) -> tuple[int, str]:
    """Return the item that a path, a title that finds one document, 16 hex digits or any other name means."""
    path = str(Path(text).absolute())
    if held := device.store.item_ids_at(path):
        return held[0], text
    if len(text) == 16 and all(c in "0123456789abcdef" for c in text):
        return int(text, 16), text
    if not text.strip() or len(text) > 512:
        raise UsageError("an item has a name of 1 to 512 characters")
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
