"""Asking: the grammar, typing errors, passages, twins, each with what it must not do."""

from __future__ import annotations

import random
from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flocklet.models.search.index.asking import ask, phrase_pattern, place_in
from flocklet.models.search.index.index import Index
from flocklet.models.search.index.passage import passage_of
from flocklet.models.search.index.query import Field, Query, parse_query
from flocklet.models.search.index.spelling import Speller, distances
from flocklet.models.search.index.text import normalise
from flocklet.models.search.index.twins import TWIN, are_translations, resemblance, shingles

TODAY = date(2024, 5, 31)


def parsed(text: str) -> Query:
    return parse_query(text, TODAY)


def test_the_grammar() -> None:
    query = parsed(
        'tent "guy line" peg* -nylon -"wet ground" title:"how to" path:notes type:pdf lang:de after:7d before:2024-05'
    )
    assert query.words == ("tent",)
    assert query.phrases == ("guy line",)
    assert query.prefixes == ("peg",)
    assert query.excluded == ("nylon",)
    assert query.excluded_phrases == ("wet ground",)
    assert query.fields == (
        Field("title", "how to"), Field("path", "notes"), Field("type", "pdf"), Field("lang", "de"),
        Field("after", "2024-05-24"), Field("before", "2024-05-01"),
    )  # fmt: skip
    assert parsed("-type:pdf x").fields == (Field("type", "pdf", True),)
    assert parsed("“smart quotes”").phrases == ("smart quotes",)


@pytest.mark.parametrize(
    "text", ["std::vec", "http://x.org/a", "a* b", "before:never", 'open "quote', "after:2024-13", "c:"]
)
def test_what_does_not_fit_is_words(text: str) -> None:
    query = parsed(text)
    assert query.is_plain
    assert query.words


@given(st.text(max_size=60))
def test_no_query_is_an_error(text: str) -> None:
    query = parsed(text)
    index = Index()
    index.add(1, "", "words here")
    ask(index, query, lambda: Speller(index.analysis.surface), None)


def osa(a: str, b: str) -> int:
    table = [[max(i, j) if not i * j else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i][j] = min(
                table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a[i - 1] != b[j - 1])
            )
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                table[i][j] = min(table[i][j], table[i - 2][j - 2] + 1)
    return table[-1][-1]


def test_distances_equal_the_plain_table() -> None:
    rng = random.Random(5)
    words = sorted({"".join(rng.choices("abcd", k=rng.randint(3, 24))) for _ in range(150)}, key=len)
    table = np.zeros((24, len(words)), np.uint8)
    codes = {letter: at for at, letter in enumerate("abcd", 1)}
    for at, word in enumerate(words):
        table[: len(word), at] = [codes[letter] for letter in word]
    lengths = np.array([len(word) for word in words])
    for _ in range(14):
        word = "".join(rng.choices("abcde", k=rng.randint(4, 24)))
        assert distances(word, codes, table, lengths).tolist() == [osa(word, other) for other in words]


def typo(word: str, rng: random.Random) -> str:
    at = rng.randrange(1, len(word) - 1)
    letter = rng.choice("abcdefghijklmnopqrstuvwxyz")
    kinds = (word[:at] + word[at + 1 :], word[:at] + letter + word[at:], word[:at] + letter + word[at + 1 :])
    return rng.choice((*kinds, word[:at] + word[at + 1] + word[at] + word[at + 2 :]))


def test_typing_errors_find_their_word() -> None:
    rng = random.Random(2)
    words = ["".join(rng.choices("aeioubcdfglmnprst", k=rng.randint(6, 12))) for _ in range(800)]
    index = Index()
    for n, word in enumerate(words):
        index.add(n, "", f"{word} common")
    speller = Speller(index.analysis.surface)
    right = wrong = 0
    for n, word in enumerate(words[:100]):
        query = parsed(typo(word, rng))
        if query.words[0] in words:
            continue
        asked = ask(index, query, lambda: speller, None)
        right += asked is not None and n in index.candidates(query.text, 10, asked)[0].tolist()
        wrong += (
            len(index.candidates(query.text, 10)[0]) > 0
        )  # the control: without, (almost) nothing is found
    assert right >= 90
    assert wrong <= 5
    assert all(ask(index, parsed(f"{word} common"), lambda: speller, None) is None for word in words[:20])


def small() -> Index:
    index = Index()
    index.add(1, "", "the tent pegs hold the guy line")
    index.add(2, "", "the line of the guy with a tent")
    index.add(3, "", "pegboards and pegs of steel")
    return index


def found(index: Index, text: str) -> list[int]:
    query = parsed(text)
    asked = ask(index, query, lambda: Speller(index.analysis.surface), None)
    return sorted(index.candidates(query.text, 9, asked)[0].tolist())


def test_prefixes_phrases_and_exclusions() -> None:
    index = small()
    assert found(index, "pegb*") == [3]
    assert found(index, "peg*") == [1, 3]
    assert found(index, "tent -pegs") == [2]
    assert found(index, "pegs -tent") == [3]
    assert found(index, '"guy line"') == [1, 2]  # all words; the order is for the pattern to say
    pattern = phrase_pattern(index, "guy lines")
    assert pattern.search(normalise("The Guy-Line"))
    assert not pattern.search(normalise("the line of the guy"))
    assert phrase_pattern(index, "hold the guy").search("holding a guy")
    assert index.count("tent") == 2


def test_a_passage_covers_the_query_s_rare_words() -> None:
    index = small()
    for n in range(10, 30):
        index.add(n, "", "tent words")
    menu = "\n".join(["tent"] * 40)
    text = (
        f"{menu}\n\nIntro words. " + "filler " * 60 + "Here the steel pegs hold a tent well. " + "more " * 50
    )
    place, rarity = place_in(index, None, parsed("tent pegs steel"), "")
    passage = passage_of(text, place, rarity)
    assert "steel pegs hold a tent" in passage.text
    assert [passage.text[a:b] for a, b in passage.spans] == ["steel", "pegs", "tent"]
    assert "\n" not in passage.text
    assert text[passage.start :].startswith("filler")
    assert passage_of("no hit at all", place, rarity).text == "no hit at all"
    assert passage_of("", place, rarity).text == ""
    place, rarity = place_in(index, None, parsed("検索"), "")
    index.add(99, "", "全文検索だ")
    place, rarity = place_in(index, None, parsed("検索"), "")
    assert passage_of("全文検索だ", place, rarity).spans


def test_twins_and_different_pages() -> None:
    rng = random.Random(3)
    words = [rng.choice("abcdefgh") * rng.randint(1, 6) + str(rng.randrange(50)) for _ in range(600)]
    copy = [*words[:300], "changed", *words[301:]]
    other = rng.sample(words, len(words))
    assert resemblance(shingles(" ".join(words)), shingles(" ".join(copy))) > TWIN
    assert resemblance(shingles(" ".join(words)), shingles(" ".join(other))) < 0.1
    assert resemblance(shingles(""), shingles("")) == 0
    assert are_translations(("/d/de/a.html", "/d/fr/a.html"), ("de", "fr"), (100, 120))
    assert are_translations(("/d/a.de.html", "/d/a.html"), ("de", "en"), (100, 120))
    assert are_translations(("/d/a_pt-BR.txt", "/d/a_fr.txt"), ("pt", "fr"), (100, 120))
    assert not are_translations(("/d/de/a.html", "/d/fr/b.html"), ("de", "fr"), (100, 120))
    assert not are_translations(("/d/de/a.html", "/d/fr/a.html"), ("de", "fr"), (100, 400))
    assert not are_translations(("/d/a.html", "/e/a.html"), ("de", "fr"), (100, 100))
