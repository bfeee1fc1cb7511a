"""Read files beside the device's thread, so that gossip and search go on, and look again when a folder changes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from flocklet.device.commands import plan_for
from flocklet.device.device import Device
from flocklet.device.folders import Added, read_batches
from flocklet.node.owner import Owner
from flocklet.node.watcher import Watcher

__all__ = ["Indexing"]


class Indexing:
    """Index what a running peer is told to, and the folders that it follows."""

    def __init__(self, device: Device, owner: Owner, watcher: Watcher) -> None:
        self._device = device
        self._owner = owner
        self._watcher = watcher

    async def follow(self) -> None:
        """Look at the followed folders when something in them changed, and now and then, until cancelled."""
        try:
            while True:
                folders = await self._owner.run(self._device.store.folders)
                await self._watcher.follow(folder.path for folder in folders)
                changed = await self._watcher.changed()
                if folders:
                    await self.look("folders", {"paths": sorted(changed)})
        finally:
            await self._watcher.stop()

    async def look(self, verb: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Read files and hand them over batch by batch; return the answer of the verb."""
        plan = await self._owner.run(plan_for, self._device, verb, values)
        batches = read_batches(plan)
        total = Added()
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            await self._owner.run(total.take, self._device, batch)
        answer: dict[str, Any] = await self._owner.run(total.finish, self._device, plan)
        await self._owner.run(self._device.save_index)
        if verb == "add":
            self._watcher.wake()
        return answer
