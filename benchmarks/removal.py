"""How long until a removed device is out, in a flock of five of which two are off: python benchmarks/removal.py

Five homes on loopback, all named. Three run, one of them is put out. Printed are seconds until no remaining device has a
link with it, until the others hold the new secret, and until a device that was off refuses it, from its first contact with a
remaining one; then what a walk of the simulated flock takes (tests/kit/removal_walk.py).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from flocklet import Node, NodeSettings
from flocklet.device.membership import create_membership
from flocklet.identity.invitation import Invitation
from flocklet.store.home import Home

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

LOOPBACK = "127.0.0.1"


@contextlib.asynccontextmanager
async def peer(home: Path, *to: Node) -> AsyncIterator[Node]:
    peers = tuple(f"{LOOPBACK}:{node.port}" for node in to)
    settings = NodeSettings(interfaces=(LOOPBACK,), is_mdns_on=False, gossip_s=5.0, peers=peers)
    async with Node(home, settings) as node:
        yield node


async def until(is_true: Callable[[], Any]) -> float:
    began_s = time.perf_counter()
    async with asyncio.timeout(60):
        while not is_true():
            await asyncio.sleep(0.005)
    return time.perf_counter() - began_s


def roster(node: Node) -> Any:
    return node.device.devices.roster


def id_of(node: Node) -> bytes:
    return node.membership.identity.device_id


async def once(folder: Path) -> dict[str, float]:
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.to_thread(create_membership, Home(folder / "0"))
        nodes = [await stack.enter_async_context(peer(folder / "0"))]
        for n in range(1, 5):
            code = (await nodes[0].perform("devices", {"act": "invite"}))["code"]
            home = Home(folder / str(n))
            await asyncio.to_thread(create_membership, home, invitation=Invitation.parse(code))
            if n < 3:
                nodes.append(await stack.enter_async_context(peer(folder / str(n), *nodes)))
                await until(lambda: id_of(nodes[-1]) in roster(nodes[0]).named)
            else:
                async with peer(folder / str(n), *nodes) as node:
                    await until(lambda node=node: not roster(node).ticket)
        await until(lambda: all(len(roster(node).named) == 5 for node in nodes))
        lost = nodes[2]
        began_s = time.perf_counter()
        await nodes[0].perform("devices", {"act": "remove", "target": id_of(lost).hex()[:12]})
        await until(lambda: not any(node.endpoint.link(id_of(lost)) for node in nodes[:2]))
        links_s = time.perf_counter() - began_s
        await until(lambda: roster(nodes[1]).newest() == roster(nodes[0]).newest() is not None)
        secret_s = time.perf_counter() - began_s
        async with peer(folder / "3", nodes[0]) as back:
            await until(lambda: back.endpoint.link(id_of(nodes[0])))
            heard_s = await until(lambda: id_of(lost) in roster(back).out)
        assert roster(nodes[0]).newest() not in roster(lost).secrets
    return {"links": links_s, "secret": secret_s, "heard": heard_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--walks", type=int, default=200)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for _ in range(args.runs):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(asyncio.run(once(Path(folder))))
    print(f"{'seconds, of ' + str(args.runs) + ' runs':<52} {'median':>8} {'worst':>8}")
    names = {
        "links": "no remaining device is linked with the removed one",
        "secret": "the others hold the new secret",
        "heard": "one that was off refuses it, after its first link",
    }
    for key, name in names.items():
        values = [row[key] for row in rows]
        print(f"{name:<52} {statistics.median(values):>8.2f} {max(values):>8.2f}")
    from kit.removal_walk import walk

    refused, began_s = [], time.process_time()
    for seed in range(args.walks):
        flock = walk(seed + 50_000, hostile=(5,))
        honest = set(flock.ids[:5])
        refused += [len(flock.rosters[i].out & honest) for i in range(5)]
    print(
        f"{args.walks} walks with a thief: a device refuses {statistics.mean(refused):.2f} honest ones, at most "
        f"{max(refused)}; {(time.process_time() - began_s) / max(1, args.walks):.2f} CPU-s a walk"
    )
    if args.json:
        args.json.write_text(json.dumps({"runs": rows, "refused_most": max(refused)}))


if __name__ == "__main__":
    main()
