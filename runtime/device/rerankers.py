"""What the rerankers of this device learn from the clicks of its people, and what it gives to and takes from peers.

A model travels as a delta: an author message `send`, signed by the device, with the version it starts from (`base`), the
version it leads to, its `round` (grows with every version that is given away) and the tensors of the difference. A peer
asks (`flocklet.device.delta_feed`) and says which version of ours it holds. The base is that version, or the start
that everybody shares; whoever lacks it fetches the whole by its content id (`get`). Before a model touches ours it must be
signed by the peer itself, be newer than what it sent before, have our tensors, be finite and of sane size, lead to the
version it names, and pass clip and gate (`flocklet.models.search.rerank.gate`).

State: the exact parameters under `meta`, versions given away and peers' newest ones under `models`; a click counts as
learnt in the same transaction that keeps what it taught, so a crash neither loses nor doubles it. Errors: WireError (with
the `reason` that is counted), StoreError.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from flocklet.clock import Clock
from flocklet.errors import SchemaMismatch, WireError
from flocklet.events.click import NO_CLICK, ClickEntry
from flocklet.events.click_log import ClickLog
from flocklet.events.delta_sync import DeltaAnswer, DeltaQuestion
from flocklet.identity.key import Identity, short_id
from flocklet.models.base import Delta, Parameters, apply_delta, difference, schema_hash, version_id
from flocklet.models.search.rerank.gate import GateSettings
from flocklet.models.search.rerank.online import HELD, MODELS, Impression, OnlineRanker, OnlineRankers
from flocklet.models.search.rerank.pdgd import check_parameters
from flocklet.store.store import Store
from flocklet.wire.body import Limits, pack_body, unpack_body
from flocklet.wire.frame import Frame, content_id, open_frame, seal

__all__ = ["MODEL_LIMITS", "Lessons", "StaleBase"]

_log = logging.getLogger("flocklet.device")

MODEL_LIMITS = Limits(max_bytes=64 * 1024, max_elements=1 << 14)
_KEPT_VERSIONS = 8
_KEPT_PEERS = 64
_CATCH_UP = 500  # clicks of the past that are still learnt from after an import
_HISTORY = 48  # impressions that judge again after a restart
_EXCHANGE_CLICKS = 5  # Oosterhuis' peers of the study exchange as often
_MOST_SIZE = 64.0
_MOST_ROUND = 1 << 48
_CODEC = "f32"

ImpressionOf = Callable[[ClickEntry], Impression | None]


class StaleBase(WireError):
    """Report a delta from a version that is not here; `content` names the whole model, `frame` came with it."""

    def __init__(self, frame: Frame) -> None:
        super().__init__(
            f"the delta starts from a version that is not here: {frame.header['base'].hex()}", reason="base"
        )
        self.frame = frame
        self.content: bytes = frame.body["content"]


class Lessons:
    """The online rerankers of one device: learn, keep, give away, take in."""

    def __init__(
        self, store: Store, clock: Clock, identity: Identity, settings: GateSettings | None = None
    ) -> None:
        self.rankers = OnlineRankers(settings)
        self.outcomes: Counter[str] = Counter()
        self._store = store
        self._clock = clock
        self._identity = identity
        self._run = secrets.token_bytes(8)
        self._seq = 0
        self._rounds = dict.fromkeys(MODELS, 0)
        self._heard: dict[str, int] = {}  # "model author" -> newest round
        self._marks: dict[str, int] = {}  # origin -> number of the last entry learnt from
        self._contents: dict[bytes, bytes] = {}
        self._again: list[ClickEntry] | None = None
        self._since = 0
        self._last_s = 0.0
        self._load()

    def refuse(self, device_id: bytes, error: WireError) -> None:
        """Count and log, in one line, that a peer's model is not taken."""
        self.outcomes[error.reason] += 1
        _log.warning("a model of peer %s is refused (%s): %s", short_id(device_id), error.reason, error)

    # -- learn --

    def practise(
        self, log: ClickLog, origins: Iterable[bytes], impression_of: ImpressionOf, limit: int = 4
    ) -> int:
        """Learn from at most `limit` clicks of our people that were not learnt from yet; return how many were used.

        After a restart the impressions set aside come first, so that peers' models can be judged again.
        """
        people = sorted(origins)
        used = self._remember_again(log, people, impression_of, limit)
        todo = self._pending(log, people, limit - used)
        if not todo:
            return used
        for entry in todo:
            self._marks[entry.origin.hex()] = entry.seq
            one = impression_of(entry)
            if one is not None:
                self.rankers.learn(one, is_held=entry.seq % HELD == 0)
                self._since += 1
        self._save()
        return used + len(todo)

    def _pending(self, log: ClickLog, people: list[bytes], limit: int) -> list[ClickEntry]:
        todo: list[ClickEntry] = []
        for origin in people:
            last, mark = log.next_seq(origin) - 1, self._marks.get(origin.hex(), 0)
            if last > mark and len(todo) < limit:
                floor = max(mark, last - _CATCH_UP)
                fresh = (e for e in log.entries(origin) if e.seq > floor)
                todo += [e for e, _ in zip(fresh, range(limit - len(todo)), strict=False)]
        return todo

    def _remember_again(
        self, log: ClickLog, people: list[bytes], impression_of: ImpressionOf, limit: int
    ) -> int:
        if self._again is None:
            held = [
                e
                for origin in people
                for e in log.entries(origin)
                if e.seq % HELD == 0 and e.clicked != NO_CLICK and e.seq <= self._marks.get(origin.hex(), 0)
            ]
            self._again = sorted(held, key=lambda e: (-e.ts, e.origin, -e.seq))[:_HISTORY]
        used = 0
        while self._again and used < limit:
            used += 1
            one = impression_of(self._again.pop())
            if one is not None:
                self.rankers.learn(one, is_held=True)
        return used

    @property
    def is_due(self) -> bool:
        """Whether enough was learnt since the last exchange of models to ask a peer for its."""
        return self._since >= _EXCHANGE_CLICKS

    # -- give --

    def ask(self, device_id: bytes) -> DeltaQuestion:
        """Return the question for a peer's models: name, version and round that we hold of each."""
        self._since = 0
        held = [self._store.newest_model(_of_peer(name, device_id)) for name in MODELS]
        rounds = tuple(self._heard.get(f"{name} {device_id.hex()}", 0) for name in MODELS)
        return DeltaQuestion(tuple(MODELS), tuple(row[0] if row else b"" for row in held), rounds)

    def answer(self, request: DeltaQuestion) -> DeltaAnswer:
        """Answer with signed deltas of what is newer here; raise WireError for columns of different lengths."""
        try:
            rows = list(zip(request.name, request.version, request.round, strict=True))
        except ValueError as error:
            raise WireError("a question for deltas has torn rows", reason="field") from error
        sealed = [self._sealed(*row) for row in rows if row[0] in MODELS]
        return DeltaAnswer(tuple(frame for frame in sealed if frame is not None))

    def _sealed(self, name: str, held: bytes, known: int) -> bytes | None:
        model = self.rankers.models[name]
        if not self._rounds[name]:
            return None  # nothing learnt yet
        target = model.published()
        version = version_id(target)
        if version == held:
            return None
        if known >= self._rounds[name]:  # a store that was lost and made anew counts on from where peers are
            if known >= _MOST_ROUND:
                return None
            self._rounds[name] = known + 1
            self._save()
        base = self._model(held, model) if held else None
        delta = difference(target, base if base is not None else model.start)
        whole = pack_body(target)
        self._contents = {**dict(list(self._contents.items())[-_KEPT_VERSIONS:]), content_id(whole): whole}
        self._seq += 1
        body = {"model": name, "version": delta.version, "content": content_id(whole), **delta.values}
        return seal(
            self._identity, "send", body,
            run=self._run, seq=self._seq, round=self._rounds[name], base=delta.base, codec=_CODEC, n=model.clicks,
        )  # fmt: skip

    def size(self, id: bytes) -> int | None:
        """Return the size of a whole model that was offered, for `flocklet.link.transfer.ContentServer`.

        Like `read` it may be called from any thread: what is offered is replaced as a whole, never changed.
        """
        whole = self._contents.get(id)
        return None if whole is None else len(whole)

    def read(self, id: bytes, offset: int, count: int) -> bytes:
        """Return bytes of a whole model that was offered."""
        return self._contents[id][offset : offset + count]

    # -- take --

    def receive(self, sealed: bytes, device_id: bytes, *, trust: float = 1.0, quorum: int = 1) -> str:
        """Take in the model in an author message of the peer `device_id`; return the outcome of the gate.

        Raises StaleBase when only the whole model can help (`receive_whole`), WireError for everything that no honest
        peer sends; then nothing changed.
        """
        frame = self._opened(sealed, device_id)
        model = self.rankers.models[frame.body["model"]]
        values = {
            key: value for key, value in frame.body.items() if key not in ("model", "version", "content")
        }
        check_parameters(values, model.start)
        base = self._model(frame.header["base"], model)
        if base is None:
            raise StaleBase(frame)
        parameters = apply_delta(base, Delta(frame.header["base"], frame.body["version"], values))
        return self._taken(frame, parameters, trust, quorum)

    def receive_whole(self, frame: Frame, data: bytes, *, trust: float = 1.0, quorum: int = 1) -> str:
        """Take in the whole model that a `StaleBase` named; raises WireError unless it is the version it should be."""
        body = unpack_body(data, MODEL_LIMITS)
        check_parameters(body, self.rankers.models[frame.body["model"]].start)
        if version_id(body) != frame.body["version"]:
            raise WireError("the whole model is not the version that was offered", reason="version")
        return self._taken(frame, body, trust, quorum)

    def _opened(self, sealed: bytes, device_id: bytes) -> Frame:
        frame = open_frame(sealed, MODEL_LIMITS)
        if frame.type != "send" or frame.author != device_id:
            raise WireError("a model is not signed by the peer that sends it", reason="author")
        body, header = frame.body, frame.header
        if body.get("model") not in MODELS or header.get("codec") != _CODEC:
            raise SchemaMismatch(f"there is no model {str(body.get('model'))[:32]!r} here")
        for name, value in (
            ("version", body.get("version")),
            ("content", body.get("content")),
            ("base", header.get("base")),
        ):
            if type(value) is not bytes or len(value) != 16:
                raise WireError(f"a model does not say its {name}", reason=name)
        if (
            not self._heard.get(f"{body['model']} {device_id.hex()}", 0)
            < header.get("round", 0)
            < 2 * _MOST_ROUND
        ):
            raise WireError("a model is no newer than what the peer sent before", reason="replay")
        return frame

    def _taken(self, frame: Frame, parameters: Parameters, trust: float, quorum: int) -> str:
        name = frame.body["model"]
        model = self.rankers.models[name]
        far, size = _norm(difference(parameters, model.start).values), _norm(model.start)
        if far > _MOST_SIZE * (1 + size):
            raise WireError(f"a model is {far:.3g} away from where all start", reason="norm")
        own = version_id(model.published())
        outcome = (
            "distrusted"
            if trust <= 0
            else model.gate.receive(frame.author, parameters, trust=trust, quorum=quorum)
        )
        self.outcomes[outcome] += 1
        if outcome == "unjudged":  # taken when there are clicks to judge it by
            return outcome
        key = f"{name} {frame.author.hex()}"
        self._heard.pop(key, None)
        self._heard[key] = frame.header["round"]
        self._heard = dict(list(self._heard.items())[-2 * _KEPT_PEERS :])
        with self._store.transaction():
            label = _of_peer(name, frame.author)
            self._store.add_model(
                frame.body["version"], label, schema_hash(parameters), frame.header["base"],
                pack_body(parameters), self._now_s(),
            )  # fmt: skip
            self._store.prune_models(label, 1)
            if version_id(model.published()) != own:
                model.measure()
            self._save()
        return outcome

    # -- keep --

    def facts(self) -> dict[str, Any]:
        """Return what `status` shows."""
        best = self.rankers.best
        found: dict[str, Any] = {"decides": best.name if best else "text"}
        for name, model in self.rankers.models.items():
            found[name] = (
                f"{model.clicks} clicks, {len(model.gate.history)} set aside, strength {model.strength:g}, "
                f"version {version_id(model.published()).hex()[:12]}"
            )
        merged = self.outcomes["merged"] + self.outcomes["waiting"]
        refused = {
            reason: count
            for reason, count in sorted(self.outcomes.items())
            if reason not in ("merged", "waiting")
        }
        return found | {"taken from peers": merged, **{f"not taken, {why}": n for why, n in refused.items()}}

    def _model(self, version: bytes, model: OnlineRanker) -> Parameters | None:
        """Return a version that is held here, None when it is not."""
        if version == version_id(model.start):
            return model.start
        body = self._store.model(version)
        if body is None:
            return None
        values = unpack_body(body, MODEL_LIMITS)
        return values if values.keys() == model.start.keys() else None

    def _now_s(self) -> float:
        self._last_s = max(
            self._clock.time(), self._last_s + 1e-3
        )  # the newest row must be told from the one before
        return self._last_s

    def _save(self) -> None:
        with self._store.transaction():
            for name, model in self.rankers.models.items():
                version, label = version_id(model.published()), f"reranker {name}"
                newest = self._store.newest_model(label)
                if version != (newest[0] if newest else version_id(model.start)):
                    self._rounds[name] += 1
                    schema, whole = schema_hash(model.start), pack_body(model.published())
                    base = newest[0] if newest else version_id(model.start)
                    self._store.add_model(version, label, schema, base, whole, self._now_s())
                    self._store.prune_models(label, _KEPT_VERSIONS)
                kept = {
                    "round": self._rounds[name],
                    "clicks": model.clicks,
                    "merged": model.gate.outcomes["merged"],
                }
                self._store.set_meta(label, pack_body({**kept, **model.ranker.parameters}))
            self._store.set_meta("reranker marks", pack_body({"marks": self._marks, "heard": self._heard}))

    def _load(self) -> None:
        limits = Limits(max_bytes=1 << 20)
        try:
            marks = self._store.get_meta("reranker marks")
            if not marks:
                return
            body = unpack_body(marks, limits)
            self._marks, self._heard = dict(body["marks"]), dict(body["heard"])
            for name, model in self.rankers.models.items():
                kept = unpack_body(self._store.get_meta(f"reranker {name}"), limits)
                self._rounds[name], model.clicks = kept.pop("round"), kept.pop("clicks")
                model.gate.outcomes["merged"] = kept.pop("merged")
                model.ranker.load(kept)
        except (
            WireError,
            KeyError,
            TypeError,
            AttributeError,
        ):  # another version of flocklet wrote it: learn anew
            self.rankers, self._marks = OnlineRankers(), {}


def _of_peer(name: str, device_id: bytes) -> str:
    return f"reranker {name} of {device_id.hex()}"


def _norm(values: Parameters) -> float:
    return float(np.sqrt(sum(float((value.astype(np.float64) ** 2).sum()) for value in values.values())))
