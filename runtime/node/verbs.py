"""Every verb as a typed method: arguments in, dataclasses out. The plain maps stay on the socket."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flocklet.device.devices import DeviceRow
from flocklet.device.results import (
    AddResult,
    ClickResult,
    ImportResult,
    RateResult,
    Recommendations,
    RemoveResult,
    SearchResults,
    Status,
    TrustedPerson,
    TrustResult,
    build,
)
from flocklet.identity.key import Identity

__all__ = ["Verbs"]

OWNER = "me"


class Verbs(abc.ABC):
    """What can be asked of a device, over one method that carries plain maps."""

    @abc.abstractmethod
    async def perform(self, verb: str, values: Mapping[str, Any]) -> Any:
        """Do a verb as the socket asks for it; return the plain answer."""

    # -- documents --

    async def add(self, paths: Sequence[Path | str]) -> AddResult:
        """Index files and directories; a file that is there already is renewed if it changed.

        Args:
            paths: Files and directories; a relative path starts from the current directory.

        Returns:
            What was added, and what was left out and why.

        Raises:
            StoreError: The store cannot be written.
        """
        return build(AddResult, await self.perform("add", {"paths": _absolute(paths)}))

    async def remove(self, paths: Sequence[Path | str]) -> RemoveResult:
        """Take files and directories out of the index; the files stay where they are.

        Args:
            paths: What to take out.

        Returns:
            How many documents went.
        """
        return build(RemoveResult, await self.perform("remove", {"paths": _absolute(paths)}))

    async def search(
        self,
        query: str,
        *,
        person: str = OWNER,
        limit: int = 10,
        model: str = "posterior",
        is_explained: bool = False,
        page: int = 1,
        is_folded: bool = True,
        is_private: bool = False,
    ) -> SearchResults:
        """Answer a query and keep what was shown, so that a click can refer to it.

        Args:
            query: Words, "phrases", prefix*, -not, and title: path: type: lang: before: after: in:.
            person: Who asks; `people` lists who may.
            limit: The most results of a page, up to 100.
            model: What decides the order: "posterior", "grank" or "bm25".
            is_explained: Fill `Hit.why`.
            page: Which page, from 1.
            is_folded: Show documents that say the same as one result.
            is_private: Keep nothing of this search; no click can refer to it.

        Returns:
            The results, best first.

        Raises:
            UsageError: The query is empty, or there is no such person or model.
        """
        values = {"query": query, "person": person, "limit": limit, "model": model, "explain": is_explained}
        values |= {"page": page, "fold": is_folded, "private": is_private}
        return build(SearchResults, await self.perform("search", values))

    async def click(self, query_id: int, rank: int) -> ClickResult:
        """Tell which result was right; the click is signed, learnt from and told to the flock.

        Args:
            query_id: The query, of `SearchResults.query_id`.
            rank: The place of the result, from 1.

        Returns:
            What was kept.

        Raises:
            UsageError: There is no such query, or it showed fewer results.
        """
        return build(ClickResult, await self.perform("click", {"query_id": query_id, "rank": rank}))

    # -- taste --

    async def people(self) -> tuple[str, ...]:
        """Return the names of everybody who shares this device, the owner (`me`) first."""
        return tuple((await self.perform("people", {"people": {}}))["names"])

    async def add_people(self, names: Sequence[str]) -> tuple[str, ...]:
        """Let more people share this device, each with a key of their own.

        Args:
            names: New names; who is here already keeps their key.

        Returns:
            Everybody who is here now.
        """
        made = {name: Identity.generate().seed for name in names}
        return tuple((await self.perform("people", {"people": made}))["names"])

    async def rate(
        self,
        item: str,
        stars: float | None = None,
        *,
        is_finished: bool | None = None,
        dwell_s: float | None = None,
        person: str = OWNER,
    ) -> RateResult:
        """Say how good an item is (signed, told to peers) or what became of it (stays on this device).

        Args:
            item: A file, the title of a document, or any name.
            stars: 0.5 to 5; 0 takes everything back.
            is_finished: Whether the person had it to the end.
            dwell_s: How many seconds the person stayed.
            person: Who says so.

        Returns:
            What was noted.

        Raises:
            UsageError: The stars or seconds are out of range.
        """
        values = {
            "item": item,
            "stars": stars,
            "is_finished": is_finished,
            "dwell_s": dwell_s,
            "person": person,
        }
        return build(RateResult, await self.perform("rate", values))

    async def trust(self, peer: str, weight: float = 1.0, *, person: str = OWNER) -> TrustResult:
        """Sign an opinion about somebody.

        Args:
            peer: A name, a device id, or the short id that `peers` shows.
            weight: 1 trusts, -1 distrusts, 0 takes the opinion back.
            person: Whose opinion it is.

        Returns:
            What was signed.

        Raises:
            UsageError: Nobody is called so, or several are.
        """
        return build(
            TrustResult, await self.perform("trust", {"peer": peer, "weight": weight, "person": person})
        )

    async def trusted(self, *, limit: int = 20, person: str = OWNER) -> tuple[TrustedPerson, ...]:
        """Return whom a person trusts, directly or through others.

        Args:
            limit: The most rows.
            person: Who trusts.

        Returns:
            The trusted, highest score first.
        """
        answer = await self.perform("trust", {"limit": limit, "person": person})
        return tuple(build(TrustedPerson, row) for row in answer["trusted"])

    async def recommend(
        self, *, limit: int = 10, is_explained: bool = False, person: str = OWNER
    ) -> Recommendations:
        """Say what else somebody may like.

        Args:
            limit: The most items.
            is_explained: Say from which items and through whom.
            person: Who asks.

        Returns:
            The items, best first.
        """
        values = {"limit": limit, "explain": is_explained, "person": person}
        return build(Recommendations, await self.perform("recommend", values))

    async def import_ratings(
        self, path: Path | str, *, user: str | None = None, best: float = 5.0
    ) -> ImportResult:
        """Take in a CSV file of user,item,rating[,timestamp] lines.

        Args:
            path: The file.
            user: Take only this user, as the owner's own ratings; None makes every user a person of this device.
            best: The best rating of the file.

        Returns:
            How many ratings were read and are new.

        Raises:
            UsageError: A line is broken; the message names it and nothing was taken in.
        """
        values = {"path": _absolute([path])[0], "user": user, "scale": best, "clicks": False}
        return build(ImportResult, await self.perform("import", values))

    async def import_clicks(self) -> ImportResult:
        """Take every click of the people here for a rating of 4 stars; a later rating holds over it."""
        return build(ImportResult, await self.perform("import", {"clicks": True}))

    # -- flock --

    async def invite(self) -> str:
        """Return the code that lets another device join the flock."""
        return str((await self.perform("devices", {"act": "invite"}))["code"])

    async def devices(self) -> tuple[DeviceRow, ...]:
        """Return every device of the flock: named, guest or out."""
        return _rows(await self.perform("devices", {"act": "list"}))

    async def name_device(self, device: str, name: str) -> tuple[DeviceRow, ...]:
        """Name a device, so that it links by its key from now on.

        Args:
            device: What `peers` shows, or its name now.
            name: What to call it.

        Returns:
            The devices as they are then.
        """
        return _rows(await self.perform("devices", {"act": "name", "target": device, "name": name}))

    async def remove_device(self, device: str, *, is_dropped: bool = False) -> tuple[DeviceRow, ...]:
        """Put a device out of the flock; the others are given a new secret.

        Args:
            device: A name or id.
            is_dropped: Forget what it clicked, rated and trusted, too.

        Returns:
            The devices as they are then.
        """
        return _rows(await self.perform("devices", {"act": "remove", "target": device, "drop": is_dropped}))

    async def leave(self) -> None:
        """Leave the flock; everything else stays on this device."""
        await self.perform("devices", {"act": "leave"})

    # -- this peer --

    async def status(self) -> Status:
        """Return what this peer holds and does."""
        return build(Status, await self.perform("status", {}))


def _absolute(paths: Sequence[Path | str]) -> list[str]:
    return [str(Path(path).absolute()) for path in paths]


def _rows(answer: Mapping[str, Any]) -> tuple[DeviceRow, ...]:
    return tuple(build(DeviceRow, row) for row in answer["devices"])
