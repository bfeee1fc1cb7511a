"""Rerankers that peers teach themselves from their owners' clicks and exchange as signed deltas over real links."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flocklet import Node, NodeSettings
from flocklet.clock import SystemClock
from flocklet.device.device import Device
from flocklet.device.membership import create_membership, load_membership
from flocklet.device.results import PastClick
from flocklet.events.click import NO_CLICK
from flocklet.events.delta_sync import DeltaAnswer
from flocklet.events.item import Document
from flocklet.identity.flock import Flock
from flocklet.models.base import Parameters, difference, version_id
from flocklet.models.search.rerank.features import BM25, FEATURES
from flocklet.models.search.rerank.gate import GateSettings
from flocklet.models.search.rerank.online import OnlineRanker
from flocklet.store.home import Home
from flocklet.wire.body import pack_body
from flocklet.wire.frame import _join, content_id, open_frame, seal

LOOPBACK = "127.0.0.1"
FLOCK = Flock.generate()
TOPICS = [f"topic{n}" for n in range(24)]
FILLER = [f"word{n}" for n in range(60)]


def corpus() -> list[tuple[Document, str | None]]:
    """Eight documents a topic. Short ones say the topic once, long ones often: BM25 prefers some, the owner the longest."""
    rng = np.random.default_rng(3)
    documents = []
    for topic in TOPICS:
        for n in range(8):
            words = [topic] * int(rng.integers(1, 4)) + rng.choice(FILLER, 5 + 12 * n).tolist()
            documents.append((Document.of(f"{topic}-{n}", "", " ".join(words)), None))
    return documents


def clicks(device: Device, rounds: int, *, places: slice = slice(None)) -> list[PastClick]:
    """The owner clicks the longest document of what BM25 shows, whatever its rank."""
    length = {d.item_id: len(d.text) for d, _ in corpus()}
    past = []
    for turn in range(rounds):
        for topic in TOPICS[places]:
            query = f"{topic} {FILLER[turn % 7]}"
            shown = tuple(int(i) for i in device.index.candidates(query, 10)[0])
            known = [n for n, item in enumerate(shown) if item in length]
            best = max(known, key=lambda n: length[shown[n]])
            past.append(PastClick("me", query, shown, best, 0.0))
    return past


def taught(device: Device, rounds: int, **options: Any) -> None:
    device.add_documents(corpus())
    device.record(clicks(device, rounds, **options))
    while device.practise(64):
        pass


@pytest.fixture
def device(tmp_path: Path) -> Any:
    home = Home(tmp_path / "home")
    home.ensure()
    with Device(home, create_membership(home), SystemClock()) as device:
        yield device


@contextlib.asynccontextmanager
async def peer(home: Path, *, to: Node | None = None) -> AsyncIterator[Node]:
    if not (home / "key.pem").exists():
        await asyncio.to_thread(create_membership, Home(home), flock=FLOCK)
    peers = (f"{LOOPBACK}:{to.port}",) if to is not None else ()
    settings = NodeSettings(interfaces=(LOOPBACK,), is_mdns_on=False, gossip_s=0.0, peers=peers)
    async with Node(home, settings) as node:
        yield node


@contextlib.asynccontextmanager
async def pair(tmp_path: Path, *, is_gated: bool = False) -> AsyncIterator[tuple[Node, Node]]:
    """Two linked peers: b has clicks to judge by, a has learnt more. The gate may refuse honest models: off by default."""
    async with peer(tmp_path / "a") as a, peer(tmp_path / "b", to=a) as b:
        await a.owner.run(taught, a.device, 3)
        await b.owner.run(taught, b.device, 2)
        async with asyncio.timeout(10):
            while not (a.endpoint.links and b.endpoint.links):
                await asyncio.sleep(0.01)
        open_gate(b, is_gated=is_gated)
        yield a, b


def open_gate(node: Node, *, is_gated: bool = False) -> None:
    for model in node.device.lessons.rankers.models.values():
        model.gate.settings = GateSettings(is_blind=False, is_gated=is_gated)


async def ask(b: Node) -> dict[str, int]:
    (link,) = b.endpoint.links.values()
    return dict((await b.gossip.pull(link, "deltas")).outcomes)


async def given(a: Node, b: Node) -> tuple[bytes, ...]:
    """Return what a would answer if b asked now."""
    asked = await b.owner.run(b.device.lessons.ask, a.endpoint.party.identity.device_id)
    return (await a.owner.run(a.device.lessons.answer, asked)).frames


def held(node: Node, name: str = "linear") -> Parameters:
    return node.device.lessons.rankers.models[name].published()


async def test_a_peer_takes_the_models_of_another_and_keeps_them(tmp_path: Path) -> None:
    async with pair(tmp_path) as (a, b):
        before = {name: version_id(held(b, name)) for name in ("linear", "mlp")}
        sizes = [len(frame) for frame in await given(a, b)]
        assert sizes[0] < 512 and sizes[1] < 5_120
        assert await ask(b) == {"merged": 2}
        after = {name: version_id(held(b, name)) for name in ("linear", "mlp")}
        assert all(after[name] != before[name] for name in before)
        assert await ask(b) == {}, "nothing newer, nothing sent"
        status = await b.status()
        assert status.reranker["taken from peers"] == 2
        strength = b.device.lessons.rankers.models["linear"].strength

    def restart() -> None:
        with Device(Home(tmp_path / "b"), load_membership(Home(tmp_path / "b")), SystemClock()) as again:
            assert {n: version_id(m.published()) for n, m in again.lessons.rankers.models.items()} == after
            assert not any(m.strength for m in again.lessons.rankers.models.values()), "nothing is proved yet"
            while again.practise(64):
                pass
            assert (again.lessons.rankers.models["linear"].strength > 0) == (strength > 0)

    await asyncio.to_thread(restart)


async def test_the_next_delta_starts_from_the_version_that_the_peer_holds(tmp_path: Path) -> None:
    async with pair(tmp_path) as (a, b):
        first = version_id(held(a))
        await ask(b)
        await a.owner.run(taught, a.device, 1)
        sent = await given(a, b)
        assert open_frame(sent[0]).header["base"] == first
        assert await ask(b) == {"merged": 2}


async def test_a_peer_that_lost_its_store_is_heard_again(tmp_path: Path) -> None:
    async with pair(tmp_path) as (a, b):
        for _ in range(3):
            await a.owner.run(taught, a.device, 1)
        assert await ask(b) == {"merged": 2}
    for file in (tmp_path / "a").glob("state.db*"):
        file.unlink()
    async with peer(tmp_path / "b") as b, peer(tmp_path / "a", to=b) as a:
        await a.owner.run(taught, a.device, 1)
        async with asyncio.timeout(10):
            while not b.endpoint.links:
                await asyncio.sleep(0.01)
        open_gate(b)
        assert await ask(b) == {"merged": 2}


def forged(node: Node, change: Callable[[OnlineRanker], Parameters], **header: Any) -> Callable[[Any], Any]:
    """Answer as the peer does, but with other tensors (and header fields) under its own, right signature."""

    def answer(_: Any) -> DeltaAnswer:
        model = node.device.lessons.rankers.models["linear"]
        values = change(model)
        target = model.published()
        with np.errstate(invalid="ignore", over="ignore"):
            if values.keys() == model.start.keys() and values["weights"].shape == target["weights"].shape:
                target = {name: model.start[name] + values[name] for name in values}
        identity = node.endpoint.party.identity
        fields = {"round": 1 << 20, "base": version_id(model.start), "codec": "f32", "n": 1, **header}
        body = {"model": "linear", "version": version_id(target), "content": bytes(16)}
        return DeltaAnswer((seal(identity, "send", {**body, **values}, run=bytes(8), seq=1, **fields),))

    return answer


def _changed(model: OnlineRanker, value: float) -> Parameters:
    return {"weights": np.full(len(FEATURES), value, np.float32)}


HOSTILE: dict[str, tuple[Callable[[OnlineRanker], Parameters], dict[str, Any], str]] = {
    "wrong shape": (lambda m: {"weights": np.zeros(3, np.float32)}, {}, "schema"),
    "other tensors": (lambda m: {"other": np.zeros(15, np.float32)}, {}, "schema"),
    "huge norm": (lambda m: _changed(m, 500.0), {}, "norm"),
    "stale base": (lambda m: _changed(m, 0.1), {"base": b"x" * 16}, "base"),
    "replay": (lambda m: _changed(m, 0.1), {"round": 0}, "replay"),
    "wrong version": (lambda m: {"weights": np.zeros(len(FEATURES), np.float64)}, {}, "schema"),
}


async def test_hostile_models_are_refused_in_one_line_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with pair(tmp_path) as (a, b):
        before = version_id(held(b))
        for change, header, reason in HOSTILE.values():
            told = b.device.lessons.outcomes[reason]
            a.device.lessons.answer = forged(a, change, **header)  # type: ignore[method-assign]
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                assert await ask(b) == {"refused": 1}
            lines = [r.getMessage() for r in caplog.records if "model of peer" in r.getMessage()]
            assert len(lines) == 1
            assert f"refused ({reason})" in lines[0] and "\n" not in lines[0]
            assert b.device.lessons.outcomes[reason] == told + 1
        assert version_id(held(b)) == before


async def test_nan_damage_replay_and_strangers_are_refused(tmp_path: Path) -> None:
    async with pair(tmp_path) as (a, b):
        before = version_id(held(b))
        (sealed, _) = await given(a, b)
        frame, identity = open_frame(sealed), a.endpoint.party.identity
        fields = {"run": bytes(8), "seq": 9, "round": 1 << 30, "base": frame.header["base"], "codec": "f32"}

        async def refused(*frames: Any) -> None:
            a.device.lessons.answer = lambda _: DeltaAnswer(tuple(frames))  # type: ignore[method-assign]
            assert await ask(b) == {"refused": len(frames)}

        marked = pack_body({**frame.body, "weights": np.full(len(FEATURES), 1.0078125, np.float32)})
        poison = marked.replace(np.float32(1.0078125).tobytes(), np.float32(np.nan).tobytes())
        header = {"v": 1, "type": "send", "src": identity.public_key, **fields}
        await refused(
            _join(header, poison, identity)
        )  # right signature over NaN, which `seal` would not make
        await refused(sealed[:-1] + bytes([sealed[-1] ^ 1]))
        await refused(sealed[:-80] + bytes([sealed[-80] ^ 1]) + sealed[-79:])
        await refused(b"", b"7")
        await refused(
            seal(b.endpoint.party.identity, "send", frame.body, **fields)
        )  # signed by another than the peer
        assert version_id(held(b)) == before
        a.device.lessons.answer = lambda _: DeltaAnswer((sealed,))  # type: ignore[method-assign]
        assert await ask(b) == {"merged": 1}, "the control: untouched it is taken"
        await refused(sealed)  # a replay
        assert b.device.lessons.outcomes["replay"] == 1


@pytest.mark.parametrize("is_gated", [True, False])
async def test_a_poisoned_model_gets_in_only_without_the_gate(tmp_path: Path, is_gated: bool) -> None:
    async with pair(tmp_path) as (a, b):
        model = b.device.lessons.rankers.models["linear"]
        model.gate.settings = GateSettings(is_blind=False, is_gated=is_gated, is_clipped=is_gated)
        before, taste = (
            version_id(held(b)),
            float(model.ranker.parameters["weights"][FEATURES.index("length")]),
        )
        assert taste > 0, "the owner likes long documents"

        def poison(other: OnlineRanker) -> Parameters:
            weights = -4 * other.published()["weights"] - other.start["weights"]
            return {"weights": np.round(weights * 4096).astype(np.float32) / 4096}

        a.device.lessons.answer = forged(a, poison)  # type: ignore[method-assign]
        assert await ask(b) == ({"gate": 1} if is_gated else {"merged": 1})
        assert (version_id(held(b)) == before) == is_gated
        if not is_gated:
            assert model.ranker.parameters["weights"][FEATURES.index("length")] < 0, (
                "the control: it is poisoned"
            )


async def test_a_delta_from_an_unknown_base_is_fetched_whole(tmp_path: Path) -> None:
    async with pair(tmp_path) as (a, b):
        lessons = a.device.lessons
        target = held(a)
        shifted = {"weights": target["weights"] + np.float32(0.25)}
        delta = difference(target, shifted)
        whole = pack_body(target)
        lessons._contents[content_id(whole)] = whole
        body = {"model": "linear", "version": delta.version, "content": content_id(whole), **delta.values}
        identity = a.endpoint.party.identity
        sealed = seal(
            identity, "send", body, run=bytes(8), seq=1, round=99, base=delta.base, codec="f32", n=1
        )
        lessons.answer = lambda _: DeltaAnswer((sealed,))  # type: ignore[method-assign]
        assert await ask(b) == {"merged": 1}


async def test_a_peer_without_clicks_takes_nothing_on_trust(tmp_path: Path) -> None:
    async with peer(tmp_path / "a") as a, peer(tmp_path / "b", to=a) as b:
        await a.owner.run(taught, a.device, 1)
        async with asyncio.timeout(10):
            while not b.endpoint.links:
                await asyncio.sleep(0.01)
        before = version_id(held(b))
        assert await ask(b) == {"unjudged": 2}
        assert version_id(held(b)) == before
        assert not b.device.lessons.is_due


def test_learning_online_moves_the_order_only_when_it_explains_the_clicks(device: Device) -> None:
    device.add_documents(corpus())
    lessons = device.lessons
    text = [found.item_id for found in device.search("topic3 word9").found]
    device.record(clicks(device, 1)[:12])
    while device.practise():
        pass
    assert lessons.rankers.best is None, "twelve clicks prove nothing"
    assert [found.item_id for found in device.search("topic3 word9").found] == text
    taught(device, 4)
    best = lessons.rankers.best
    assert best is not None and best.strength > 0
    results = device.search("topic3 word9", is_explained=True)
    assert [found.item_id for found in results.found] != text
    length = {d.item_id: len(d.text) for d, _ in corpus()}
    assert length[results.found[0].item_id] > length[text[0]]
    why = {found.item_id: (found.why or {})["online"] for found in results.found}
    assert all(row["model"] == best.name and row["strength"] == best.strength for row in why.values())
    assert text[0] not in why or why[results.found[0].item_id]["moved"] > why[text[0]]["moved"]
    assert device.facts()["reranker"]["decides"] == best.name


def test_clicks_at_random_leave_the_order_to_the_text(device: Device) -> None:
    """The control of the test above: as many clicks, but on anything."""
    device.add_documents(corpus())
    rng = np.random.default_rng(0)
    past = [
        PastClick(one.person, one.query, one.shown, int(rng.integers(len(one.shown))), 0.0)
        for one in clicks(device, 4)
    ]
    device.record(past)
    while device.practise(64):
        pass
    strengths = [model.strength for model in device.lessons.rankers.models.values()]
    assert max(strengths) <= 0.25
    text = device.index.candidates("topic3 never", 1)[0]
    assert (
        next(iter(device.rank([("me", "topic3 never")], limit=1))).tolist() == text.tolist()
        or max(strengths) > 0
    )


def test_what_was_learnt_is_not_learnt_twice(device: Device) -> None:
    taught(device, 1)
    versions = {name: version_id(m.ranker.parameters) for name, m in device.lessons.rankers.models.items()}
    with Device(device.home, device.membership, SystemClock()) as again:
        while again.practise(64):
            pass
        assert {
            n: version_id(m.ranker.parameters) for n, m in again.lessons.rankers.models.items()
        } == versions
        assert (
            again.lessons.rankers.models["linear"].clicks
            == device.lessons.rankers.models["linear"].clicks
            == 18
        )


def test_a_list_without_a_click_is_told_only_where_a_click_was(device: Device) -> None:
    device.add_documents(corpus())
    device.search("topic1 word1")
    device.search("topic2 word2")
    assert len(device.log) == 0, "a query without a click stays here"
    device.click(device.search("topic1 word1").query_id, 2)
    assert len(device.log) == 1
    device.search("topic1 word1")
    device.search("topic2 word2")
    origin = device.identity_of("me").origin
    silent = [entry for entry in device.log.entries(origin) if entry.clicked == NO_CLICK]
    assert [entry.query for entry in silent] == ["topic1 word1"]
    assert len(device.log) == 2
    late = device.search("topic1 word1")
    device.click(late.query_id, 1)
    device.search("topic3 word3")
    assert len(device.log) == 3, "what was clicked is no silence"


def test_the_start_is_the_same_everywhere_and_ranks_as_bm25() -> None:
    matrix = np.random.default_rng(0).normal(size=(50, len(FEATURES))).astype(np.float32)
    for name in ("linear", "mlp"):
        one, other = OnlineRanker(name), OnlineRanker(name)
        assert version_id(one.start) == version_id(other.start)
        assert np.array_equal(one.scores(matrix), matrix[:, BM25])


@pytest.mark.parametrize(("trust", "outcome"), [(0.0, "distrusted"), (1.0, "merged")])
async def test_a_model_of_somebody_without_trust_is_not_merged(
    tmp_path: Path, trust: float, outcome: str
) -> None:
    async with pair(tmp_path) as (a, b):
        before = version_id(held(b))
        (sealed, _) = await given(a, b)
        rerankers, sender = b.device.lessons, a.membership.identity.device_id
        assert await b.owner.run(lambda: rerankers.receive(sealed, sender, trust=trust)) == outcome
        assert (version_id(held(b)) == before) == (trust == 0.0)
