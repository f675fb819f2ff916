"""Cuts lie where the rules say and where no pre-token does; bytes and text agree on them."""
# ruff: noqa: RUF001 - punctuation of many scripts is what this file is about

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from pipeline import stops
from pipeline.sentences import sentence_cuts
from pipeline.split import split_sentences
from pipeline.stops import SPACES

PRE_TOKENS = pre_tokenizers.ByteLevel(add_prefix_space=False)

# A small gold set made for this test: a bar marks the end of every sentence but the last.
GOLD = [
    # Abbreviations, titles, initials and numbers.
    "Mr. Hill met Dr. Ada B. Moss at 5 p.m. on Main St. in Reading.| They talked.",
    "See e.g. Smith (1999), i.e. the first.| He agrees, cf. Jones et al. in no. 5 of vol. 12.",
    "It cost $3.50.| That was 1.5 times more.| Why?| Nobody knows!| Really.",
    "The U.S. Army left the U.S.| The rest stayed in Washington, D.C. and waited.",
    "J. K. Rowling and George W. Bush came.| I saw them.",
    "Plan B failed.| In 1999.| We tried plan C.| It failed as well.",
    "It is approx. five.| About vols. and such.| Of course.",
    "Fig. 3 shows it.| No. 7 won.| He said no.| Then he left on Jan. 5 at noon.",
    "Cats, dogs, etc. are animals.| Dogs, etc.| They eat.| Acme Inc. was sold.",
    "Visit www.example.org or a.b.c today.| Version 3.1.| Version 3.2 is next.",
    # Ellipses, quotes, brackets, marks of emphasis.
    "Well... maybe.| Well...| Maybe not.| And so… it went…| On.",
    '"Stop!" he said.| "Stop."| She stopped.| "Is it?" asked Tom.| \'Yes.\'| No.',
    "He said “Go.”| She went.| (It was late.)| They slept [well.]| “Why?”| ‘So.’| End.",
    "What?!| No way...| Right?)| Yes.| **Bold.**| Next to _it._| Last",
    # Small letters throughout, and stops that stand alone.
    "the first sentence is finished.| another one begins here.| what now?| nothing!| so it is.",
    "It is over .| The next .| Also this !| And that ? . . .",
    # Lists and line ends.
    "1. First thing|\n2. Second thing.| More|\n\n  - a dash|\nlast   ",
    "   \n Leading.| White|\u2028space|\r\nof all \u3000 kinds.|\u00a0Here.\u3000\n",
    # German, French, Spanish, Portuguese, Russian, Greek, Turkish.
    "Das ist z.B. gut.| Herr Dr. Kahl kam.| Er ging bzw. lief.| Sind es 3.000 Euro?| Ja.",
    "M. Dupont est là.| Il dort.| Mme. Roux aussi.| ¿Qué es?| No sé.| ¡Vaya!| El Sr. Paz.",
    "Он жил в Москве.| А. С. Пушкин, т.е. поэт.| Он умер?| Да.| Все ушли.",
    "Ένα.| Δύο βιβλία.| Öğle oldu.| İyi.",
    "Τι είναι;| Ποιος;| είπε.| Είναι «αυτό»;| Το 1999;| Ναι;| Yes; no; 3;| ά;| b. Πού;",
    # Without spaces: Chinese and Japanese, quotations, digits, Latin letters.
    "你好。|我很好！|你呢？|好。",
    "他说：“好。”|她走了。|2008年。|OK。|3.14是数。 |End。".replace(" |", "| "),
    "今日は「はい。」と言った。|カタカナ。|終わり！？|次。",
    "真的?|是的!|好……好。|a!b?c=1",
    # Devanagari, Arabic, Urdu, Armenian, Ethiopic, Burmese, Khmer.
    "यह है।| वह है॥|यह भी।",
    "ما هذا؟| هذا بيت.| نعم.| د. محمد هنا.",
    "یہ ہے۔| وہ ہے۔|ہاں",
    "Ինչ է։| Այո։|\nሰላም።| ደህና።|\nမြန်မာ။| ပြီး။|\nខ្មែរ។| ចប់។",
    # A stop and an opening quote without a space are one pre-token; Thai has no stop.
    "他说。“好。|好”", "ภาษาไทย ไม่มีจุด|\nบรรทัด", "end.Next", "", " ", ".", "\n\n", "no end",
]  # fmt: skip


def cuts_of(texts: Sequence[str]) -> list[list[str]]:
    """Return the pieces of texts by the kernel."""
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)])
    cuts, ends = sentence_cuts(np.frombuffer(b"".join(encoded), np.uint8), offsets)
    assert len(ends) == len(offsets)
    assert ends[0] == 0
    assert ends[-1] == len(cuts)
    pieces = []
    for text, start, low, high in zip(encoded, offsets, ends[:-1], ends[1:], strict=False):
        bounds = [0, *(cuts[low:high] - start).tolist(), len(text)]
        pieces.append([text[a:b].decode() for a, b in pairwise(bounds) if text])
    return pieces


@pytest.mark.parametrize("marked", GOLD)
def test_sentences_by_hand(marked: str) -> None:
    pieces = [piece for piece in marked.split("|") if piece]
    assert split_sentences(marked.replace("|", "")) == pieces
    assert cuts_of([marked.replace("|", "")]) == [pieces]


def test_texts_do_not_touch_one_another() -> None:
    texts = [marked.replace("|", "") for marked in GOLD]
    assert cuts_of(texts) == [split_sentences(text) for text in texts]
    assert cuts_of([]) == []


PIECES = [
    *SPACES, *stops.STOPS, *stops.CLOSERS, *"aAzZé019ßЖжΣ好をカ한…“«「-%\U0001f600\u0301",
    "Mr", "e.g", "The", "U.S", "no", "Fig", "abcdefgh", "abcdefghi", "'s", "'re", ". ", ".\n",
    "1.", " i", "र", "د", "\x1c", ";", "; ", "Ά", "·", "ἀ",
]  # fmt: skip
NASTY = st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | st.text(max_size=60)


@settings(max_examples=500)
@given(st.lists(NASTY, min_size=1, max_size=4))
@example(["1.", "1. a", "a.\x1c b", "J.\u00a0The end"])
def test_the_kernel_is_the_reference(texts: list[str]) -> None:
    assert cuts_of(texts) == [split_sentences(text) for text in texts]


@settings(max_examples=300)
@given(NASTY)
def test_no_pre_token_lies_over_a_cut(text: str) -> None:
    """Whatever the merges, nothing is merged over the end of a pre-token."""
    pieces = split_sentences(text)
    assert "".join(pieces) == text
    assert all(pieces)
    apart = [token for piece in pieces for token, _ in PRE_TOKENS.pre_tokenize_str(piece)]
    assert apart == [token for token, _ in PRE_TOKENS.pre_tokenize_str(text)]


def test_white_space_is_that_of_the_pattern() -> None:
    """Two of a kind between letters are two pre-tokens only where they are white space."""
    for point in range(0x10000):
        if not 0xD800 <= point < 0xE000:
            found = PRE_TOKENS.pre_tokenize_str(f"x{chr(point) * 2}x")
            assert (len(found) == 4 or point == 0x20) == (chr(point) in SPACES), hex(point)


def test_letters_that_may_follow_a_stop_are_letters_to_the_pattern() -> None:
    for low, high in stops.FOLLOWERS:
        for point in range(low, high + 1):
            assert len(PRE_TOKENS.pre_tokenize_str(f"x\u3002{chr(point)}")) == 3, hex(point)


def test_stops_and_closers_are_neither_letters_nor_numbers_to_the_pattern() -> None:
    for char in (stops.STOPS + stops.CLOSERS).replace("'", ""):
        assert len(PRE_TOKENS.pre_tokenize_str(f"x{char}s")) == 3, char


def test_words_of_the_rules_fit_their_integers() -> None:
    for words in (stops.ABBREVIATIONS, stops.BEFORE_NUMBERS, stops.OPENERS):
        assert max(map(len, words.split())) <= stops.MAX_WORD_BYTES


@pytest.fixture(scope="session")
def roberta(shared_data: Path) -> Tokenizer:
    """GPT-2's vocabulary and merges, which RoBERTa uses."""
    vocabulary = json.loads((shared_data / "bpe" / "encoder.json").read_text())
    lines = (shared_data / "bpe" / "vocab.bpe").read_text().split("\n")[1:]
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines) if left]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = PRE_TOKENS
    return tokenizer


@settings(max_examples=200)
@given(NASTY)
def test_ids_of_the_pieces_are_the_ids_of_the_whole(roberta: Tokenizer, text: str) -> None:
    apart = roberta.encode_batch(split_sentences(text))
    assert [token for piece in apart for token in piece.ids] == roberta.encode(text).ids


def test_real_texts_of_many_scripts(shared_data: Path, roberta: Tokenizer) -> None:
    path = shared_data / "multilingual" / "udhr2-utf8.jsonl.zst"
    with zstandard.open(path, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"][:4000] for line in lines]
    pieces = [split_sentences(text) for text in texts]
    assert cuts_of(texts) == pieces
    assert sum(map(len, pieces)) > 20 * len(texts)
    for text, apart in zip(texts[::4], pieces[::4], strict=True):
        joined = [token for piece in roberta.encode_batch(apart) for token in piece.ids]
        assert joined == roberta.encode(text).ids
