"""Tables over all of Unicode hold what their functions say of every character."""

import unicodedata

import numpy as np

from pipeline.characters import class_table, classes_of
from pipeline.code_points import CODE_POINTS, assigned, tabulate
from pipeline.signatures import character_class


def test_nothing_is_known_of_characters_that_are_not_asked_about() -> None:
    known = set(assigned())
    rest = "".join(each for each in map(chr, range(CODE_POINTS)) if each not in known)
    assert len(known) > 100_000
    assert len(known) + len(rest) == CODE_POINTS
    assert rest.lower() == rest
    for of in (str.isspace, str.isalnum, unicodedata.combining, unicodedata.decomposition):
        assert not any(map(of, rest))
    assert not any(map(character_class, rest[::1000]))


def test_a_table_has_the_values_of_a_function_and_else_its_own() -> None:
    table = tabulate(np.full(CODE_POINTS, 7, np.uint32), ord, more="\ue000")
    assert table[[0x41, 0x4E00, 0x10FFFF, 0xE000]].tolist() == [0x41, 0x4E00, 7, 0xE000]


def test_marks_of_a_later_unicode_end_sentences() -> None:
    later = [each for each in "\U000113d4\U00016d6e" if unicodedata.category(each) == "Cn"]
    table = class_table()
    assert [table[ord(each)] for each in later] == [classes_of(each) for each in later]
    assert all(map(classes_of, "\U000113d4\U00016d6e"))
