"""What following a folder costs: first indexing, a refresh of unchanged files, one changed file. CPU seconds.

    python benchmarks/folders.py --files 50000 [--json FILE]

Makes that many HTML pages in a temporary folder (a header, a navigation bar, 200 words of a Zipf vocabulary, seeded),
indexes them with a device of its own, looks again, changes one. The reading process is counted apart.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from flocklet.clock import SystemClock
from flocklet.device.commands import perform
from flocklet.device.device import Device
from flocklet.device.membership import create_membership
from flocklet.store.home import Home

OLD_NS = 1_600_000_000_000_000_000


def make_pages(folder: Path, files: int) -> None:
    """Write the pages, 500 a folder, with times long past."""
    rng = np.random.default_rng(1)
    words = ["".join(rng.choice(list("aeiourstlnmdcpg"), int(rng.integers(3, 11)))) for _ in range(40_000)]
    bar = "<nav><ul>" + "".join(f"<li><a href=x>menu {n}</a>" for n in range(20)) + "</ul></nav>"
    for number in range(files):
        text = " ".join(words[min(int(place), 40_000) - 1] for place in rng.zipf(1.3, 200))
        path = folder / f"{number // 500}" / f"{number}.html"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            f"<html lang=en><title>page {number}</title>{bar}<main><h1>Page {number}</h1><p>{text}</main>"
        )
        os.utime(path, ns=(OLD_NS, OLD_NS))


def timed(device: Device, folder: Path) -> dict[str, float]:
    """Return the CPU seconds of one `add`, the device's and the reader's."""
    before, children = time.process_time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    answer = perform(device, "add", {"paths": [os.fsencode(folder)]})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    reader = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    return {"device_s": time.process_time() - before, "reader_s": reader, "added": answer["added"]}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        pages, home = Path(scratch) / "pages", Home(Path(scratch) / "home")
        pages.mkdir()
        home.ensure()
        make_pages(pages, args.files)
        with Device(home, create_membership(home), SystemClock()) as device:
            rows = {"first": timed(device, pages)}
            rows["unchanged"] = timed(device, pages)
            rows["unchanged again"] = timed(device, pages)
            (pages / "0" / "0.html").write_text("<p>a quagga")
            rows["one changed"] = timed(device, pages)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for name, row in rows.items():
        print(
            f"{name:16} device {row['device_s']:7.2f} s  reader {row['reader_s']:7.2f} s  {row['added']:.0f} new"
        )
    print(f"peak of the device {peak:.0f} MiB; largest reader apart")
    if args.json:
        args.json.write_text(json.dumps({"files": args.files, "peak_mib": peak, **rows}))


if __name__ == "__main__":
    main()
