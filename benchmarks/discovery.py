"""Measure how soon peers find each other by mDNS, what it costs on the air, and what an idle peer costs.

usage: python benchmarks/discovery.py [--json FILE] [--runs 5] [--idle-s 30] [--only
loopback,bridge6,bridge16,...]

Each peer is a process of its own. "After the later start" counts from the moment at which the later of two
processes asks mDNS to start (interpreter and imports done); "spawn" counts from its fork, imports included.
The namespaces need root and 'ip'. The control rows start zeroconf the usual way: it probes for the name
first and its first question asks for unicast answers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from kit.namespaces import (
    PeerProcess,
    bridged,
    flock_of,
    found_pairs,
    wait_until,
    why_no_namespaces,
)

LIMIT_S = 15.0


def settle(peers: list[PeerProcess], count: int) -> dict[str, Any]:
    """Wait until every pair is found, then one second more so that late announcements are counted too."""
    wanted = count * (count - 1)
    wait_until(lambda: len(found_pairs(peers)) == wanted, LIMIT_S)
    pairs = found_pairs(peers)
    from_spawn = [
        peers[who].seen[whom] - max(peers[who].spawned_s, peers[whom].spawned_s) for who, whom in pairs
    ]
    time.sleep(1.0)
    for peer in peers:
        if peer.process.stdin is not None:
            peer.process.stdin.close()
    reports = [peer.stop() for peer in peers]
    return {
        "pairs": len(pairs),
        "wanted": wanted,
        "after_start_s": list(pairs.values()),
        "from_spawn_s": from_spawn,
        "packets": sum(report["packets_out"] for report in reports),
        "bytes": sum(report["bytes_out"] for report in reports),
    }


def loopback(count: int, gap_s: float, style: str) -> dict[str, Any]:
    with flock_of(count, interfaces="127.0.0.1", gap_s=gap_s, style=style) as peers:
        return settle(peers, count)


def bridge(count: int, gap_s: float, style: str) -> dict[str, Any]:
    with (
        bridged(count) as names,
        flock_of(count, interfaces="all", namespaces=names, gap_s=gap_s, style=style) as peers,
    ):
        return settle(peers, count)


def idle(seconds: float) -> dict[str, float]:
    """Return the CPU time of one announced, browsing peer beside five others, after they all know each
    other.
    """
    with flock_of(6, interfaces="127.0.0.1") as peers:
        wait_until(lambda: len(found_pairs(peers)) == 30, LIMIT_S)
        time.sleep(10.0)
        before = [cpu_s(peer) for peer in peers]
        time.sleep(seconds)
        after = [cpu_s(peer) for peer in peers]
    spent = [100.0 * (b - a) / seconds for a, b in zip(before, after, strict=True)]
    return {"seconds": seconds, "median_percent": statistics.median(spent), "max_percent": max(spent)}


def cpu_s(peer: PeerProcess) -> float:
    """Return CPU seconds of a process from the scheduler's nanoseconds (ticks of 10 ms are too coarse)."""
    threads = Path(f"/proc/{peer.process.pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


SET_UPS = {
    "loopback": ("6 processes, loopback, together", loopback, 6, 0.0, "flocklet"),
    "staggered": ("6 processes, loopback, 0.4 s apart", loopback, 6, 0.4, "flocklet"),
    "bridge6": ("6 namespaces, bridge, together", bridge, 6, 0.0, "flocklet"),
    "bridge16": ("16 namespaces, bridge, together", bridge, 16, 0.0, "flocklet"),
    "control": ("control: zeroconf's defaults, 6 loopback", loopback, 6, 0.0, "default"),
    "control6": ("control: zeroconf's defaults, 6 bridge", bridge, 6, 0.0, "default"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--idle-s", type=float, default=30.0)
    parser.add_argument("--only", default=",".join([*SET_UPS, "idle"]))
    options = parser.parse_args()
    wanted = options.only.split(",")
    reason = why_no_namespaces()
    rows: dict[str, Any] = {}
    print(f"{'set-up':<42}{'pairs':>11}{'median s':>10}{'max s':>8}{'spawn med':>11}{'packets':>9}{'kB':>7}")
    for key, (title, run, count, gap_s, style) in SET_UPS.items():
        if key not in wanted:
            continue
        if run is bridge and reason:
            print(f"{title:<42}  skipped: {reason}")
            continue
        results = [run(count, gap_s, style) for _ in range(options.runs)]
        after = [s for result in results for s in result["after_start_s"]]
        spawn = [s for result in results for s in result["from_spawn_s"]]
        row = {
            "pairs": sum(result["pairs"] for result in results),
            "wanted": sum(result["wanted"] for result in results),
            "median_s": statistics.median(after),
            "max_s": max(after),
            "spawn_median_s": statistics.median(spawn),
            "packets": statistics.median(result["packets"] for result in results),
            "kB": statistics.median(result["bytes"] for result in results) / 1000,
            "runs": options.runs,
        }
        rows[key] = row
        pairs = f"{row['pairs']}/{row['wanted']}"
        print(
            f"{title:<42}{pairs:>11}{row['median_s']:>10.3f}{row['max_s']:>8.3f}{row['spawn_median_s']:>11.3f}"
            f"{row['packets']:>9.0f}{row['kB']:>7.1f}",
            flush=True,
        )
    if "idle" in wanted:
        rows["idle"] = idle(options.idle_s)
        print(
            f"idle mDNS, 6 peers on loopback, {options.idle_s:g} s: CPU of one peer median "
            f"{rows['idle']['median_percent']:.3f} % of a core, max {rows['idle']['max_percent']:.3f} %"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
