"""The text index: exact against brute force, equal to a fresh build after any changes, kept and read back."""

from __future__ import annotations

import math
from collections import Counter
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flocklet.errors import StoreError
from flocklet.events.item import Document, item_id_of
from flocklet.models.search.index.index import Index
from flocklet.models.search.index.text import tokenize
from flocklet.models.search.index.topk import lower_bound

WORDS = [f"w{n}" for n in range(12)]
TEXTS = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 9), TEXTS),
        st.tuples(st.just("remove"), st.integers(0, 9), st.just("")),
        st.tuples(st.just("remove many"), st.integers(0, 9), st.just("")),
        st.tuples(st.just("compact"), st.just(0), st.just("")),
        st.tuples(st.just("bulk"), st.integers(0, 9), TEXTS),
    ),
    max_size=25,
)


def brute_force(
    documents: dict[int, str], query: str, *, k1: float = 1.2, b: float = 0.75
) -> dict[int, float]:
    """BM25 written down from its definition, one document and one word at a time, in double precision."""
    counts = {item: Counter(tokenize(text)) for item, text in documents.items()}
    mean = sum(sum(count.values()) for count in counts.values()) / max(len(counts), 1)
    scores: dict[int, float] = {}
    for term in tokenize(query):
        df = sum(term in count for count in counts.values())
        idf = math.log(1 + (len(counts) - df + 0.5) / (df + 0.5))
        for item, count in counts.items():
            if term in count:
                length = sum(count.values())
                norm = k1 * (1 - b + b * length / mean)
                scores[item] = scores.get(item, 0.0) + idf * count[term] * (k1 + 1) / (count[term] + norm)
    return scores


def filled(documents: dict[int, str]) -> Index:
    index = Index()
    for item, text in documents.items():
        index.add(item, "", text)
    return index


def zipf_texts(count: int, seed: int, *, vocabulary: int = 300, longest: int = 30) -> list[str]:
    rng = np.random.default_rng(seed)
    shares = 1 / np.arange(1, vocabulary + 1)
    texts = []
    for _ in range(count):
        drawn = rng.choice(vocabulary, rng.integers(0, longest), p=shares / shares.sum())
        texts.append(" ".join(f"w{n}" for n in drawn))
    return texts


def assert_same(one: Index, other: Index, queries: list[str], k: int = 10) -> None:
    """Both indexes give the same ids in the same order with the same bits."""
    for query in queries:
        ids, scores = one.candidates(query, k)
        other_ids, other_scores = other.candidates(query, k)
        assert ids.tolist() == other_ids.tolist()
        assert scores.tobytes() == other_scores.tobytes()


@given(st.dictionaries(st.integers(0, 2**64 - 1), TEXTS, max_size=12), TEXTS, st.integers(1, 15))
def test_scores_and_order_are_those_of_the_definition(documents: dict[int, str], query: str, k: int) -> None:
    expected = brute_force(documents, query)
    ids, scores = filled(documents).candidates(query, k)
    assert len(ids) == min(k, len(expected))
    for item, score in zip(ids.tolist(), scores.tolist(), strict=True):
        assert score == pytest.approx(expected[item], rel=1e-5)
    kept = set(ids.tolist())
    if kept and len(kept) < len(expected):
        assert max(score for item, score in expected.items() if item not in kept) <= scores[-1] * (1 + 1e-5)


@settings(max_examples=60)
@given(CHANGES, st.lists(TEXTS, min_size=1, max_size=4))
def test_after_any_changes_scores_equal_a_fresh_build_to_the_bit(
    changes: list[tuple[str, int, str]], queries: list[str]
) -> None:
    index = Index()
    documents: dict[int, str] = {}
    for what, item, text in changes:
        if what == "add":
            index.add(item, "", text)
            documents[item] = text
        elif what == "remove":
            assert index.remove(item) == (item in documents)
            documents.pop(item, None)
        elif what == "remove many":
            gone = [item, item + 1, item + 30, item]
            assert index.remove_many(gone) == len(documents.keys() & set(gone))
            for one in gone:
                documents.pop(one, None)
        elif what == "compact":
            index.compact()
        else:  # enough documents, some of one id, to take the bulk road
            batch = [Document(item + n % 70, "", "", f"{text} w{n % 5}") for n in range(75)]
            index.add_many(batch)
            documents.update({document.item_id: document.text for document in batch})
        index.candidates(queries[0], 3)  # weights computed in between must not outlive the change
    fresh = Index()
    fresh.add_many(Document(item, "", "", text) for item, text in documents.items())
    assert len(index) == len(fresh) == len(documents)
    assert index.ids.tolist() == sorted(documents)
    assert_same(index, fresh, queries)
    assert_same(index, filled(documents), queries)


@pytest.mark.parametrize("k", [1, 10, 50, 3000])
def test_many_documents_dense_rows_and_group_bound_are_exact(k: int) -> None:
    texts = zipf_texts(2500, 7)
    index = Index()
    index.add_many(Document(n, "", "", text) for n, text in enumerate(texts[:2000]))
    for n in range(2000, 2500):  # base and delta together
        index.add(n, "", texts[n])
    for n in range(0, 2500, 9):
        index.remove(n)
    documents = {n: text for n, text in enumerate(texts) if n % 9}
    for query in ("w0 w1 w250", "w299", "w3 w3 w17", "w0"):
        expected = brute_force(documents, query)
        best = sorted(expected.values(), reverse=True)[:k]
        ids, scores = index.candidates(query, k)
        assert scores.tolist() == pytest.approx(best, rel=1e-5)
        assert all(
            expected[item] == pytest.approx(score, rel=1e-5)
            for item, score in zip(ids.tolist(), scores, strict=True)
        )
        order = list(zip((-scores).tolist(), ids.tolist(), strict=True))
        assert order == sorted(order)  # equal scores by ascending id


@given(
    st.lists(st.floats(0, 100, width=32), min_size=1, max_size=400),
    st.integers(1, 20),
)
def test_lower_bound_never_exceeds_the_kth_score(values: list[float], k: int) -> None:
    scores = np.zeros(-(-len(values) // 64) * 64, np.float32)
    scores[: len(values)] = values
    bound = lower_bound(scores, k)
    assert bound > 0
    positive = np.sort(scores[scores > 0])[::-1]
    assert (scores >= bound).sum() >= min(k, (positive >= np.finfo(np.float32).tiny).sum())


def test_an_added_document_is_found_at_once_and_a_removed_one_never_again() -> None:
    index = Index()
    index.add_many(Document(n, "", "", "common words here") for n in range(500))
    index.add(1000, "Fresh", "a zebra")
    assert index.candidates("zebra", 5)[0].tolist() == [1000]
    assert index.remove(1000)
    assert not index.remove(1000)
    assert index.candidates("zebra", 5)[0].tolist() == []
    assert index.remove(7)
    assert 7 not in index.candidates("common", 1000)[0].tolist()
    index.compact()
    assert len(index) == 499
    assert index.terms == len(set(tokenize("common words here")))


def test_the_same_id_again_replaces_the_document() -> None:
    index = Index()
    index.add(5, "old", "penguin")
    index.add(5, "new", "walrus")
    assert len(index) == 1
    assert index.candidates("penguin", 5)[0].tolist() == []
    assert index.candidates("walrus", 5)[0].tolist() == [5]
    index.add_many([Document(5, "", "", f"version{n}") for n in range(100)])
    assert len(index) == 1
    assert index.candidates("version99", 5)[0].tolist() == [5]
    assert index.candidates("version98 walrus", 5)[0].tolist() == []


def test_a_repeated_query_word_counts_again_and_title_words_count() -> None:
    index = Index()
    index.add(1, "Falcon", "bird of prey")
    index.add(2, "", "prey")
    once, twice = index.candidates("falcon", 5)[1][0], index.candidates("falcon falcon", 5)[1][0]
    assert twice == pytest.approx(2 * once)
    assert index.candidates("falcon", 5)[0].tolist() == [1]


@pytest.mark.parametrize("query", ["", "   ", "the of and", "unknownword", "?!", "\0"])
def test_a_query_without_known_words_finds_nothing(query: str) -> None:
    index = Index()
    index.add(1, "a title", "some text")
    for asked in (index, Index()):
        ids, scores = asked.candidates(query, 10)
        assert (ids.dtype, scores.dtype, len(ids), len(scores)) == (np.uint64, np.float32, 0, 0)
    assert index.matches(query).tolist() == []
    assert index.explain(query, 1) == {}


def test_empty_documents_change_the_mean_length_and_nothing_else() -> None:
    documents = {1: "wing flow", 2: "", 3: "flow flow heat", 4: ""}
    index = filled(documents)
    ids, scores = index.candidates("flow", 10)
    expected = brute_force(documents, "flow")
    assert set(ids.tolist()) == {1, 3}
    assert scores.tolist() == pytest.approx(sorted(expected.values(), reverse=True), rel=1e-5)
    only_empty = filled({1: "", 2: ""})
    assert len(only_empty) == 2
    assert only_empty.candidates("flow", 3)[0].tolist() == []


def test_explain_adds_up_to_the_score() -> None:
    texts = zipf_texts(300, 3)
    index = Index()
    index.add_many(Document(n, "", "", text) for n, text in enumerate(texts))
    index.add(300, "", "w1 w2 w2 w50")
    ids, scores = index.candidates("w1 w2 w2 w50 nothing", 300)
    for item, score in zip(ids.tolist(), scores.tolist(), strict=True):
        parts = index.explain("w1 w2 w2 w50 nothing", item)
        assert sum(parts.values()) == pytest.approx(score, rel=1e-5)
        assert set(parts) <= {"w1", "w2", "w50"}
    assert 300 in ids.tolist()
    assert index.explain("w1", 10**6) == {}


def test_matches_all_or_any_words() -> None:
    index = filled({1: "red car", 2: "red bicycle", 3: "green car"})
    assert index.matches("red car").tolist() == [1]
    assert index.matches("red car", every=False).tolist() == [1, 2, 3]
    assert index.matches("red submarine").tolist() == []
    assert index.matches("red submarine", every=False).tolist() == [1, 2]
    index.remove(1)
    assert index.matches("red cars").tolist() == []
    assert index.matches("cars").tolist() == [3]


def test_what_is_kept_comes_back_and_goes_on(tmp_path: object) -> None:
    texts = zipf_texts(400, 5)
    index = Index()
    index.add_many(Document(n, "", "", text) for n, text in enumerate(texts))
    index.remove(3)
    arrays = index.to_arrays()
    for values in arrays.values():
        assert isinstance(values, np.ndarray)
        assert values.dtype != object
        values.setflags(write=False)  # as if mapped from a file
    again = Index.from_arrays(arrays)
    queries = ["w0", "w1 w5 w200", "w7 w7"]
    assert_same(index, again, queries)
    for one in (index, again):
        one.add(999, "", "w5 w5 fresh")
        one.remove(10)
    assert_same(index, again, [*queries, "fresh"])
    assert len(again) == 399


def test_the_arrays_do_not_depend_on_how_documents_came() -> None:
    documents = dict(enumerate(zipf_texts(200, 9)))
    single = filled(documents)
    bulk = Index()
    bulk.add_many(Document(n, "", "", text) for n, text in documents.items())
    one, other = single.to_arrays(), bulk.to_arrays()
    assert {name: values.tobytes() for name, values in one.items()} == {
        name: values.tobytes() for name, values in other.items()
    }


def damages() -> list[tuple[str, object]]:
    def set_to(name: str, change: object) -> object:
        def damage(arrays: dict[str, np.ndarray]) -> None:
            arrays[name] = change(arrays[name].copy())  # type: ignore[operator]

        return damage

    def at(place: int, value: int) -> object:
        def change(values: np.ndarray) -> np.ndarray:
            values[place] = value
            return values

        return change

    return [
        ("format", set_to("format", at(0, 99))),
        ("no docs", lambda arrays: arrays.pop("docs")),
        ("docs cut", set_to("docs", lambda values: values[:-1])),
        ("doc outside", set_to("docs", at(0, 10**6))),
        ("doc negative", set_to("docs", at(0, -1))),
        ("docs not ascending", set_to("docs", lambda values: values[::-1].copy())),
        ("starts falling", set_to("starts", at(1, 10**9))),
        ("term ends", set_to("term_ends", at(-1, 3))),
        ("not utf-8", set_to("terms", lambda values: np.full_like(values, 255))),
        ("wrong type", set_to("ids", lambda values: values.astype(np.float64))),
        ("two equal ids", set_to("ids", lambda values: np.zeros_like(values))),
        ("negative length", set_to("lengths", at(0, -4))),
        ("shape", set_to("docs", lambda values: values.reshape(-1, 1))),
        ("parameters", set_to("parameters", at(0, -3))),
        ("frequencies", set_to("frequencies", lambda values: values[:-2])),
    ]


@pytest.mark.parametrize("damage", [pytest.param(change, id=name) for name, change in damages()])
def test_damaged_arrays_are_refused_with_a_remedy(damage: object) -> None:
    index = Index()
    index.add_many(Document(n, "", "", text) for n, text in enumerate(zipf_texts(100, 2)))
    arrays = dict(index.to_arrays())
    Index.from_arrays(arrays)
    damage(arrays)  # type: ignore[operator]
    with pytest.raises(StoreError, match="stored search index") as caught:
        Index.from_arrays(arrays)
    assert "built anew" in caught.value.remedy


def test_a_failing_source_keeps_whole_chunks_and_a_usable_index() -> None:
    def source() -> object:
        for n in range(1500):
            yield Document(n, "", "", f"common w{n}")
        raise OSError("the disk went away")

    index = Index()
    with pytest.raises(OSError, match="disk"):
        index.add_many(source())  # type: ignore[arg-type]
    assert len(index) == 1024
    assert index.candidates("w1000", 3)[0].tolist() == [1000]
    with pytest.raises(OverflowError):
        index.add_many([Document(-1, "", "", "bad")] * 100)
    with pytest.raises(OverflowError):
        index.add(2**64, "", "bad")
    assert len(index) == 1024
    assert_same(index, filled({n: f"common w{n}" for n in range(1024)}), ["w5 common", "bad"])


def test_the_index_compacts_itself_only_when_the_delta_has_doubled_it() -> None:
    index = Index()
    index.add_many(Document(n, "", "", f"common w{n}") for n in range(4000))
    base = index._base
    for n in range(4000, 4400):
        index.add(n, "", f"common w{n}")
    for n in range(4400, 4600):
        index.add(n, "", f"common w{n}")
    assert index._base is base  # one more document never pays for a merge of everything
    index.compact()
    base = index._base
    index.add_many(Document(n, "", "", "one small batch") for n in range(9000, 9100))
    assert index._base is base  # nor does a small batch
    assert len(index.candidates("batch", 200)[0]) == 100
    index.add_many(Document(n, "", "", "one large batch") for n in range(20000, 20500))
    assert index._base is not base
    assert index.size_bytes > 0


def test_item_ids_are_stable_and_distinct() -> None:
    assert item_id_of("notes/a.md") == int.from_bytes(blake2b(b"notes/a.md").digest()[:8], "big")
    assert len({item_id_of(str(n)) for n in range(10_000)}) == 10_000
    assert Document.of("k", "t", "x") == Document(item_id_of("k"), "k", "t", "x")
