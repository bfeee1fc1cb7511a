"""The public face: what `flocklet.__all__` lists is stable, typed, documented, and loaded only when it is used."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import subprocess
import sys
import typing
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import flocklet
from flocklet import (
    AddResult,
    Node,
    NodeSettings,
    PeerStatus,
    Recommendations,
    SearchResults,
    Status,
    UsageError,
)
from flocklet.device.results import SkippedFile, build
from flocklet.node.verbs import Verbs

# Written by hand: a name that goes from here, or changes its meaning, makes the next version a major one.
FACE = [
    "AddResult",
    "ClickResult",
    "ConfigError",
    "DeviceRow",
    "ExportError",
    "Flock",
    "FlockletError",
    "Hit",
    "Identity",
    "IdentityError",
    "ImportResult",
    "LinkError",
    "MissingExtra",
    "Model",
    "Node",
    "NodeSettings",
    "PeerRefused",
    "PeerStatus",
    "RateResult",
    "Recommendation",
    "Recommendations",
    "Refusal",
    "RemoveResult",
    "SchemaMismatch",
    "SearchResults",
    "Simulation",
    "SkippedFile",
    "Status",
    "StoreError",
    "Strategy",
    "TrustResult",
    "TrustedPerson",
    "UsageError",
    "VerificationError",
    "WireError",
    "__version__",
    "check_model",
]
VERBS = {
    "add": "(paths)", "remove": "(paths)",
    "search": "(query, *, person, limit, model, is_explained, page, is_folded, is_private)",
    "click": "(query_id, rank)", "people": "()", "add_people": "(names)",
    "rate": "(item, stars, *, is_finished, dwell_s, person)", "trust": "(peer, weight, *, person)",
    "trusted": "(*, limit, person)", "recommend": "(*, limit, is_explained, person)",
    "import_ratings": "(path, *, user, best)", "import_clicks": "()", "invite": "()", "devices": "()",
    "name_device": "(device, name)", "remove_device": "(device, *, is_dropped)", "leave": "()", "status": "()",
}  # fmt: skip


def test_the_face_is_the_written_list() -> None:
    assert sorted(flocklet.__all__) == sorted(FACE)
    assert dir(flocklet) == sorted(flocklet.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Found'"):
        flocklet.Found  # noqa: B018


def test_the_verbs_are_the_written_list() -> None:
    found = {
        name: value for name, value in vars(Verbs).items() if not name.startswith("_") and name != "perform"
    }
    assert set(found) == set(VERBS)
    for name, method in found.items():
        words = []
        for parameter in list(inspect.signature(method).parameters.values())[1:]:
            if parameter.kind is parameter.KEYWORD_ONLY and "*" not in words:
                words.append("*")
            words.append(parameter.name)
        assert f"({', '.join(words)})" == VERBS[name], name


@pytest.mark.parametrize("name", sorted(set(FACE) - {"__version__"}))
def test_each_name_is_loaded_alone_and_documented(name: str) -> None:
    value = getattr(flocklet, name)
    assert value.__name__ == name
    assert inspect.getdoc(value)


def test_import_loads_nothing_and_a_name_loads_its_room_only() -> None:
    code = (
        "import sys, json, flocklet\n"
        "before = [m for m in sys.modules if m.startswith('flocklet.')]\n"
        "flocklet.UsageError; flocklet.SearchResults; flocklet.Status\n"
        "heavy = [m for m in ('numpy', 'asyncio', 'ssl', 'zeroconf', 'tinygrad', 'onnxruntime') if m in sys.modules]\n"
        "print(json.dumps([before, heavy]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], []]


def test_docstrings_of_the_verbs_name_every_argument() -> None:
    """One form that a generator reads: a summary, then Args with each argument."""
    for name in VERBS:
        method = getattr(Verbs, name)
        doc = inspect.getdoc(method) or ""
        arguments = list(inspect.signature(method).parameters)[1:]
        part = re.search(r"Args:\n((?: {4}.*\n?)+)", doc)
        told = re.findall(r"^ {4}(\w+):", part[1], re.MULTILINE) if part else []
        assert told == arguments, name
        hints = typing.get_type_hints(method)
        assert set(hints) == {*arguments, "return"}, name


def test_docstrings_of_the_results_name_every_field() -> None:
    kinds: list[Any] = [getattr(flocklet, name) for name in FACE if name != "__version__"]
    for kind in kinds:
        name = kind.__name__
        if not dataclasses.is_dataclass(kind) or kind.__module__ != "flocklet.device.results":
            continue
        doc = inspect.getdoc(kind) or ""
        told = re.findall(r"^ {4}(\w+):", doc, re.MULTILINE)
        names = [field.name for field in dataclasses.fields(kind)]
        assert told == names or (not told and len(names) <= 5), name
        assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    settings = NodeSettings(interfaces=("127.0.0.1",), is_mdns_on=False, gossip_s=0)
    async with Node(tmp_path / "home", settings) as running:
        yield running


async def test_every_verb_answers_in_its_type(node: Node, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "tent.md").write_text("# Pitching a tent\n\nDrive the pegs in at an angle.\n")
    (notes / "noise.bin").write_bytes(bytes(range(256)) * 8)
    added = await node.add([notes])
    assert (added.added, added.documents) == (1, 1)
    results = await node.search("tent", is_explained=True)
    (hit,) = results.found
    assert (hit.rank, hit.title) == (1, "Pitching a tent")
    assert hit.why is not None
    click = await node.click(results.query_id, hit.rank)
    assert (click.query, click.item_id) == ("tent", hit.item_id)
    assert await node.add_people(["anna"]) == await node.people() == ("me", "anna")
    assert (await node.rate("Rififi", 5, person="anna")).stars == 5
    assert (await node.trust("anna")).weight == 1
    (trusted,) = await node.trusted()
    assert (trusted.name, trusted.path[-1]) == ("anna", "anna")
    assert (await node.recommend()).liked_from == 4
    (tmp_path / "ratings.csv").write_text("ben,Rififi,5\n")
    assert (await node.import_ratings(tmp_path / "ratings.csv")).people == 1
    assert (await node.import_clicks()).liked == 1
    assert [row.state for row in await node.devices()] == ["this device"]
    assert len(await node.invite()) > 20
    status = await node.status()
    assert (status.documents, status.clicks, status.people) == (1, 1, 3)
    assert node.peers() == ()
    assert (await node.remove([notes])).documents == 0
    with pytest.raises(UsageError):
        await node.search(" ")


@pytest.mark.parametrize(
    ("verb", "kind", "values"),
    [
        ("status", Status, {}),
        ("add", AddResult, {"paths": []}),
        ("search", SearchResults, {"query": "tent", "person": "me", "limit": 10}),
        ("recommend", Recommendations, {"person": "me", "limit": 3, "explain": False}),
    ],
)
async def test_nothing_on_the_socket_is_lost_in_the_type(
    node: Node, verb: str, kind: type[Any], values: Mapping[str, Any]
) -> None:
    """Who adds a key to an answer adds the field here too."""
    answer = await node.perform(verb, values)
    assert set(answer) == {field.name for field in dataclasses.fields(kind)}


def test_build_makes_what_is_nested_and_refuses_what_is_short() -> None:
    row = {"path": "a", "why": "b", "remedy": ""}
    answer = {"added": 1, "unchanged": 0, "gone": 0, "skipped": [row], "documents": 1, "guessed": 0}
    assert build(AddResult, answer).skipped == (SkippedFile("a", "b", ""),)
    with pytest.raises(KeyError, match="PeerStatus needs id, short"):
        build(PeerStatus, {})
