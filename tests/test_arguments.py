"""Words of a command line stand before and after options; what is neither ends the program."""

import argparse

import pytest

from corpus.arguments import parse


def parser_of(many: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    if many:
        parser.add_argument(many, nargs="*")
    parser.add_argument("--json", action="store_true")
    return parser


@pytest.mark.parametrize(
    ("many", "words"),
    [
        ("overrides", ["a.b=1", "c=x y"]),
        ("texts", ["some text", "- a list", "a=b"]),
        ("files", ["one.txt", "two"]),
    ],
)
def test_words_stand_before_and_after_options(many: str, words: list[str]) -> None:
    orders = ([*words, "--json"], ["--json", *words], [words[0], "--json", *words[1:]])
    for given in orders:
        options = parse(parser_of(many), ["recipe", *given])
        assert (getattr(options, many), options.json) == (words, True)


@pytest.mark.parametrize(
    ("many", "word"),
    [
        ("overrides", "word"), ("overrides", "--snapshot=a"), ("overrides", "--snapshot=a b"),
        ("texts", "--out=my file"), ("files", "-x"), (None, "a.b=1"),
    ],
)  # fmt: skip
def test_what_is_no_word_of_the_command_is_refused(
    many: str | None, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(parser_of(many), ["recipe", "--json", word])
    assert f"unrecognized arguments: {word}" in capsys.readouterr().err
