"""The verbs `devices`, `invite` and `leave` on the devices of the flock, as plain maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from flocklet.device.devices import Devices
from flocklet.errors import UsageError
from flocklet.identity.key import format_id, short_id

__all__ = ["act_on_devices"]


def act_on_devices(
    devices: Devices,
    values: Mapping[str, Any],
    links: Mapping[bytes, bytes],
    seen: Mapping[bytes, tuple[str, float]],
) -> dict[str, Any]:
    """Do what `values["act"]` says and return the devices as they are then.

    `links` are the linked devices (id -> raw public key), `seen` the remembered ones (id -> name, when last seen).
    """
    known = {**{id: name for id, (name, _) in seen.items()}, **{id: short_id(id) for id in links}}
    act = values.get("act", "list")
    answer: dict[str, Any] = {"act": act}
    match act:
        case "list":
            pass
        case "name":
            target = devices.find(values["target"], known)
            answer["name"] = devices.name(target, values["name"], links)
        case "remove":
            target = devices.find(values["target"], known)
            if target == devices.roster.own_id:
                raise UsageError("that is this device", remedy="'flocklet leave' takes it out of the flock")
            orphans = devices.roster.orphans_of(target)
            keep = tuple(devices.find(text, known) for text in values.get("keep", ()))
            doubtful = [id for id in orphans if id not in (*keep, devices.roster.own_id)]
            lost = [devices.roster.name_of(id) or short_id(id) for id in doubtful]
            if lost and not values.get("unname", False):
                raise UsageError(
                    f"only that device has named {', '.join(lost)}, so it may have named them for a thief",
                    remedy=f"--keep {' --keep '.join(lost)} for those that are yours, --unname makes the others guests",
                )
            devices.put_out(target, keep=keep, is_drop=bool(values.get("drop", False)), keys=links)
            answer |= {"id": format_id(target), "is_open": devices.roster.is_open, "also_unnamed": lost}
        case "secret":
            devices.change_secret(links)
        case "back":
            devices.back(devices.find(values["target"], known), is_here_only=bool(values.get("here", False)))
        case "obey":
            answer["obeyed"] = len(devices.obey(values["target"]))
        case "invite":
            return {"code": devices.invite(), "is_token": devices.roster.token is not None}
        case "leave":
            devices.leave()
        case _:
            raise UsageError(f"devices cannot {act!r}")
    rows = []
    for row in devices.rows(known):
        linked = next((id for id in links if format_id(id) == row.id), None) is not None
        last = next((at_s for id, (_, at_s) in seen.items() if format_id(id) == row.id), None)
        rows.append(asdict(replace(row, is_linked=linked, last_seen_s=last)))
    return {**answer, "devices": rows, "held": [asdict(one) for one in devices.held()]}
