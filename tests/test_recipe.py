"""A recipe is checked strictly, and what is wrong is named with what was meant."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import ValidationError

from corpus.recipe import Recipe, load_recipe

MINIMAL: dict[str, Any] = {
    "store": "/store",
    "snapshot": "first",
    "sources": [{"name": "books", "paths": ["/raw"]}],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "recipe.yaml"


def load(path: Path, changes: dict[str, Any] | None = None, *overrides: str) -> Recipe:
    path.write_text(yaml.safe_dump(MINIMAL | (changes or {})))
    return load_recipe(str(path), overrides)


def test_a_minimal_recipe_has_the_papers_defaults(path: Path) -> None:
    recipe = load(path)
    assert (recipe.dedup.threshold, recipe.dedup.bands, recipe.dedup.rows) == (0.8, 32, 8)
    assert (recipe.dedup.ngram, recipe.dedup.verify) == (5, "exact")
    assert (recipe.dedup.scope, recipe.dedup.prefer) == ("corpus", ())
    assert (recipe.tokenizer.vocab_size, recipe.pack.sequence_length) == (50265, 512)
    pretrain = recipe.pretrain
    assert (pretrain.batch_sequences, pretrain.learning_rate) == (8192, 6e-4)
    assert (pretrain.warmup_steps, pretrain.max_steps) == (24_000, 500_000)
    assert (pretrain.adam_betas, pretrain.adam_epsilon) == ((0.9, 0.98), 1e-6)
    assert recipe.workers is None


def test_the_keys_that_recipes_rely_on_are_there(path: Path) -> None:
    keys = {name: set(field.model_fields) for name, field in (
        ("dedup", type(load(path).dedup)), ("pack", type(load(path).pack)),
        ("pretrain", type(load(path).pretrain)),
    )}  # fmt: skip
    assert keys["dedup"] == {
        "threshold", "bands", "rows", "ngram", "verify", "scope", "prefer", "source_priority",
        "quality_key", "partitions", "memory_bytes",
    }  # fmt: skip
    assert keys["pack"] == {
        "sequence_length", "format", "shard_size_bytes", "validation_fraction",
    }  # fmt: skip
    assert keys["pretrain"] >= {
        "run", "preset", "max_steps", "batch_sequences", "microbatch_sequences", "learning_rate",
        "warmup_steps", "seed", "zero_stage", "processes", "checkpoint_every_steps",
    }  # fmt: skip


def test_every_key_says_what_it_is() -> None:
    schema = Recipe.model_json_schema()
    models = [schema, *schema["$defs"].values()]
    missing = [
        name
        for model in models
        for name, field in model["properties"].items()
        if "description" not in field and "$ref" not in str(field)
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stores": 1}, "unknown key stores: did you mean store?"),
        ({"workerz": 1}, "unknown key workerz: did you mean workers?"),
        ({"clean": {"ruels": []}}, "unknown key clean.ruels: did you mean rules?"),
        ({"dedup": {"treshold": 1}}, "unknown key dedup.treshold: did you mean threshold?"),
        (
            {"tokenizer": {"vocabsize": 1}},
            "unknown key tokenizer.vocabsize: did you mean vocab_size?",
        ),
        (
            {"pack": {"sequence_lenght": 1}},
            "unknown key pack.sequence_lenght: did you mean sequence_length?",
        ),
        ({"pretrain": {"seeed": 1}}, "unknown key pretrain.seeed: did you mean seed?"),
        (
            {"pretrain": {"cache": {"directory": "c", "max_bytes": 1, "max_byte": 1}}},
            "unknown key pretrain.cache.max_byte: did you mean max_bytes?",
        ),
        (
            {"clean": {"languages": {"kep": []}}},
            "unknown key clean.languages.kep: did you mean keep?",
        ),
        (
            {"sources": [{"name": "a", "paths": ["x"], "fromat": "text"}]},
            "unknown key sources.0.fromat: did you mean format?",
        ),
        ({"zzz": 1}, "unknown key zzz: did you mean "),
    ],
)
def test_an_unknown_key_is_refused_by_name(
    path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        load(path, changes)
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("key", ["store", "snapshot", "sources"])
def test_a_missing_key_is_named(path: Path, key: str) -> None:
    path.write_text(yaml.safe_dump({k: v for k, v in MINIMAL.items() if k != key}))
    with pytest.raises(ValueError, match=rf": {key} is missing$"):
        load_recipe(str(path))


def test_a_missing_key_of_a_source_is_the_only_complaint(path: Path) -> None:
    with pytest.raises(ValueError, match=r"yaml: sources\.0\.paths is missing$"):
        load(path, {"sources": [{"name": "a"}]})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dedup.threshold=0", r"dedup\.threshold: .* greater than 0, found 0"),
        ("dedup.threshold=1.01", r"dedup\.threshold: .* less than or equal to 1, found 1\.01"),
        ("dedup.threshold=.nan", r"dedup\.threshold: "),
        ("dedup.bands=251", r"dedup\.bands: .* less than or equal to 250, found 251"),
        ("dedup.verify=maybe", r"dedup\.verify: .*'exact' or 'signature', found 'maybe'"),
        ("dedup.partitions=12", "dedup: partitions is 12, expected a power of two"),
        ("dedup.scope=file", r"dedup\.scope: .*'corpus', 'snapshot' or 'source', found 'file'"),
        ("dedup.prefer=[age]", r"dedup\.prefer\.0: .*'length', found 'age'"),
        ("dedup.prefer=[length,length]", "dedup: prefer names a criterion twice"),
        ("dedup.prefer=[source]", "dedup: prefer has source exactly if source_priority is given"),
        ("dedup.source_priority=[a]", "dedup: prefer has source exactly if source_priority is"),
        ("dedup.quality_key=score", "dedup: prefer has quality exactly if quality_key is given"),
        ("tokenizer.vocab_size=260", r"tokenizer\.vocab_size: .*equal to 261, found 260"),
        ("pack.sequence_length=7", r"pack\.sequence_length: .* 8, found 7"),
        ("pack.sequence_length=65536", r"pack\.sequence_length: .* 65535, found 65536"),
        ("pack.validation_fraction=1", r"pack\.validation_fraction: .* less than 1, found 1"),
        ("pack.format=streams", r"pack\.format: .*full-sentences"),
        ("clean.rules=[c4, c4]", r"clean: rules names a set twice"),
        ("pretrain.zero_stage=4", r"pretrain\.zero_stage: "),
        ("pretrain.max_steps=1.5", r"pretrain\.max_steps: .*integer.*found 1\.5"),
        ("pretrain.warmup_steps=500001", "warmup_steps is 500001, more than max_steps 500000"),
        ("pretrain.zero_stage=0", "zero_stage 0 with bf16 would accumulate gradients in bf16"),
        ("pretrain.random_token_prob=0.91", r"leave_unmasked_prob \+ random_token_prob is above 1"),
        ("pretrain.adam_betas=[0.9, 1.0]", r"pretrain\.adam_betas\.1: .* less than 1, found 1\.0"),
        ("pretrain.adam_betas=[-0.1, 0.9]", r"pretrain\.adam_betas\.0: .* equal to 0, found -0\.1"),
        ("pretrain.mixing={a: .inf}", r"pretrain\.mixing\.a: .* finite number, found inf"),
        ("clean.thresholds={c4_words: .inf}", r"clean\.thresholds\.c4_words: .* finite number"),
        ("workers=0", "workers: .* 1, found 0"),
        ("store=''", "store: .* at least 1 character"),
        ("snapshot=../up", r"snapshot: .* pattern .* found '\.\./up'"),
        ("snapshot=UP", "snapshot: .* pattern"),
        ("pretrain=3", "pretrain: expected keys .* found 3"),
    ],
)
def test_a_bad_value_is_refused_with_what_was_found(
    path: Path, override: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load(path, None, override)


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "inf", "1e999"])
def test_every_number_is_finite(path: Path, value: str) -> None:
    sections = ("clean", "dedup", "tokenizer", "pack", "pretrain")
    keys = [
        f"{section}.{name}"
        for section in sections
        for name, field in type(getattr(load(path), section)).model_fields.items()
        if float in (field.annotation, *get_args(field.annotation))
    ]
    assert {"pretrain.learning_rate", "pretrain.max_gradient_norm", "dedup.threshold"} <= set(keys)
    for key in keys:
        with pytest.raises(ValueError, match=rf"{re.escape(key)}: "):
            load(path, None, f"{key}={value}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("store", "PATH"),
        ("sources", "[{name: books, paths: [/raw, PATH]}]"),
        ("tokenizer.path", "PATH"),
        ("clean.boilerplate", "PATH"),
        ("clean.c4_bad_words", "[PATH]"),
        ("clean.url_blocklists", "[PATH]"),
        ("clean.decontaminate", "[PATH]"),
        ("pretrain.run", "PATH"),
        ("pretrain.checkpoint_root", "PATH"),
        ("pretrain.init_from", "PATH"),
        ("pretrain.cache", "{directory: PATH, max_bytes: 1}"),
    ],
)
def test_paths_are_there_and_written_out(path: Path, key: str, value: str) -> None:
    def give(written: str) -> Recipe:
        return load(path, None, f"{key}={value.replace('PATH', written)}")

    give("/home/~user/~")
    with pytest.raises(ValueError, match=rf"{key}.*: .* at least 1 character, found ''"):
        give("''")
    for home in ("~/here", "~someone/here"):
        message = rf"{key}.*: {home} begins with ~, .*: write it out, or use \$HOME on"
        with pytest.raises(ValueError, match=message):
            give(home)


def test_a_record_of_a_path_with_a_tilde_stays_readable() -> None:
    made_before = MINIMAL | {"sources": [{"name": "books", "paths": ["~/raw"]}]}
    assert Recipe.model_validate(made_before).sources[0].paths == ("~/raw",)


@pytest.mark.parametrize("text", ["2026", "2026_11", "12:30", "0x10", "3.5", "no"])
def test_a_label_that_yaml_takes_for_something_else_is_refused_clearly(
    path: Path, text: str
) -> None:
    message = r"snapshot: Input should be a valid string, found (\d|False)"
    with pytest.raises(ValueError, match=message):
        load(path, None, f"snapshot={text}")
    assert load(path, None, "snapshot='2026'").snapshot == "2026"


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("sources={texts: [raw]}", "sources: expected a list, as [a, b], found {'texts': ['raw']}"),
        ("clean.rules=c4", "clean.rules: expected a list, as [a, b], found 'c4'"),
        ("sources=[]", "sources: expected a list of at least 1, found []"),
        ("sources=[raw]", "sources.0: expected keys with values, as {a: 1}, found 'raw'"),
        ("pack=512", "pack: expected keys with values, as {a: 1}, found 512"),
        ("clean.thresholds=[1]", "clean.thresholds: expected keys with values, as {a: 1}, found"),
    ],
)
def test_mistakes_are_told_in_the_words_of_yaml(path: Path, override: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        load(path, None, override)


@pytest.mark.parametrize("text", ["2026-11-21", "2026-11", "20261121a", "2026.11.21", "v1.0"])
def test_labels_that_look_like_dates_stay_text(path: Path, text: str) -> None:
    assert load(path, None, f"snapshot={text}").snapshot == text
    path.write_text(path.read_text().replace("snapshot: first", f"snapshot: {text}"))
    assert load_recipe(str(path)).snapshot == text


def test_overrides_reach_every_kind_of_key(path: Path) -> None:
    recipe = load(
        path,
        {"workers": 4, "dedup": {"rows": 4}},
        "pretrain.learning_rate=6e-4",
        "pretrain.weight_decay=1e-2",
        "pretrain.adam_betas=[0.8, 0.9]",
        "dedup.bands=16",
        "workers=",
        "pretrain.run=/runs/a=b",
        "sources=[{name: x, paths: [a, b]}]",
        "store=s3://bucket/key",
    )
    assert recipe.pretrain.learning_rate == 6e-4
    assert recipe.pretrain.weight_decay == 0.01
    assert recipe.pretrain.adam_betas == (0.8, 0.9)
    assert (recipe.dedup.bands, recipe.dedup.rows) == (16, 4)
    assert recipe.workers is None
    assert recipe.pretrain.run == "/runs/a=b"
    assert recipe.sources[0].paths == ("a", "b")
    assert recipe.store == "s3://bucket/key"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("encoding: utf-16", "encoding is utf-16, in which ASCII is not one byte a character"),
        ("encoding: utf8000", "encoding is utf8000, which Python does not know"),
        ("encoding: rot13", "encoding is rot13, which Python does not know"),
        ("format: warc, encoding: latin-1", "encoding has no effect on warc, which says its own"),
        ("format: csv, members: text", "members has no effect on csv: it is for tar and zip"),
        ("members: parquet", "members: Input should be 'auto', 'jsonl', 'csv', "),
    ],
)
def test_how_a_source_is_read_is_checked(path: Path, given: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(path, None, f"sources=[{{name: x, paths: [a], {given}}}]")


def test_the_later_override_wins(path: Path) -> None:
    assert load(path, None, "workers=2", "workers=3").workers == 3


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("workers", "override 'workers' has no '=': write section.key=value"),
        ("store.a=1", "store is not a section of the recipe"),
        (
            "sources.0.name=x",
            r"sources is a list, which is given whole, as JSON: sources=\[\.\.\.\]",
        ),
        ("dedup.bnads=1", r"unknown key dedup\.bnads: did you mean bands"),
        ("a.b.c=1", "unknown key a: did you mean"),
        ("store=[", r"override 'store=\[': the value is not YAML"),
        ("store=@x", "override 'store=@x': the value is not YAML"),
        ("=1", "unknown key"),
    ],
)
def test_a_bad_override_is_refused(path: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(path, None, override)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "holds no mapping of recipe keys"),
        (b"", "holds no mapping of recipe keys"),
        (b"store: [", "is not YAML"),
        (b"\x00", "is not YAML"),
        (b"\xff\xfe\xff", "is not YAML"),
        (b"!!python/object/apply:os.system [id]", "is not YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_recipe(str(path))


def test_a_recipe_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"there is no recipe at /nowhere/recipe\.yaml"):
        load_recipe("/nowhere/recipe.yaml")


def test_a_list_within_a_section_is_given_whole(path: Path) -> None:
    message = r"mask is a list, which is given whole, as JSON: clean\.mask=\[\.\.\.\]"
    with pytest.raises(ValueError, match=message):
        load(path, {"clean": {"mask": ["ip"]}}, "clean.mask.0=email")
    assert load(path, None, 'clean.mask=["email"]').clean.mask == ("email",)


def test_two_sources_of_one_name_are_refused(path: Path) -> None:
    sources = [{"name": "a", "paths": ["x"]}, {"name": "b", "paths": ["y"]}]
    load(path, {"sources": sources})
    with pytest.raises(ValueError, match="two sources are called a"):
        load(path, {"sources": [*sources, {"name": "a", "paths": ["z"]}]})


def test_no_sources_and_no_paths_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match=r"sources: .* at least 1"):
        load(path, {"sources": []})
    with pytest.raises(ValueError, match=r"sources\.0\.paths: .* at least 1"):
        load(path, {"sources": [{"name": "a", "paths": []}]})


def test_a_recipe_does_not_change(path: Path) -> None:
    recipe = load(path)
    with pytest.raises(ValidationError, match="frozen"):
        recipe.store = "/other"  # type: ignore[misc]


def test_a_recipe_survives_the_manifest(path: Path) -> None:
    recipe = load(path, {"dedup": {"bands": 7}}, "workers=3")
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_a_key_that_stands_twice(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("store: a\nstore: b\n")
    with pytest.raises(ValueError, match="key store twice"):
        load_recipe(str(path))


def test_a_section_left_empty_takes_overrides(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("store: a\nsnapshot: b\nsources: [{name: c, paths: [d]}]\npretrain:\ndedup:\n")
    recipe = load_recipe(str(path), ["pretrain.seed=3"])
    assert (recipe.pretrain.seed, recipe.dedup.threshold) == (3, 0.8)


def test_a_file_url_as_store(tmp_path: Path) -> None:
    path = tmp_path / "url.yaml"
    path.write_text("store: file:///a\nsnapshot: b\nsources: [{name: c, paths: [d]}]\n")
    with pytest.raises(ValueError, match="write a local path without a scheme"):
        load_recipe(str(path))


def test_a_recipe_that_is_a_directory_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^recipe {tmp_path} is a directory, expected a YAML"):
        load_recipe(str(tmp_path))
