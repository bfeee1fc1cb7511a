"""From text to terms: the reference pipeline for English, and nothing lost of other scripts."""

from __future__ import annotations

import random
import re

import pytest

from flocklet.models.search.index.index import Index
from flocklet.models.search.index.stemmer import stem
from flocklet.models.search.index.text import MAX_TERM_LENGTH, STOP_WORDS, normalise, tokenize, words

# Word -> stem, from the description of the Porter2 algorithm.
STEMS = """
consign consign consigned consign consigning consign consignment consign consist consist consistency
consist consistently consist consolation consol consolatory consolatori knack knack knackeries knackeri
knavish knavish kneaded knead kneeling kneel knightly knight knots knot generously generous communication
communic arsenal arsenal skies sky dying die lying lie tying tie news news inning inning proceed proceed
exceeded exceed howe howe ugly ugli hoping hope hopping hop falling fall hissed hiss egging egg added add
bed bed fluently fluentli cries cri tied tie gas gas this this kiwis kiwi happy happi say say by by youth
youth boyish boyish flying fli relational relat conditional condit rationalize ration digitizer digit
geologist geolog hopefulness hope sensibility sensibl controlled control rate rate cease ceas past past
paste paste npaste npaste a a yyy yyy 1960s 1960s
"""


SUFFIXES = """
ed edly ing ingly eed eedly s es ies ied sses us ss y ly ational tional enci anci abli entli izer ization
ation ator alism aliti alli fulness ousli ousness iveness iviti biliti bli ogi ogist fulli lessli li
alize icate iciti ical ful ness ative al ance ence er ic able ible ant ement ment ent ism ate iti ous ive
ize ion sion tion e l ll ying
"""
STARTS = """
gener commun arsen past univers later emerg organ inter proc exc succ inn out cann herr earr even
"""


def pairs() -> list[tuple[str, str]]:
    flat = STEMS.split()
    return list(zip(flat[::2], flat[1::2], strict=True))


def test_stems_of_the_algorithm_s_description() -> None:
    assert {word: stem(word) for word, _ in pairs()} == dict(pairs())


def test_stems_equal_those_of_the_snowball_library() -> None:
    snowball = pytest.importorskip("Stemmer", reason="PyStemmer, the development oracle, is not installed")
    oracle = snowball.Stemmer("english")
    rng = random.Random(1)
    suffixes = SUFFIXES.split()
    starts = STARTS.split()
    letters = list("aeiouybcdlmnrstwxgpvk")
    tried = set()
    for _ in range(20_000):
        start = (
            rng.choice(starts) if rng.random() < 0.3 else "".join(rng.choices(letters, k=rng.randrange(7)))
        )
        tried.add(start + "".join(rng.choices(suffixes, k=rng.randrange(4))))
    wrong = {
        word: (stem(word), oracle.stemWord(word))
        for word in tried
        if word and stem(word) != oracle.stemWord(word)
    }
    assert wrong == {}


def test_english_goes_the_way_of_the_reference_figures() -> None:
    text = "The Aerodynamics of heated wings, e.g. NACA-0012: 3.5 m/s!"
    plain = [word for word in re.findall("[a-z0-9]+", text.lower()) if word not in STOP_WORDS]
    assert words(text) == re.findall("[a-z0-9]+", text.lower())
    assert tokenize(text) == [stem(word) for word in plain]
    assert tokenize("snake_case and CamelCase") == ["snake", "case", "camelcas"]
    assert len(STOP_WORDS) == 118


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("Größe des Flügels", "GROSSE"),
        ("Größe des Flügels", "flugels"),
        ("un café déjà vu", "cafe"),
        ("Скорость полёта", "полета"),
        ("Ελληνικά κείμενα", "ΕΛΛΗΝΙΚΑ"),
        ("İstanbul'da", "istanbul"),
        ("全文検索エンジン", "検索"),
        ("全文検索エンジン", "索"),
        ("搜索引擎技术", "引擎"),
        ("한국어 검색", "검색"),
        ("ภาษาไทยง่าย", "ไทย"),
        ("हिन्दी खोज", "हिन्दी"),
        ("مرحبا بالعالم", "بالعالم"),
        ("ﬁne ﬂow", "flow"),
        ("naïve\u0301", "naive"),
        ("version 2 of ＡＢＣ", "abc"),
    ],
)
def test_other_scripts_are_found(stored: str, asked: str) -> None:
    index = Index()
    index.add(1, "", stored)
    index.add(2, "", "something else entirely 別物 другое")
    assert index.candidates(asked, 5)[0].tolist() == [1]


def test_neighbouring_characters_rank_above_scattered_ones() -> None:
    index = Index()
    index.add(1, "", "検討と探索")
    index.add(2, "", "全文検索だ")
    assert index.candidates("検索", 5)[0].tolist() == [2, 1]


def test_devanagari_words_do_not_fall_apart() -> None:
    assert len(words("हिन्दी खोज")) == 2


def test_a_composed_and_a_decomposed_letter_are_one() -> None:
    assert normalise("e\u0301t\u00e9") == normalise("\u00e9te\u0301") == "ete"


@pytest.mark.parametrize("endless", ["a" * 5000, "\u00e4" * 5000, "x" * 5000 + "\u00e4"])
def test_endless_words_are_cut(endless: str) -> None:
    assert [len(term) <= MAX_TERM_LENGTH for term in tokenize(endless)] == [True]


@pytest.mark.parametrize("text", ["", "\0\1", "\ud800", "🙂 👍🏽", "__ -- ..", "\u0301"])
def test_text_without_words_gives_no_terms(text: str) -> None:
    assert tokenize(text) == []
