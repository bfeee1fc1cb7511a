"""Documents in their own languages: stems, folding, and queries that mean a word in every language of the index."""

from __future__ import annotations

import numpy as np
import pytest

from flocklet.errors import StoreError
from flocklet.events.item import Document
from flocklet.models.search.index.analysis import LANGUAGES, analysed_as, analyser_of
from flocklet.models.search.index.folding import fold, prepare
from flocklet.models.search.index.index import Index

# Text, query: one word to a reader.
SAME = [
    ("Zusam\u00admen\u00adarbeit", "Zusammenarbeit"), ("пере\u00adвод", "перевод"), ("zero\u200bwidth", "zerowidth"),
    ("joi\u200dner", "joiner"), ("bom\ufeffmark", "bommark"), ("v\u2060j", "vj"), ("Łódź", "lodz"), ("Đà", "da"),
    ("Ærøskøbing", "aeroskobing"), ("Œuvre", "oeuvre"), ("Þingvellir", "thingvellir"), ("straſſe", "strasse"),
    ("STRASSE", "straße"), ("Ёлка", "елка"), ("Ελληνικά", "ελληνικα"), ("ΟΔΟΣ", "οδος"), ("İzmir", "izmir"),
    ("\u05ea\u05b4\u05bc\u05e7\u05bc\u05d5\u05bc\u05df", "\u05ea\u05e7\u05d5\u05df"),
    ("\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd", "\u05e9\u05dc\u05d5\u05dd"),
    ("\u0645\u064f\u062d\u064e\u0645\u0651\u064e\u062f", "\u0645\u062d\u0645\u062f"),
    ("\u0645\u0640\u062d\u0645\u062f", "\u0645\u062d\u0645\u062f"),
    ("\u0623\u062d\u0645\u062f", "\u0627\u062d\u0645\u062f"),
    ("\u0645\u0643\u062a\u0628\u0629", "\u0645\u0643\u062a\u0628\u0647"), ("\u0639\u0644\u0649", "\u0639\u0644\u064a"),
    ("क\u200dष", "कष"), ("ﬁne", "fine"), ("e\u0301te\u0301", "été"), ("ＡＢＣ", "abc"), ("co\u034for", "coor"),
    ("が", "か\u3099"), ("paral·lel", "parallel"), ("ﻣﺤﻤﺪ", "محمد"),
]  # fmt: skip
APART = [
    ("が", "か"),
    ("й", "и"),
    ("ไทย", "ไท"),
    ("कि", "क"),
    ("한국", "한궁"),
    ("ب", "ت"),
    ("müller", "mueller"),
]


@pytest.mark.parametrize(("text", "query"), SAME)
def test_what_readers_do_not_tell_apart_is_one(text: str, query: str) -> None:
    index = Index()
    index.add(1, "", text)
    assert index.candidates(query, 1)[0].tolist() == [1]
    assert fold(prepare(text)) == fold(prepare(query))


@pytest.mark.parametrize(("one", "other"), APART)
def test_what_readers_tell_apart_stays_apart(one: str, other: str) -> None:
    assert fold(prepare(one)) != fold(prepare(other))


def test_words_are_stemmed_before_they_are_folded() -> None:
    czech = analyser_of("cs")
    assert czech("dobrých") == czech("dobrým")  # the ending is told by its accent
    assert analyser_of("ru")("книгами") == analyser_of("ru")("книга")
    assert analyser_of("de")("häuser") == "haus"
    assert all(analyser_of(language)("abc") for language in LANGUAGES)
    assert {analysed_as(name) for name in ("ja", "zh", "", "en", "xx")} == {"en"}


def mixed() -> Index:
    index = Index()
    index.add_many(
        [
            Document(1, "", "", "Die Bücher liegen im Zelt", "de"),
            Document(2, "", "", "Книги лежат в палатке", "ru"),
            Document(3, "", "", "The books are in tents", ""),
            Document(4, "", "", "Los libros de la tienda", "es"),
            *(Document(n, "", "", f"filler {n}", "en") for n in range(10, 20)),
        ]
    )
    return index


def test_a_query_means_its_words_in_every_language_of_the_index() -> None:
    index = mixed()
    assert index.languages == ("en", "de", "es", "ru")
    for query, item in (("Buch", 1), ("книга", 2), ("book tent", 3), ("libro", 4), ("BÜCHERN", 1)):
        assert index.candidates(query, 3)[0].tolist()[:1] == [item], query
        assert index.matches(query).tolist() == [item]
        assert sum(index.explain(query, item).values()) == pytest.approx(
            float(index.candidates(query, 1)[1][0])
        )
    english = Index()  # the control: without a language there is no German stem
    english.add(1, "", "Die Bücher liegen im Zelt")
    assert english.candidates("Buch", 1)[0].tolist() == []


def test_a_group_is_scored_like_one_term() -> None:
    texts = [("pegs peg", "en"), ("die pegs", "de"), *((f"other{n} word{n}", "en") for n in range(8))]
    index, twin = (
        Index(),
        Index(),
    )  # the twin has one term for what is "peg" in English and "peg", "pegs" in German
    for n, (text, language) in enumerate(texts):
        index.add(n, "", text, language)
        twin.add(n, "", text.replace("pegs", "peg"))
    twin.add(1, "", "dei peg")  # "die" is a word in both
    (ids, scores), (same, expected) = index.candidates("pegs", 5), twin.candidates("pegs", 5)
    assert ids.tolist() == same.tolist() == [0, 1]
    assert scores.tolist() == expected.tolist()


def test_one_language_is_the_same_to_the_byte() -> None:
    texts = ["The aerodynamics of wings", "全文検索エンジン", "搜索引擎技术 engines", "heated wings"]
    plain, told = Index(), Index()
    for n, text in enumerate(texts):
        plain.add(n, "title", text)
    told.add_many(
        Document(n, "", "title", text, language)
        for n, (text, language) in enumerate(zip(texts, ("en", "ja", "zh", ""), strict=True))
    )
    told.compact()
    plain.compact()
    first, second = plain.to_arrays(), told.to_arrays()
    assert {name: array.tobytes() for name, array in first.items()} == {
        name: a.tobytes() for name, a in second.items()
    }
    german = Index()  # the control: one German document changes the bytes
    german.add_many(Document(n, "", "title", text, "de" if n == 3 else "") for n, text in enumerate(texts))
    assert german.to_arrays()["terms"].tobytes() != first["terms"].tobytes()


def test_languages_survive_the_snapshot_and_removal() -> None:
    index = mixed()
    arrays = index.to_arrays()
    again = Index.from_arrays(arrays)
    assert again.languages == index.languages
    assert again.candidates("Buch", 1)[0].tolist() == [1]
    again.remove(1)
    assert again.languages == ("en", "es", "ru")
    again.add(1, "", "Bücher", "de")
    assert again.candidates("Buch", 1)[0].tolist() == [1]
    for name, value in (
        ("languages", np.full(14, 9, np.uint8)),
        ("names", np.frombuffer(b"en 0.0", np.uint8)),
    ):
        with pytest.raises(StoreError):
            Index.from_arrays(arrays | {name: value})
