"""From a policy to proven C, in one file.

Export, prove on an emulated Cortex-M4, fly the firmware on a toy plant.

python examples/export_policy.py [POLICY.onnx] [--out DIR]

Without a file a seeded net of the shape of Learning-to-Fly (146-64-64-4) is exported. Needs a C compiler
and the extra `firmware` (ziglang, unicorn).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from flocklet.errors import FlockletError
from flocklet.firmware_export import export_policy, read, verify
from flocklet.firmware_export.read.network import seeded_actor
from flocklet.firmware_export.read.semantics import preset
from flocklet.firmware_export.verify.processor_in_loop import Firmware, ToyPlant, fly, reference_policy
from flocklet.firmware_export.verify.report import report_lines, summary


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("policy", nargs="?", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()

    # 1. What the policy sees and what its actions mean cannot be read off the weights: say it.
    obs, action = preset("learning-to-fly")
    net = read(args.policy) if args.policy else seeded_actor(np.random.default_rng(1), activation="fast_tanh")

    # 2. Write C and the packages.
    out = args.out or Path(tempfile.mkdtemp(prefix="flocklet-export-"))
    artifact = export_policy(net, out, name="pilot", obs=obs, action=action)
    print(f"wrote {out}")

    # 3. Prove it: sanitizers on this machine, then the emulated core.
    report = verify(artifact, engines=("unicorn",), cc=("zig",))
    print("\n".join([*report_lines(report), *summary(artifact)]))

    # 4. Fly the firmware: the emulated image in the loop must give the flight of the NumPy policy.
    plant = ToyPlant(obs.state, net.n_out)
    emulated = fly(Firmware(artifact), plant, seed=0, ticks=200)
    numpy = fly(reference_policy(artifact), plant, seed=0, ticks=200)
    same = np.array_equal(emulated.view(np.uint32), numpy.view(np.uint32))
    word = "equal" if same else "DIFFER FROM"
    print(f"200 steps of the emulated firmware {word} the NumPy policy, bit for bit")
    return 0 if report.verified and same else 8


if __name__ == "__main__":
    try:
        sys.exit(main())
    except FlockletError as error:
        print(f"{error}\n{error.remedy}", file=sys.stderr)
        sys.exit(error.exit_code)
