# ruff: noqa: RUF001 - Russian letters are meant.

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.recipe import Languages
from pipeline.languages import check_languages, identify_batch, language_failure
from pipeline.rules import Failure

# The first article of the declaration of human rights.
ARTICLES = {
    "en": "All human beings are born free and equal in dignity and rights. They are endowed with "
    "reason and conscience and should act towards one another in a spirit of brotherhood.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués "
    "de raison et de conscience et doivent agir les uns envers les autres dans un esprit.",
    "he": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון.",
    "jv": "Saben uwong kalairake kanthi mardika lan darbe martabat lan hak-hak kang padha. Kabeh "
    "pinaringan akal lan kalbu sarta kaajab anggone pasrawungan tansah ngugemi jiwa sumadulur.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены "
    "разумом и совестью и должны поступать в отношении друг друга в духе братства.",
    "zh": "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。",
}
TRADITIONAL = "人人生而自由,在尊嚴和權利上一律平等。他們賦有理性和良心,並應以兄弟關係的精神相對待。"
TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=50), max_size=5)


@pytest.mark.parametrize("code", ARTICLES)
def test_languages_have_their_iso_codes(code: str) -> None:
    ((label, share),) = identify_batch([ARTICLES[code]])
    assert label == code
    assert share > 90


def test_both_ways_of_writing_chinese_are_one_language() -> None:
    ((label, share),) = identify_batch([ARTICLES["zh"] * 3 + TRADITIONAL * 3])
    assert label == "zh"
    assert share > 90


def test_a_script_without_a_language_is_undetermined() -> None:
    assert identify_batch(["\uaa00\uaa04\uaa09 " * 40]) == [("und", 0)]  # Cham


@pytest.mark.parametrize("text", ["", " \n", "12345 -- 678 !!!", "😀" * 50, "ok"])
def test_what_says_too_little_is_undetermined(text: str) -> None:
    assert identify_batch([text]) == [("und", 0)]


@pytest.mark.parametrize("refused", ["\x00", "\x7f", "\x85", "\ufdd0", "\uffff", "\U0010fffe"])
def test_characters_that_the_library_refuses_do_not_matter(refused: str) -> None:
    ((label, _),) = identify_batch([ARTICLES["en"].replace(" ", f" {refused}")])
    assert label == "en"


def test_only_the_beginning_counts() -> None:
    beginning = (ARTICLES["ru"] * 10)[:500]
    assert identify_batch([beginning + ARTICLES["en"] * 100]) == identify_batch([beginning])


def test_a_beginning_that_says_too_little_gets_a_second_look() -> None:
    numbers = "12345 -- 678 !!! " * 40
    ((label, _),) = identify_batch([numbers + ARTICLES["fr"] * 3])
    assert label == "fr"
    assert identify_batch([numbers * 10 + ARTICLES["fr"] * 3]) == [("und", 0)]


@given(TEXTS)
def test_any_text_gets_an_answer_and_always_the_same(texts: list[str]) -> None:
    found = identify_batch(texts)
    assert found == identify_batch(pa.array(texts, pa.large_string()))
    assert found == [identify_batch([text])[0] for text in texts]
    for label, share in found:
        assert label.isalpha()
        assert 0 <= share <= 100
        assert (label == "und") <= (share == 0)


def test_a_language_stays_or_fails_with_what_was_compared() -> None:
    kept = Languages(keep=("en", "de"), min_score=65)
    assert language_failure("en", 65, kept) is None
    assert language_failure("en", 64, kept) == Failure("language_score", 64, 65, "en")
    # A score of 95 beside a threshold of 0 would read as passed.
    assert language_failure("fr", 95, kept) == Failure("language_not_kept", None, None, "fr")
    assert language_failure("und", 0, Languages()) is None
    assert language_failure("ru", 40, Languages(min_score=50)) == Failure(
        "language_score", 40, 50, "ru"
    )


def test_a_language_that_no_text_is_found_to_be_in_cannot_be_kept() -> None:
    check_languages(Languages(keep=("en", "zh", "ceb", "und")))
    with pytest.raises(ValueError, match=r"labelled 'eng'.*did you mean en\?"):
        check_languages(Languages(keep=("en", "eng")))
    with pytest.raises(ValueError, match="labelled 'English'"):
        check_languages(Languages(keep=("English",)))


def test_each_language_may_have_a_least_score_of_its_own() -> None:
    by_code = Languages(min_score={"en": 65, "ru": 40})
    assert language_failure("en", 64, by_code) == Failure("language_score", 64, 65, "en")
    assert language_failure("ru", 39, by_code) == Failure("language_score", 39, 40, "ru")
    assert language_failure("ru", 40, by_code) is None
    assert language_failure("und", 0, by_code) is None
    # What the lineage of older stores says of one number stays as it was.
    assert Languages(min_score=65).model_dump(mode="json")["min_score"] == 65


def test_a_least_score_that_cannot_be_meant_is_refused() -> None:
    with pytest.raises(ValueError, match=r"min_score is 101, expected a percentage, 0 to 100"):
        Languages(min_score=101)
    with pytest.raises(ValueError, match=r"min_score of en is -1, expected a percentage"):
        Languages(min_score={"en": -1})
    with pytest.raises(ValueError, match=r"min_score of ru has no effect, as keep does not list"):
        Languages(keep=("en",), min_score={"ru": 50})
    with pytest.raises(ValueError, match=r"languages\.min_score: no text .* 'eng'.*mean en\?"):
        check_languages(Languages(min_score={"eng": 50}))


def test_what_is_kept_by_language_has_to_be_identified() -> None:
    Languages(identify=False)
    for wrong in ({"keep": ("de",)}, {"min_score": 50}, {"min_score": {"de": 50}}):
        with pytest.raises(ValueError, match=r"keep and min_score need languages\.identify"):
            Languages.model_validate({"identify": False} | wrong)
