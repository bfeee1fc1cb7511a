"""Answer what people type over the owner's documents: what may be found, what is shown as one, and what is shown of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from flocklet.clock import Clock
from flocklet.device.results import Hit, Twin
from flocklet.errors import UsageError
from flocklet.models.search.index.asked import Asked
from flocklet.models.search.index.asking import ask, phrase_pattern, place_in
from flocklet.models.search.index.index import Index
from flocklet.models.search.index.passage import passage_of
from flocklet.models.search.index.query import Query, parse_query
from flocklet.models.search.index.spelling import Speller
from flocklet.models.search.index.text import normalise
from flocklet.models.search.index.twins import TWIN, are_translations, resemblance, shingles
from flocklet.store.documents import StoredDocument
from flocklet.store.store import Store

__all__ = ["Asker", "Question", "Shown"]

_PHRASE_TEXTS = 1_000
_PHRASE_CHARACTERS = 20_000_000
_KEPT_SHINGLES = 2_000
_LINED = frozenset(("", "text", "code", "markdown", "rst", "csv"))
_WORDS_CHANGED = 8  # a table of words is made anew when an eighth more have come


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Hold a query, what it asks of the index (None: its plain words), and what to tell about the answer."""

    query: Query
    asked: Asked | None
    note: str = ""

    @property
    def has_words(self) -> bool:
        """Tell whether anything in it scores."""
        return bool(self.query.scored.strip() or self.query.prefixes)


@dataclass(slots=True)
class Shown:
    """One result and those that say the same."""

    document: StoredDocument
    place: int  # among all that were ranked
    twins: list[StoredDocument] = field(default_factory=list)


class Asker:
    """Read queries and show documents; raises StoreError when the store cannot be used."""

    def __init__(self, index: Callable[[], Index], store: Store, clock: Clock) -> None:
        self._index = index
        self._store = store
        self._clock = clock
        self._speller: Speller | None = None
        self._shingles: dict[int, NDArray[np.uint64]] = {}

    def question(self, text: str) -> Question:
        """Return what `text` asks; raise UsageError when it only says what is not wanted."""
        today = datetime.fromtimestamp(self._clock.time(), UTC).date()
        query = parse_query(text, today)
        wanted = query.scored.strip() or query.prefixes or any(not f.is_excluded for f in query.fields)
        if not wanted:
            raise UsageError(
                "the query says only what is not wanted",
                remedy="add a word that is: flocklet search WORD -OTHER",
            )
        index = self._index()
        allowed = None
        if query.fields:
            allowed = index.numbers_of(
                self._store.document_ids_with([(f.name, f.value, f.is_excluded) for f in query.fields])
            )
        asked = ask(index, query, self._spelling, allowed)
        if asked is None or not (query.phrases or query.excluded_phrases):
            return Question(query, asked)
        return self._with_phrases(query, asked)

    def _spelling(self) -> Speller:
        surface = self._index().analysis.surface
        if self._speller is None or len(surface) - self._speller.size > self._speller.size // _WORDS_CHANGED:
            self._speller = Speller(surface)
        return self._speller

    def _with_phrases(self, query: Query, asked: Asked) -> Question:
        """Look in the texts, best first, for the phrases, so far as time allows."""
        index = self._index()
        wanted = [phrase_pattern(index, phrase) for phrase in query.phrases]
        unwanted = [phrase_pattern(index, phrase) for phrase in query.excluded_phrases]
        ids, _ = index.candidates(query.text, len(index), asked)
        kept, characters, note = [], 0, ""
        for at, item in enumerate(ids.tolist()):
            if at == _PHRASE_TEXTS or characters > _PHRASE_CHARACTERS:
                note = f"the phrase was looked for in the best {at} documents"
                break
            stored = self._store.document(item)
            if stored is None:
                continue
            text = normalise(f"{stored.title}\n{stored.text}")
            characters += len(text)
            if all(p.search(text) for p in wanted) and not any(p.search(text) for p in unwanted):
                kept.append(item)
        found = Asked(asked.groups, asked.factors, index.numbers_of(kept), asked.corrected)
        return Question(query, found, note)

    def without_words(self, question: Question) -> NDArray[np.uint64]:
        """Return the ids of a question that has fields only, newest first."""
        assert question.asked is not None and question.asked.allowed is not None  # noqa: S101 - fields make a mask
        index = self._index()
        ids = index.parts[4].ids[question.asked.allowed & index.parts[4].alive]
        return np.array(self._store.newest_first(ids.tolist()), np.uint64)

    def folded(self, ids: Sequence[int], *, is_folded: bool) -> Iterator[Shown]:
        """Yield the documents in order; one that says the same as an earlier one becomes its twin."""
        shown: list[Shown] = []
        for place, item in enumerate(ids):
            document = self._store.document(item)
            if document is None:  # taken out by another process between two calls
                continue
            leader = (
                next((s for s in shown if self._is_twin(s.document, document)), None) if is_folded else None
            )
            if leader is not None:
                leader.twins.append(document)
                continue
            shown.append(Shown(document, place))
            yield shown[-1]

    def _is_twin(self, one: StoredDocument, other: StoredDocument) -> bool:
        sizes = (len(one.text), len(other.text))
        is_pair = bool(one.path and other.path) and all(sizes) and one.member == other.member
        if is_pair and are_translations(
            (one.path or "", other.path or ""), (one.language, other.language), sizes
        ):
            return True
        return resemblance(self._runs(one), self._runs(other)) >= TWIN

    def _runs(self, document: StoredDocument) -> NDArray[np.uint64]:
        runs = self._shingles.get(document.item_id)
        if runs is None:
            if len(self._shingles) >= _KEPT_SHINGLES:
                self._shingles.clear()
            runs = self._shingles[document.item_id] = shingles(document.text)
        return runs

    def hit(
        self, shown: Shown, rank: int, question: Question, score: float, votes: float, text: float
    ) -> Hit:
        """Return what is shown of one document: the best passage, with the page or line it stands on."""
        it = shown.document
        place, rarity = place_in(self._index(), question.asked, question.query, it.language)
        passage = passage_of(it.text, place, rarity)
        part = next((label for start, label in reversed(it.parts) if start <= passage.start), "")
        line = it.text.count("\n", 0, passage.start) + 1 if it.kind in _LINED and it.path else 0
        twins = tuple(Twin(t.title or t.key, t.path, t.language) for t in shown.twins)
        where = it.path if not it.member or it.path is None else f"{it.path}!{it.member}"
        return Hit(
            rank, it.item_id, it.title or it.key, where, passage.text, votes, text, score,
            spans=passage.spans, part=part, line=line, twins=twins,
        )  # fmt: skip
