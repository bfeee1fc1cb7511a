"""`flocklet export`: turn a policy into C for a microcontroller, prove it, and say what it costs.

flocklet export FILE.onnx [--out DIR] [--package arduino] [--verify [--target cortex-m4]]
flocklet export report DIR | diff DIR DIR
flocklet verify DIR
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flocklet.errors import ExportError, UsageError

if TYPE_CHECKING:
    from flocklet.firmware_export.read.semantics import ActionSpec, ObsSpec

__all__ = ["add_parser", "run"]

_ACTIONS = ("report", "diff")


def add_parser(subparsers: Any) -> None:
    """Add the verbs `export` and `verify` to a command line; both end in `run`."""
    parser = subparsers.add_parser("export", help="write a policy as C for a microcontroller, with its proof")
    parser.add_argument("items", nargs="+", metavar="FILE.onnx | report DIR | diff DIR DIR")
    parser.add_argument("--out", type=Path, help="directory to write to (default: the file's name)")
    parser.add_argument("--name", help="prefix of every C name (default: policy)", default="policy")
    parser.add_argument("--dtype", choices=("f32", "w16", "i16", "w8"), default="f32", help="numbers (f32)")
    parser.add_argument("--preset", help="observation and action rules: learning-to-fly or rl-tools")
    parser.add_argument("--spec", type=Path, help="JSON file with 'obs' and 'action' fields")
    parser.add_argument(
        "--activation", choices=("tanh", "fast_tanh"), help="what Tanh in the file stands for"
    )
    parser.add_argument("--output", help="name of the tensor to export (default: the first output)")
    parser.add_argument("--package", action="append", help="package to write (default: all that fit)")
    parser.add_argument("--blob", action="store_true", help="also write NAME.bin and NAME_load()")
    parser.add_argument("--observations", type=Path, help="your own observations, .npy (n, inputs)")
    parser.add_argument(
        "--range", help="largest |value| of the observations, for integers: one number, or one each: 1,1,4"
    )
    parser.add_argument(
        "--min-agreement",
        type=float,
        help="integers: share of observations with the same largest output (.99)",
    )
    parser.add_argument("--max-error", type=float, help="refuse the export where its error is larger")
    parser.add_argument(
        "--uncompared",
        action="store_true",
        help="do not compare with onnxruntime first; the manifest says so",
    )
    parser.add_argument("--verify", action="store_true", help="verify right after the export")
    _verify_options(parser)
    parser.set_defaults(run=run, export_verb="export")
    check = subparsers.add_parser("verify", help="prove an export on this machine and on emulated cores")
    check.add_argument("items", nargs=1, metavar="DIR")
    _verify_options(check)
    check.set_defaults(run=run, export_verb="verify")


def _verify_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target", action="append", help="core: cortex-m4 (default), cortex-m0plus, ..., or all"
    )
    parser.add_argument(
        "--engine", action="append", choices=("unicorn", "qemu"), help="emulator (default: both)"
    )
    parser.add_argument(
        "--cc", action="append", choices=("zig", "gcc"), help="cross compiler (default: both)"
    )
    parser.add_argument("--flags", action="append", help="compiler flags (default: '-std=c99 -O2')")
    parser.add_argument("--picture", type=Path, help="write an SVG picture of the costs")


def _print(args: argparse.Namespace, data: Any, lines: list[str]) -> None:
    print(json.dumps(data, indent=2, sort_keys=True) if args.json else "\n".join(lines))


def _specs(args: argparse.Namespace) -> tuple[ObsSpec | None, ActionSpec | None]:
    from flocklet.firmware_export.read.semantics import ActionSpec, ObsSpec, preset, spec_from_json

    obs, action = preset(args.preset) if args.preset else (None, None)
    if args.spec is not None:
        try:
            data = json.loads(args.spec.read_text())
            obs = spec_from_json(ObsSpec, data["obs"]) if "obs" in data else obs
            action = spec_from_json(ActionSpec, data["action"]) if "action" in data else action
        except (OSError, ValueError, TypeError) as error:
            raise ExportError(f"cannot use the rules in {args.spec}: {error}") from error
    return obs, action


def _numbers(text: str | None) -> tuple[float, ...] | None:
    """Return the numbers of --range."""
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(
            f"--range {text}: no numbers", remedy="pass one, or one per value: --range 1,1,4"
        ) from error
    if not all(0 < value < float("inf") for value in found):
        raise UsageError(f"--range {text}: a range is a number above 0")
    return found


def _build(args: argparse.Namespace, source: str) -> int:
    import numpy as np

    from flocklet.firmware_export.export import export_policy
    from flocklet.firmware_export.packages.frameworks import PACKAGES
    from flocklet.firmware_export.packages.graph_files import holds_graph
    from flocklet.firmware_export.trees.tree_model import has_trees
    from flocklet.firmware_export.verify.report import summary

    samples = None
    if args.observations is not None:
        try:
            samples = np.load(args.observations, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ExportError(
                f"cannot read {args.observations}: {error}", remedy="save it with numpy.save"
            ) from error
    if has_trees(Path(source)):
        return _build_tables(args, Path(source), samples, "trees")
    if holds_graph(Path(source)):
        return _build_tables(args, Path(source), samples, "convolutional nets")
    obs, action = _specs(args)
    artifact = export_policy(
        Path(source),
        args.out or Path(Path(source).stem),
        name=args.name,
        dtype=args.dtype,
        obs=obs,
        action=action,
        packages=tuple(args.package or PACKAGES),
        blob=args.blob,
        samples=samples,
        max_error=args.max_error,
        activation=args.activation,
        output=args.output,
        uncompared=args.uncompared,
        ranges=_numbers(args.range),
        min_agreement=args.min_agreement,
    )
    if args.verify:
        return _verify(args, str(artifact.directory))
    _print(args, artifact.manifest, [f"wrote {artifact.directory}", *summary(artifact)])
    return 0


def _build_tables(args: argparse.Namespace, source: Path, samples: Any, what: str) -> int:
    """Export a file of trees or a convolutional net: plain C with one function; the options of policies do not apply."""
    from flocklet.firmware_export.packages.graph_files import export_graph
    from flocklet.firmware_export.trees.tree_model import export_tree_model
    from flocklet.firmware_export.verify.report import graph_summary, tree_summary

    given = {
        "--dtype": args.dtype != "f32", "--preset": args.preset, "--spec": args.spec, "--activation": args.activation,
        "--blob": args.blob, "--max-error": args.max_error is not None, "--range": args.range,
        "--package": set(args.package or ()) - {"plain"},
    }  # fmt: skip
    for option, is_given in given.items():
        if is_given:
            raise UsageError(f"{option} does not apply to {what}, which are exported as plain C")
    out = (args.out or Path(source.stem)).resolve()
    export = export_tree_model if what == "trees" else export_graph
    manifest = export(
        source, out, name=args.name, output=args.output, samples=samples, uncompared=args.uncompared
    )
    if args.verify:
        return _verify(args, str(out))
    summary = tree_summary if what == "trees" else graph_summary
    _print(args, manifest, [f"wrote {out}", *summary(manifest)])
    return 0


def _verify_graph(args: argparse.Namespace, directory: Path) -> int:
    """Prove an export of a convolutional net on this machine and on emulated cores."""
    from flocklet.firmware_export.verify.graph_proof import verify_graph
    from flocklet.firmware_export.verify.report import report_lines
    from flocklet.firmware_export.verify.toolchain import CORES

    cores = args.target or ["cortex-m4"]
    report = verify_graph(
        directory,
        cores=list(CORES) if "all" in cores else cores,
        cc=args.cc or ("zig", "gcc"),
        flags=(args.flags or ["-std=c99 -O2"])[0],
    )
    _print(args, report.to_json(), report_lines(report))
    return 0 if report.verified else 8


def _verify_trees(args: argparse.Namespace, directory: Path, name: str) -> int:
    """Prove an export of trees on emulated cores."""
    from flocklet.firmware_export.trees.tree_file import load_trees
    from flocklet.firmware_export.trees.tree_model import probes
    from flocklet.firmware_export.trees.tree_proof import verify_trees
    from flocklet.firmware_export.verify.report import report_lines
    from flocklet.firmware_export.verify.toolchain import CORES

    trees = load_trees(directory / "model.npz")
    cores = args.target or ["cortex-m4"]
    report = verify_trees(
        trees,
        directory,
        name=name,
        x=probes(trees),
        cores=list(CORES) if "all" in cores else cores,
        cc=args.cc or ("zig", "gcc"),
        flags=(args.flags or ["-std=c99 -O2"])[0],
    )
    _print(args, report.to_json(), report_lines(report))
    return 0 if report.verified else 8


def _verify(args: argparse.Namespace, directory: str) -> int:
    from flocklet.firmware_export.export import load_artifact
    from flocklet.firmware_export.packages.graph_files import manifest_kind
    from flocklet.firmware_export.trees.tree_file import tree_name
    from flocklet.firmware_export.verify import qemu_engine, unicorn_engine
    from flocklet.firmware_export.verify.proof import verify
    from flocklet.firmware_export.verify.report import report_lines, summary
    from flocklet.firmware_export.verify.toolchain import CORES, available

    if manifest_kind(Path(directory)) == "graph":
        return _verify_graph(args, Path(directory).resolve())
    name = tree_name(Path(directory))
    if name is not None:
        return _verify_trees(args, Path(directory).resolve(), name)
    artifact = load_artifact(directory)
    cores = args.target or ["cortex-m4"]
    report = verify(
        artifact,
        cores=list(CORES) if "all" in cores else cores,
        engines=args.engine or ("unicorn", "qemu"),
        cc=args.cc or ("zig", "gcc"),
        flags=args.flags or ("-std=c99 -O2",),
    )
    _picture(args, directory)
    _print(args, report.to_json(), [*report_lines(report), *summary(artifact)])
    asked_for = [cc for cc in args.cc or () if not available(cc)]
    here = {"unicorn": unicorn_engine.available, "qemu": qemu_engine.available}
    asked_for += [engine for engine in args.engine or () if not here[engine]()]
    if asked_for and not any(row.result in {"different", "failed"} for row in report.rows):
        print(f"not installed: {', '.join(asked_for)}", file=sys.stderr)
        return 7
    return 0 if report.verified else 8


def _picture(args: argparse.Namespace, directory: str) -> None:
    if args.picture is None:
        return
    from flocklet.firmware_export.export import load_artifact
    from flocklet.firmware_export.verify.report import bars_svg

    artifact = load_artifact(directory)
    rows = artifact.manifest.get("verification", {}).get("rows", [])
    bars = []
    for row in rows:
        if row["engine"] == "unicorn" and row["step_instructions"]:
            label = f"{row['core']} {row['compiler'].split(':')[0]}"
            bars += [(f"{label}, step", float(row["step_instructions"]), True)]
            bars += [(f"{label}, network alone", float(row["eval_instructions"]), False)]
    title = f"{artifact.plan.name} ({artifact.plan.dtype}): instructions, worst call, emulated"
    args.picture.write_text(bars_svg(title, bars, "instructions"))


def _report(args: argparse.Namespace, directory: str) -> int:
    from flocklet.firmware_export.export import load_artifact
    from flocklet.firmware_export.packages.graph_files import manifest_kind
    from flocklet.firmware_export.verify.report import graph_summary, summary, tree_summary

    kind = manifest_kind(Path(directory))
    if kind:
        manifest = json.loads((Path(directory) / "manifest.json").read_text())
        _print(args, manifest, (graph_summary if kind == "graph" else tree_summary)(manifest))
        return 0
    artifact = load_artifact(directory)
    _picture(args, directory)
    _print(args, artifact.manifest, summary(artifact))
    return 0


def _diff(args: argparse.Namespace, left: str, right: str) -> int:
    from flocklet.firmware_export.export import load_artifact
    from flocklet.firmware_export.verify.report import difference

    data = difference(load_artifact(left), load_artifact(right))
    lines = [f"{key}: {values[0]} -> {values[1]}" for key, values in data["fields"].items()]
    lines.append("the weights are the same" if data["same_weights"] else "the weights differ")
    if "largest_output_change" in data:
        lines.append(
            "the outputs are the same, bit for bit"
            if data["same_bits"]
            else f"the outputs differ by up to {data['largest_output_change']:.3g}"
        )
    _print(args, data, lines)
    return 0


def _known_cores(targets: Sequence[str]) -> None:
    """Refuse what is no core before anything is done: a mistyped core must not end in an unproved export."""
    from flocklet.firmware_export.verify.toolchain import CORES

    unknown = [target for target in targets if target not in {*CORES, "all"}]
    if unknown:
        raise UsageError(
            f"--target {unknown[0]}: no such core", remedy=f"choose one of: {', '.join(CORES)}, all"
        )


def run(args: argparse.Namespace) -> int:
    """Carry out `export` or `verify`; return the exit code (8: not proved, 7: a tool is missing)."""
    items: list[str] = args.items
    _known_cores(args.target or ())
    if args.export_verb == "verify":
        return _verify(args, items[0])
    action, rest = (items[0], items[1:]) if items[0] in _ACTIONS else ("build", items)
    wanted = 2 if action == "diff" else 1
    if len(rest) != wanted:
        raise UsageError(f"export {action} takes {wanted} path{'s' if wanted > 1 else ''}, not {len(rest)}")
    if action == "build":
        return _build(args, rest[0])
    return _report(args, rest[0]) if action == "report" else _diff(args, rest[0], rest[1])
