"""Byte-level BPE: text comes back, spelt specials stay text, known ids are the known ids."""

import gc
import json
import re
from pathlib import Path

import numpy as np
import orjson
import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from corpus import tokenizer as tokenizer_module
from corpus.tokenizer import (
    Tokenizer,
    build_definition,
    byte_alphabet,
    canonical_definition,
    collector_paused,
    local_tokenizer,
    open_tokenizer,
    roberta_definition,
    split_words,
    stored_tokenizer,
    tokenizer_files,
)

MERGES = [("t", "h"), ("th", "e"), ("\u0120", "the"), ("\u0120", "\u0120"), ("<", "s"), (".", ".")]
TOKENIZER = Tokenizer(build_definition(MERGES))
NASTY = st.text() | st.text(
    st.sampled_from("the <s>mak/pd.\n\t\r\u00a0\u3000\u0301\u4f60\U0001f600\x00")
)


def test_the_alphabet_is_gpt2s() -> None:
    alphabet = byte_alphabet()
    assert set(alphabet) == set(range(256))
    assert sorted(alphabet.values()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert (alphabet[ord("a")], alphabet[ord(" ")], alphabet[0]) == ("a", "\u0120", "\u0100")


def test_ids_by_hand() -> None:
    vocabulary = {char: n for n, char in enumerate(sorted(byte_alphabet().values()), 4)}
    the, space_the = 4 + 256 + 1, 4 + 256 + 2
    assert TOKENIZER.encode(["the the t"]) == [
        [the, space_the, vocabulary["\u0120"], vocabulary["t"]]
    ]
    assert TOKENIZER.vocab_size == 4 + 256 + len(MERGES) + 1
    assert TOKENIZER.mask_id == TOKENIZER.vocab_size - 1
    assert TOKENIZER.decode([0, the, TOKENIZER.mask_id, 2]) == "<s>the<mask></s>"


@given(st.lists(NASTY, max_size=4))
@example(["<s></s><mask> <mask><pad><unk>"])
def test_every_text_comes_back_and_has_no_special_id(texts: list[str]) -> None:
    special = {0, 1, 2, 3, TOKENIZER.mask_id}
    for text, ids in zip(texts, TOKENIZER.encode(texts), strict=True):
        assert TOKENIZER.decode(ids) == text
        assert not special & set(ids)
        pieces = TOKENIZER.token_bytes()
        assert b"".join(pieces[token] for token in ids) == text.encode()


def test_spaces_of_tokens() -> None:
    begins, ends = TOKENIZER.spaces()
    pieces = TOKENIZER.token_bytes()
    white = b" \t\n\r\x0b\x0c"
    assert begins.tolist() == [piece[0] in white for piece in pieces]
    assert ends.tolist() == [piece[-1] in white for piece in pieces]
    space_the = pieces.index(b" the")
    assert (begins[space_the], ends[space_the]) == (True, False)
    assert begins.dtype == np.bool_


def test_sizes_of_tokens() -> None:
    pieces = TOKENIZER.token_bytes()
    assert TOKENIZER.token_sizes().tolist() == list(map(len, pieces))


def test_words_by_hand() -> None:
    words = [b"I", b"'ll", b" say", b" ", b" x", b"12", b"?!", b"\n", b"\n", "\u00e9".encode()]
    assert split_words("I'll say  x12?!\n\n\u00e9") == words


def test_specials_in_other_places_are_refused() -> None:
    fields = orjson.loads(TOKENIZER.definition)
    vocabulary = fields["model"]["vocab"]
    vocabulary["<s>"], vocabulary["<pad>"] = 1, 0
    for added in fields["added_tokens"]:
        added["id"] = vocabulary[added["content"]]
    with pytest.raises(ValueError, match=r"the tokenizer has <s> at 1, expected 0"):
        Tokenizer(orjson.dumps(fields))


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "NFC"}},
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                           "use_regex": True}},
        {"pre_tokenizer": {"type": "Whitespace"}},
    ],
)  # fmt: skip
def test_a_tokenizer_that_changes_text_is_refused(change: dict[str, object]) -> None:
    fields = orjson.loads(TOKENIZER.definition) | change
    with pytest.raises(
        ValueError, match=r"the tokenizer does not give .* back: expected a byte-level"
    ):
        Tokenizer(orjson.dumps(fields))


def test_equal_tokenizers_have_one_fingerprint(tmp_path: Path) -> None:
    pretty = json.dumps(json.loads(TOKENIZER.definition), indent=2)
    (tmp_path / "tokenizer.json").write_text(pretty)
    assert open_tokenizer(str(tmp_path)).fingerprint == TOKENIZER.fingerprint
    assert canonical_definition(pretty.encode()) == TOKENIZER.definition
    assert Tokenizer(build_definition(MERGES[:-1])).fingerprint != TOKENIZER.fingerprint


def test_a_directory_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no tokenizer\.json, nor all of encoder\.json"):
        open_tokenizer(str(tmp_path))


FIELDS = orjson.loads(TOKENIZER.definition)


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        (b'{"a":1}', "no tokenizer as `tokenizers` writes it: its JSON has no object `model`"),
        (b"[1]", "no tokenizer as `tokenizers` writes it"),
        (TOKENIZER.definition[:-9], "not JSON: "),
        (b"", "not JSON: "),
        (b"\xff", "not JSON: "),
        (b'{"model":{"type":"BPE"}}', "`tokenizers` cannot open it: Exception: "),
        (orjson.dumps(FIELDS | {"model": FIELDS["model"] | {"vocab": [1]}}), "cannot open it"),
        (orjson.dumps(FIELDS | {"model": FIELDS["model"] | {"merges": [[1]]}}), "cannot open it"),
        (orjson.dumps(FIELDS | {"added_tokens": [{}]}), "cannot open it: KeyError: 'content'"),
        (orjson.dumps(FIELDS | {"pre_tokenizer": None}), "the tokenizer does not give"),
    ],
)  # fmt: skip
def test_what_is_no_tokenizer_is_refused_with_its_file(
    tmp_path: Path, definition: bytes, message: str
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(definition)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}: .*{message}"):
        open_tokenizer(str(tmp_path))


def test_the_files_say_the_same(tmp_path: Path) -> None:
    local_tokenizer(TOKENIZER.definition, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(tokenizer_files(TOKENIZER))
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    assert vocabulary["<mask>"] == TOKENIZER.mask_id
    merges = (tmp_path / "merges.txt").read_text().splitlines()
    assert merges == ["#version: 0.2", *map(" ".join, MERGES)]
    assert open_tokenizer(str(tmp_path)).definition == TOKENIZER.definition


def test_a_stored_tokenizer_is_the_one_it_is_named(tmp_path: Path) -> None:
    local_tokenizer(TOKENIZER.definition, tmp_path)
    stored = stored_tokenizer(str(tmp_path), TOKENIZER.fingerprint)
    assert stored.definition == TOKENIZER.definition
    (tmp_path / "tokenizer.json").write_bytes(build_definition(MERGES[:-1]))
    with pytest.raises(ValueError, match=r"tokenizer\.json is damaged: its fingerprint is .*, exp"):
        stored_tokenizer(str(tmp_path), TOKENIZER.fingerprint)


# The ways to write a tokenizer: merges as one string, a token that the model lacks, options.
WRITTEN: dict[str, dict[str, object]] = {
    "as built": {},
    "merges in one string": {"model": {"merges": list(map(" ".join, MERGES))}},
    "an entry that no merge reaches": {"model": {"ignore_merges": True}},
    "a field unknown to the library": {"model": {"more": 1}},
}


@pytest.mark.parametrize("change", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("added", ["</s>", "more"])
def test_a_model_handed_over_in_parts_is_the_one_written(
    change: dict[str, dict[str, object]], added: str
) -> None:
    fields = orjson.loads(TOKENIZER.definition)
    fields["model"] |= change.get("model", {})
    if added == "more":
        last = fields["added_tokens"][-1]
        number = len(fields["model"]["vocab"])
        fields["added_tokens"].append(last | {"id": number, "content": added})
    definition = orjson.dumps(fields)
    by_library = tokenizers.Tokenizer.from_str(definition.decode())
    opened = tokenizer_module._open_reference(definition, fields)
    assert opened.to_str() == by_library.to_str()
    assert opened.get_vocab() == by_library.get_vocab()
    assert opened.get_added_tokens_decoder() == by_library.get_added_tokens_decoder()


def test_an_entry_that_spells_no_bytes_is_named() -> None:
    fields = orjson.loads(TOKENIZER.definition)
    vocabulary = fields["model"]["vocab"]
    vocabulary["\u4f60"] = vocabulary["<mask>"]
    vocabulary["<mask>"] = fields["added_tokens"][-1]["id"] = len(vocabulary) - 1
    with pytest.raises(ValueError, match="the tokenizer has '\u4f60', which spells no bytes"):
        Tokenizer(orjson.dumps(fields)).token_bytes()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_it_was_after_a_pause(*, enabled: bool) -> None:
    was_enabled = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(KeyError), collector_paused():
            assert not gc.isenabled()
            raise KeyError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was_enabled else gc.disable)()


@pytest.fixture(scope="module")
def published(shared_data: Path) -> Path:
    directory = shared_data / "bpe"
    if not directory.is_dir():
        pytest.skip(f"no {directory}")
    return directory


def test_robertas_known_vectors(published: Path) -> None:
    """Text and ids that other projects' tests state, as RoBERTa's ids and as GPT-2's."""
    tokenizer = open_tokenizer(str(published))
    assert (tokenizer.vocab_size, tokenizer.mask_id) == (50_265, 50_264)
    names = [line.split()[0] for line in (published / "dict.txt").read_text().splitlines()]
    from_gpt2 = {name: number for number, name in enumerate(names, 4)}
    vectors = json.loads((published / "vectors.json").read_text())
    assert {vector["scheme"] for vector in vectors} == {"gpt2", "roberta"}
    for vector in vectors:
        (ids,) = tokenizer.encode([vector["text"]])
        if vector["scheme"] == "roberta":
            assert [0, *ids, 2] == vector["ids"]
        else:
            assert ids == [from_gpt2[str(number)] for number in vector["ids"]]


def test_robertas_entries_are_gpt2s_in_its_own_order(published: Path, tmp_path: Path) -> None:
    tokenizer = open_tokenizer(str(published))
    local_tokenizer(tokenizer.definition, tmp_path)
    assert open_tokenizer(str(tmp_path)).definition == tokenizer.definition
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    gpt2 = json.loads((published / "encoder.json").read_text())
    added = {"<s>", "<pad>", "</s>", "<unk>", "<mask>"} | {f"madeupword000{n}" for n in range(3)}
    assert set(vocabulary) == set(gpt2) | added
    assert sorted(vocabulary.values()) == list(range(50_265))
    merges = (published / "vocab.bpe").read_text().splitlines()[1:]
    assert (tmp_path / "merges.txt").read_text().splitlines()[1:] == merges


def test_a_dictionary_by_hand() -> None:
    letters = sorted(byte_alphabet().values())
    encoder = json.dumps({token: n for n, token in enumerate([*letters, "th"])}).encode()
    order = [256, *range(256)]  # the merged token is the most frequent
    dictionary = "".join(f"{number} 1\n" for number in [*order, "filler"]).encode()
    tokenizer = Tokenizer(roberta_definition(encoder, b"#version: 0.2\nt h\n", dictionary))
    assert tokenizer.encode(["th"]) == [[4]]
    assert tokenizer.vocab_size == 4 + 257 + 1 + 1
    assert tokenizer.token_bytes()[4 + 257] == b"filler"


ENCODER = json.dumps(
    {token: n for n, token in enumerate([*sorted(byte_alphabet().values()), "th"])}
).encode()
DICTIONARY = "".join(f"{number} 1\n" for number in range(257)).encode()


@pytest.mark.parametrize(
    ("changed", "data", "message"),
    [
        ("encoder.json", ENCODER[:-1], r"encoder\.json is not JSON: "),
        ("encoder.json", b"[]", r"encoder\.json holds a list, expected token -> id"),
        ("encoder.json", b'{"a":0}', r"dict\.txt names GPT-2's token 1, which encoder\.json lacks"),
        ("vocab.bpe", b"#version: 0.2\nt h e\n", r"vocab\.bpe, line 2: 't h e' is no pair"),
        ("vocab.bpe", b"#version\ne r\n", r"encoder\.json lacks the token 'er', a byte or"),
        ("vocab.bpe", b"\xff", r"vocab\.bpe is not UTF-8"),
        ("dict.txt", DICTIONARY[:-6], r"dict\.txt lacks the token 'th', a byte or what vocab\.bpe"),
        ("dict.txt", DICTIONARY[4:], r"dict\.txt lacks the token '!', a byte or what vocab\.bpe"),
        ("dict.txt", DICTIONARY + b"3 1\n", r"dict\.txt names a token twice"),
        ("dict.txt", b"\xff", r"dict\.txt is not UTF-8"),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_together_are_named(
    tmp_path: Path, changed: str, data: bytes, message: str
) -> None:
    files = {"encoder.json": ENCODER, "vocab.bpe": b"#version: 0.2\nt h\n", "dict.txt": DICTIONARY}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert open_tokenizer(str(tmp_path)).encode(["th"]) == [[4 + 256]]
    (tmp_path / changed).write_bytes(data)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(tmp_path))}, .*: {message}"):
        open_tokenizer(str(tmp_path))


def test_a_dropout_is_refused() -> None:
    fields = orjson.loads(TOKENIZER.definition)
    fields["model"]["dropout"] = 0.1
    with pytest.raises(ValueError, match=r"the tokenizer has a dropout"):
        Tokenizer(orjson.dumps(fields))


def test_only_gpt2s_splitter_is_taken_for_it() -> None:
    assert TOKENIZER.splits_as_gpt2
    fields = orjson.loads(TOKENIZER.definition)
    fields["pre_tokenizer"]["use_regex"] = False
    assert not Tokenizer(orjson.dumps(fields)).splits_as_gpt2
