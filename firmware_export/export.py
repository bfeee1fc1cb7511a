"""Turn a policy into a directory of C, packages and provenance: the one call behind `flocklet export`."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flocklet.errors import ExportError
from flocklet.firmware_export.c.blob import blob_bytes
from flocklet.firmware_export.c.emit import code_parts, emit_header, emit_source, emit_vectors
from flocklet.firmware_export.c.info import clean_name
from flocklet.firmware_export.c.vectors import golden
from flocklet.firmware_export.packages.frameworks import PACKAGES, package_files
from flocklet.firmware_export.plan.gate import Accuracy, accuracy, admit
from flocklet.firmware_export.plan.judge import Comparison, compare
from flocklet.firmware_export.plan.plan import Plan, make_plan
from flocklet.firmware_export.plan.reference import forward, forward_exact, observations
from flocklet.firmware_export.read.model_file import load_network, save_network
from flocklet.firmware_export.read.network import Activation, Network
from flocklet.firmware_export.read.onnx_reader import Reading, interpret
from flocklet.firmware_export.read.semantics import ActionSpec, ObsSpec, spec_from_json, spec_to_json
from flocklet.onnx_io.external_data import parse_file

__all__ = ["FORMAT", "Artifact", "describe", "export_policy", "load_artifact", "outputs"]

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Artifact:
    """Hold an export: its directory, its plan and its manifest."""

    directory: Path
    plan: Plan
    manifest: dict[str, Any]

    @property
    def loadable(self) -> bool:
        """Return whether the C code takes a weights blob."""
        return bool(self.manifest["loadable"])


def outputs(plan: Plan, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return what NAME_eval must give for inputs (n, n_in): the reference of the data type of a plan."""
    if plan.integer is not None:
        return np.asarray(plan.integer.forward(x), np.float32)
    return forward(plan.network, x, order=plan.order)


def errors_of(plan: Plan, x: npt.NDArray[np.float32]) -> Accuracy:
    """Return the errors of the data type of a plan against float64 with exact activations."""
    return accuracy(outputs(plan, x), forward_exact(plan.network, x))


def _version() -> str:
    try:
        return importlib.metadata.version("flocklet")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def describe(plan: Plan, *, loadable: bool) -> dict[str, Any]:
    """Return what an export must say about itself: NAME_info() and manifest.json hold the same fields."""
    activations = []
    for layer in plan.network.layers:
        activation = getattr(layer, "activation", None)
        activations.append(type(layer).__name__.lower() if activation is None else activation.kind)
    return {
        "format": FORMAT,
        "exporter": f"flocklet {_version()}",
        "name": plan.name,
        "model_sha256": plan.network.sha256(),
        "dtype": plan.dtype,
        "dims": list(plan.network.dims),
        "activations": activations,
        "inputs": [[clean_name(name), width] for name, width in plan.network.inputs],
        "obs": spec_to_json(plan.obs),
        "action": spec_to_json(plan.action),
        "cached_history": plan.cached,
        "loadable": loadable,
        "layout_id": plan.layout_id,
    }


def export_policy(
    model: Network | Path | str,
    out_dir: Path | str,
    *,
    name: str = "policy",
    dtype: str = "f32",
    obs: ObsSpec | None = None,
    action: ActionSpec | None = None,
    packages: tuple[str, ...] = PACKAGES,
    blob: bool = False,
    cached: bool | None = None,
    samples: npt.NDArray[np.float32] | None = None,
    max_error: float | None = None,
    activation: str | None = None,
    output: str | None = None,
    uncompared: bool = False,
    ranges: tuple[float, ...] | None = None,
    min_agreement: float | None = None,
) -> Artifact:
    """Write a policy as C with its packages and manifest; return the artifact.

    model: a network, or the path of an ONNX file, which onnxruntime runs first: what we read must agree with it (unless
    `uncompared`, which the manifest says). samples: the owner's own observations (n, n_in) float32,
    against which the error of a quantised export is measured; w8 is refused unless `samples` and
    `max_error` prove it. ranges: largest magnitude of the observed values, one for all or one each, in place of those in
    `obs`. min_agreement: smallest share of observations with the same largest output (see `gate`).

    Raises `ExportError` before anything is written where the policy cannot be
    exported.
    """
    if isinstance(model, Network):
        reading, network = None, model
    else:
        reading = interpret(parse_file(model), output=output, activation=activation)
        network = reading.network
    if ranges is not None:
        obs = replace(obs or ObsSpec(network.n_in), range=ranges[0] if len(ranges) == 1 else ranges)
    plan = make_plan(name, network, dtype=dtype, obs=obs, action=action, cached=cached)
    unknown = set(packages) - set(PACKAGES)
    if unknown:
        raise ExportError(
            f"unknown package(s): {', '.join(sorted(unknown))}", remedy=f"known: {', '.join(PACKAGES)}"
        )
    if samples is not None and (
        samples.ndim != 2 or samples.shape[1] != network.n_in or not np.isfinite(samples).all()
    ):
        raise ExportError(f"the observations must be finite numbers of shape (n, {network.n_in})")
    own = samples is not None
    x = (
        _inside(plan, observations(np.random.default_rng(0), 64, network.n_in))
        if samples is None
        else samples.astype(np.float32)
    )
    compared: dict[str, Any] | str = "not a file"
    if reading is not None:
        compared = "not compared" if uncompared else _compared(Path(str(model)), reading, samples).to_json()
    errors = errors_of(plan, x)
    if dtype == "w8" and (not own or max_error is None):
        raise ExportError(
            "w8 loses much accuracy and needs a proof on your own observations",
            remedy="pass --observations FILE.npy and the largest error you accept (--max-error)",
        )
    if max_error is not None and errors.max > max_error:
        raise ExportError(
            f"the largest error of {dtype} is {errors.max:.2e}, above the allowed {max_error:.2e}",
            remedy="use a wider data type (w16 or f32)",
        )
    if dtype != "f32":
        classifier = reading is not None and reading.is_classifier
        admit(errors, dtype, classifier=classifier, min_agreement=min_agreement)
    info = describe(plan, loadable=blob)
    parts = code_parts(plan)
    vectors = golden(plan)
    files: dict[str, str | bytes] = {
        f"{name}.h": emit_header(plan, parts, loadable=blob),
        f"{name}.c": emit_source(plan, parts, info, loadable=blob),
        f"{name}_test_vectors.h": emit_vectors(plan, vectors),
    }
    manifest = info | {
        "parameters": network.n_parameters,
        "weights_bytes": len(plan.payload),
        "proofs": plan.proofs,
        "compared": compared,
        "error": errors.to_json() | {"observations": "owner" if own else "synthetic", "count": len(x)},
        "golden_crc32": vectors.crc32,
        "packages": list(packages),
        "verified": [],
    }
    if blob:
        files[f"{name}.bin"] = blob_bytes(plan)
    files |= package_files(plan, files, manifest, packages)
    files["manifest.json"] = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
    directory = Path(out_dir).resolve()
    _write(directory, files, network)
    return Artifact(directory, plan, manifest)


def _inside(plan: Plan, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return observations that can occur: observed values in their declared ranges, past actions in their limits."""
    state, past = x[:, : plan.obs.state], x[:, plan.obs.state :]
    if plan.obs.range is not None:
        limits = np.array(plan.obs.ranges, np.float32)
        state = np.clip(state, -limits, limits)
    if past.size:
        low, high, _ = plan.action.bounds(plan.network.n_out)
        if getattr(plan.network.layers[-1], "activation", Activation()).bounded:
            low, high = np.maximum(low, np.float32(-1)), np.minimum(high, np.float32(1))
        entries = past.shape[1] // plan.network.n_out
        past = np.clip(past, np.tile(low, entries), np.tile(high, entries))
    return np.concatenate([state, past], axis=1)


def _compared(path: Path, reading: Reading, samples: npt.NDArray[np.float32] | None) -> Comparison:
    """Compare a reading with its file on synthetic observations and on the owner's."""
    x = observations(np.random.default_rng(0), 64, reading.network.n_in)
    return compare(path, reading, x if samples is None else np.concatenate([x, samples.astype(np.float32)]))


def _write(directory: Path, files: dict[str, str | bytes], network: Network) -> None:
    try:
        for key, content in files.items():
            path = directory / key
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                path.write_text(content, encoding="utf-8")
        save_network(directory / "model.npz", network)
    except OSError as error:
        raise ExportError(
            f"cannot write to {directory}: {error.strerror}", remedy="choose another --out"
        ) from error


def load_artifact(directory: Path | str) -> Artifact:
    """Read an export back from its directory; raise `ExportError` where it is incomplete or inconsistent."""
    directory = Path(directory).resolve()  # compilers run in folders of their own
    try:
        manifest = json.loads((directory / "manifest.json").read_text())
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{directory} holds no export: {error}", remedy="pass the directory that export wrote"
        ) from error
    if manifest.get("format") != FORMAT:
        raise ExportError(f"{directory} was written in format {manifest.get('format')}, not {FORMAT}")
    if "model_sha256" not in manifest:
        raise ExportError(f"{directory} holds trees, not a network", remedy="use flocklet verify or report")
    network = load_network(directory / "model.npz")
    if network.sha256() != manifest["model_sha256"]:
        raise ExportError(f"{directory}: model.npz is not the model that the manifest names")
    obs = spec_from_json(ObsSpec, _tuples(manifest["obs"]))
    action = spec_from_json(ActionSpec, manifest["action"])
    plan = make_plan(
        manifest["name"],
        network,
        dtype=manifest["dtype"],
        obs=obs,
        action=action,
        cached=manifest["cached_history"],
    )
    return Artifact(directory, plan, manifest)


def _tuples(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
