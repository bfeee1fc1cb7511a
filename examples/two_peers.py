"""Two peers on this machine: one finds the answer, and the other one ranks it higher from then on.

Run it: python examples/two_peers.py
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from flocklet import Node, NodeSettings, SearchResults
from flocklet.device.membership import create_membership
from flocklet.identity.flock import Flock
from flocklet.store.home import Home

NOTES = {
    "fuse.txt": "The fuse box of the camper is behind the driver's seat. A blown fuse is black inside.",
    "pump.txt": "The water pump runs but no water comes: check the fuse of the pump, then the hose.",
    "list.txt": "Packing list: spare fuse, tape, rope, a torch.",
}


async def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "notes").mkdir()
        for title, text in NOTES.items():
            (folder / "notes" / title).write_text(text)

        # One flock: the devices share a secret ('flocklet invite' and 'flocklet join' do this between two machines).
        flock = Flock.generate()
        for home in ("laptop", "pi"):
            create_membership(Home(folder / home), flock=flock)

        settings = NodeSettings(interfaces=("127.0.0.1",), gossip_s=0.2)  # this machine only, a quick pace
        async with Node(folder / "laptop", settings) as laptop, Node(folder / "pi", settings) as pi:
            begun_s = time.monotonic()
            while not (laptop.endpoint.links and pi.endpoint.links):  # they meet by mDNS
                await asyncio.sleep(0.01)
            print(f"linked after {time.monotonic() - begun_s:.2f} s")

            for node in (laptop, pi):
                await node.add([folder / "notes"])
            before = await pi.search("fuse")
            print(f"the pi shows {order(before)}")

            # The laptop's owner looks for the same thing and clicks the note about the pump.
            results = await laptop.search("fuse")
            right = next(hit for hit in results.found if hit.title == "pump.txt")
            await laptop.click(results.query_id, right.rank)

            begun_s = time.monotonic()
            while (await pi.status()).clicks == 0:  # gossip brings the signed click over
                await asyncio.sleep(0.01)
            after = await pi.search("fuse")
            print(f"{time.monotonic() - begun_s:.2f} s after the click the pi shows {order(after)}")
            print(f"rank of the right note on the pi: {rank(before)} before, {rank(after)} after")
            sent = (await laptop.status()).bytes_out
            print(f"the laptop sent {sent} bytes in all")


def order(results: SearchResults) -> str:
    return ", ".join(hit.title for hit in results.found)


def rank(results: SearchResults) -> int:
    return next(hit.rank for hit in results.found if hit.title == "pump.txt")


if __name__ == "__main__":
    asyncio.run(main())
