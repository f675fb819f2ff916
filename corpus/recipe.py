"""The recipe: one YAML file that holds a run, strictly checked, shared by both halves.

The models stand here rather than beside the code they configure because both command lines check
the whole recipe: a misspelt `pretrain` key is refused before a long corpus job, not after it.

Keys are of three kinds. *Lineage* keys (`clean`, `dedup`, `tokenizer`, `pack`) are fixed by the
first snapshot of a store; *snapshot* keys (`snapshot`, `sources`) belong to one snapshot; *run*
keys (`workers`, `dedup.partitions`, `dedup.memory_bytes`, `pretrain`, paths) are free and never
show in a result.
"""

from collections.abc import Sequence
from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from corpus.files import check_no_file_url
from corpus.records import AUTO, UTF_8
from corpus.section import Location, Section, load_section
from corpus.training import Pretrain

# What a task of deduplication takes with the rounds, blocks and shares that the stages were tuned
# with: 1.7 to 2.3 GiB (measured with benchmarks.scale on 10 million documents, 2026-11).
MEMORY_BYTES = 2 * 2**30

LABEL_PATTERN = r"^[a-z0-9][a-z0-9._-]*$"

Format = Literal[
    "auto",
    "jsonl",
    "csv",
    "tsv",
    "text",
    "paragraphs",
    "parquet",
    "arrow",
    "warc",
    "html",
    "wikipedia",
    "tar",
    "zip",
]

# Tables are read at any place, and so not within an archive.
Member = Literal["auto", "jsonl", "csv", "tsv", "text", "paragraphs", "warc", "html", "wikipedia"]

_ASCII = "".join(map(chr, range(128)))
_ENCODED = ("auto", "jsonl", "csv", "tsv", "text", "paragraphs", "tar", "zip")

# One record of this size at the end of a full part leaves a cleaning task below 1.5 GB: it peaks at
# 1,025 MiB with English text, 1,137 with Chinese, 1,019 with a page and 1,173 with one of as many
# tags as pages may have (benchmarks.memory record, November 2026); with the file read and the index
# written Chinese takes 1,251. With 64 MiB and an empty part it took 1,839.
MAX_RECORD_BYTES = 32 * 2**20


class Source(Section):
    """Where documents of one kind come from."""

    name: str = Field(pattern=LABEL_PATTERN, description="name of the source, part of every id")
    paths: tuple[Location, ...] = Field(
        min_length=1, description="files, directories or globs, each a path or an fsspec URL"
    )
    format: Format = Field(
        "auto", description="auto goes by the file's name, then by its first bytes"
    )
    text_key: str = Field("text", description="field or column of a record that holds its text")
    id_key: str = Field("id", description="field that holds its id; where absent, its URL")
    url_key: str = Field("url", description="field that holds its URL")
    language_key: str = Field("language", description="field that holds its language")
    markup: Literal["none", "html"] = Field(
        "none", description="what the text of records is written in; pages of archives are HTML"
    )
    members: Member = Field(
        "auto", description="format of the files in a tar or zip; auto goes by name and first bytes"
    )
    encoding: str = Field(
        UTF_8, description="of JSON lines, CSV, TSV and text, as Python names it; not UTF-16 or 32"
    )

    @model_validator(mode="after")
    def _ascii_is_itself(self) -> "Source":
        """Lines and fields are cut as bytes before they are decoded."""
        try:
            is_ascii = _ASCII.encode(self.encoding) == _ASCII.encode()
        except (LookupError, UnicodeError):
            raise ValueError(f"encoding is {self.encoding}, which Python does not know") from None
        if not is_ascii:
            raise ValueError(
                f"encoding is {self.encoding}, in which ASCII is not one byte a character: convert "
                "the files to UTF-8"
            )
        if self.encoding != UTF_8 and self.format not in _ENCODED:
            raise ValueError(f"encoding has no effect on {self.format}, which says its own")
        if self.members != AUTO and self.format not in (AUTO, "tar", "zip"):
            raise ValueError(f"members has no effect on {self.format}: it is for tar and zip")
        return self


class Languages(Section):
    """Which languages are kept, by identification on every document."""

    identify: bool = Field(True, description="label every document with the language found")
    keep: tuple[str, ...] = Field((), description="ISO 639 codes that stay; empty: all")
    min_score: int | dict[str, int] = Field(
        0,
        description="least share of the text in the language found, percent: one number, or a "
        "number by code, where languages that are not in it need none",
    )

    @model_validator(mode="after")
    def _scores_are_shares(self) -> "Languages":
        by_code = self.min_score if isinstance(self.min_score, dict) else {"": self.min_score}
        for code, score in by_code.items():
            if not 0 <= score <= 100:
                of = f" of {code}" if code else ""
                raise ValueError(f"min_score{of} is {score}, expected a percentage, 0 to 100")
            if code and self.keep and code not in self.keep:
                raise ValueError(f"min_score of {code} has no effect, as keep does not list it")
        return self

    @model_validator(mode="after")
    def _identify_what_is_kept(self) -> "Languages":
        if not self.identify and (self.keep or self.min_score):
            raise ValueError("keep and min_score need languages.identify")
        return self

    def least_score(self, code: str) -> int:
        """Return the least share of a text found to be in this language; 0: any will do."""
        if isinstance(self.min_score, dict):
            return self.min_score.get(code, 0)
        return self.min_score


class Clean(Section):
    """How text is cleaned and which rules a document must pass."""

    model_config = ConfigDict(allow_inf_nan=False)

    rules: tuple[Literal["gopher_repetition", "gopher_quality", "c4", "fineweb"], ...] = Field(
        ("gopher_quality",), description="sets of rules with their published thresholds, in order"
    )
    thresholds: dict[str, float | None] = Field(
        {}, description="other thresholds by the rule's name; null switches a rule off"
    )
    c4_bad_words: tuple[Location, ...] = Field(
        (), description="files of words, one a line; a document that holds one goes, by the set c4"
    )
    languages: Languages = Languages()
    fix_mojibake: bool = Field(True, description="repair text decoded with the wrong encoding")
    mask: tuple[Literal["email", "ip"], ...] = Field(
        (), description="what is replaced in the text: mail addresses, public IP addresses"
    )
    url_blocklists: tuple[Location, ...] = Field(
        (), description="files of domains and URL prefixes, one a line, whose documents go"
    )
    boilerplate: Location | None = Field(
        None, description="list of repeated lines to take out, as `boilerplate` learned it"
    )
    decontaminate: tuple[Location, ...] = Field(
        (), description="evaluation files; a document that shares an n-gram with them goes"
    )
    decontaminate_ngram: int = Field(13, ge=1, description="words of such an n-gram")
    user_rules: tuple[str, ...] = Field(
        (), description="module:function, each a callable over Arrow batches, in order"
    )
    max_record_bytes: int = Field(
        MAX_RECORD_BYTES, ge=1, description="a longer line, page or file becomes a drop, bytes"
    )

    @model_validator(mode="after")
    def _rules_stand_once(self) -> "Clean":
        if len(set(self.rules)) < len(self.rules):
            raise ValueError("rules names a set twice")
        return self


class Dedup(Section):
    """When two documents are duplicates."""

    threshold: float = Field(0.8, gt=0, le=1, description="least Jaccard similarity of n-grams")
    bands: int = Field(32, ge=1, le=250, description="MinHash bands")
    rows: int = Field(8, ge=1, description="MinHash rows a band; bands x rows permutations")
    ngram: int = Field(5, ge=1, description="words a shingle")
    verify: Literal["exact", "signature"] = Field(
        "exact", description="compare the n-grams themselves, or estimate from signatures"
    )
    scope: Literal["corpus", "snapshot", "source"] = Field(
        "corpus", description="compare with all documents, or within one delivery or source only"
    )
    prefer: tuple[Literal["source", "quality", "length"], ...] = Field(
        (), description="who stays among the duplicates of a delivery, before the text's hash"
    )
    source_priority: tuple[str, ...] = Field(
        (), description="sources from the most to the least preferred; unlisted ones come last"
    )
    quality_key: str | None = Field(
        None, description="field of a record that holds its quality score, higher is better"
    )
    partitions: int = Field(16, ge=1, description="tasks of the grouping step (a run key)")
    memory_bytes: int = Field(
        MEMORY_BYTES,
        ge=1,
        description="memory that a task of deduplication works in, about: its rounds of keys and "
        "pairs, blocks of texts and shares of documents follow from it, bytes (a run key); the one "
        "task that joins all documents takes up to four times it, 4 bytes a document",
    )

    @model_validator(mode="after")
    def _partitions_is_a_power_of_two(self) -> "Dedup":
        if self.partitions & (self.partitions - 1):
            raise ValueError(f"partitions is {self.partitions}, expected a power of two")
        return self

    @model_validator(mode="after")
    def _preferences_fit(self) -> "Dedup":
        if len(set(self.prefer)) < len(self.prefer):
            raise ValueError("prefer names a criterion twice")
        for criterion, key, value in (
            ("source", "source_priority", self.source_priority),
            ("quality", "quality_key", self.quality_key),
        ):
            if (criterion in self.prefer) != bool(value):
                raise ValueError(f"prefer has {criterion} exactly if {key} is given")
        return self


class Tokenizer(Section):
    """A byte-level BPE to train on the first snapshot, or an existing one to take."""

    vocab_size: int = Field(
        50265, ge=261, le=2**31 - 1, description="entries, special tokens and 256 bytes included"
    )
    path: Location | None = Field(None, description="directory with an existing tokenizer.json")
    sample_fraction: float = Field(
        1.0, gt=0, le=1, description="share of the documents to learn from, by id hash"
    )

    @model_validator(mode="after")
    def _sampled_where_trained(self) -> "Tokenizer":
        if self.path is not None and self.sample_fraction != 1:
            raise ValueError(
                "sample_fraction is the share of documents that a tokenizer is trained on, but "
                "`path` names one that is trained already: leave one of them out"
            )
        return self


class Pack(Section):
    """How token ids become sequences and shards."""

    sequence_length: int = Field(512, ge=8, le=65535, description="tokens a row")
    format: Literal[
        "full-sentences", "doc-sentences", "segment-pair", "sentence-pair", "stream", "best-fit"
    ] = Field(
        "full-sentences",
        description="an input format of the RoBERTa paper's Table 2, "
        "contiguous blocks, or whole documents by best fit",
    )
    shard_size_bytes: int = Field(64 * 2**20, ge=1, description="aim for a shard's token ids")
    validation_fraction: float = Field(
        0.005, ge=0, lt=1, description="share of documents kept for validation, by id hash"
    )


class Recipe(Section):
    """Everything a run is made from."""

    store: Location = Field(description="root of the store: a path or an fsspec URL")
    snapshot: str = Field(pattern=LABEL_PATTERN, description="label of the snapshot")
    sources: tuple[Source, ...] = Field(min_length=1, description="where documents come from")
    clean: Clean = Clean()
    dedup: Dedup = Dedup()
    tokenizer: Tokenizer = Tokenizer()
    pack: Pack = Pack()
    workers: int | None = Field(None, ge=1, description="parallel tasks; absent: one a CPU")
    pretrain: Pretrain = Pretrain()

    @model_validator(mode="after")
    def _store_is_no_file_url(self) -> "Recipe":
        check_no_file_url("store", self.store)
        return self

    @model_validator(mode="after")
    def _source_names_are_distinct(self) -> "Recipe":
        names = [source.name for source in self.sources]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two sources are called {name}")
        return self


def load_recipe(path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe, apply `section.key=value` overrides and check all of it."""
    try:
        return load_section(Recipe, path, overrides)
    except IsADirectoryError:
        raise ValueError(f"recipe {path} is a directory, expected a YAML file") from None
    except OSError as error:
        raise ValueError(f"recipe {path} cannot be read: {error.strerror or error}") from error
