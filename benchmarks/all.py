"""Run every benchmark of this folder one after the other and keep what they print and measure.

Run: python benchmarks/all.py [--out FOLDER] [--only NAME,NAME]
Each writes FOLDER/NAME.txt and FOLDER/NAME.json. One that cannot run here says why and does not stop the others.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# name -> arguments; data sets that people bring are named by FLOCKLET_DATA and skipped without it
ORDER = ("idle", "discovery", "link", "hostile", "search", "grank", "kill", "demo", "pi_smoke")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    wanted = args.only.split(",") if args.only else ORDER
    failed = []
    for name in wanted:
        script = HERE / f"{name}.py"
        if not script.exists():
            print(f"== {name}: there is no such benchmark")
            failed.append(name)
            continue
        more: list[str] = []
        if name == "search":
            if "FLOCKLET_DATA" not in os.environ:
                print(f"== {name}: skipped, FLOCKLET_DATA does not name a folder with cranfield, med and adi")
                continue
            more = ["--data", os.environ["FLOCKLET_DATA"]]
        print(f"== {name}", flush=True)
        begun_s = time.monotonic()
        done = subprocess.run(
            [sys.executable, script, "--json", args.out / f"{name}.json", *more],
            capture_output=True,
            text=True,
            check=False,
        )
        (args.out / f"{name}.txt").write_text(done.stdout + done.stderr)
        print(done.stdout, end="")
        if done.returncode:
            print(
                f"   ended with {done.returncode}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
            )
            failed.append(name)
        print(f"   {time.monotonic() - begun_s:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
