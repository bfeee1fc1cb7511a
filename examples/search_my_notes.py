"""Search your own files, tell flocklet which result was right, and see what the clicks do to the ranking.

Run it: python examples/search_my_notes.py [FOLDER]      (default: the documentation of this project)
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

from flocklet import Node, NodeSettings, SearchResults


async def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as home:
        async with Node(home, NodeSettings(is_mdns_on=False, interfaces=("127.0.0.1",))) as node:
            begun_s = time.monotonic()
            answer = await node.add([folder])
            seconds = time.monotonic() - begun_s
            print(f"{answer.added} documents indexed in {seconds:.2f} s, {len(answer.skipped)} left out")

            # Ask for the words of each document's own title: the right answer is known, so a rank can be measured.
            stored = await node.owner.run(lambda: list(node.device.store.documents()))
            titles = [document.title for document in stored][:40]
            ranks_before, ranks_after, times = [], [], []
            for title in titles:
                begun_s = time.perf_counter()
                results = await node.search(title)
                times.append(time.perf_counter() - begun_s)
                rank = rank_of(title, results)
                ranks_before.append(1 / rank if rank else 0.0)
                if rank:
                    await node.click(results.query_id, rank)
            for title in titles:
                rank = rank_of(title, await node.search(title))
                ranks_after.append(1 / rank if rank else 0.0)

            count = len(titles) or 1
            print(f"a search took {1000 * sorted(times)[count // 2]:.1f} ms (median of {count})")
            print(f"mean reciprocal rank: {sum(ranks_before) / count:.3f} by the text alone")
            print(f"mean reciprocal rank: {sum(ranks_after) / count:.3f} after one click each")


def rank_of(title: str, results: SearchResults) -> int | None:
    return next((hit.rank for hit in results.found if hit.title == title), None)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent / "docs"))
