"""A schedule: the crontab line and the manifest do what they say, and errors name the field."""

import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from corpus.recipe import LABEL_PATTERN, load_recipe
from pipeline.schedule import LABEL_FORMAT, parse_cron, schedule

WEEKLY = "17 3 * * 1"
STUB = """#!/bin/sh
pwd >> "$RECORD"
printf '%s\\n' "$@" >> "$RECORD"
"""
RECIPE = {
    "store": "/mnt/maskline/store",
    "snapshot": "first",
    "sources": [{"name": "books", "paths": ["/mnt/maskline/raw/*.jsonl", "s3://bucket/raw"]}],
}


def write_recipe(path: Path, **changes: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(RECIPE | changes))
    return str(path)


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    return write_recipe(tmp_path / "weekly.yaml")


def split(lines: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the crontab line and the manifest."""
    start = next(n for n, line in enumerate(lines) if line.startswith("# KubeRay RayCronJob"))
    (entry,) = [line for line in lines[:start] if not line.startswith("#")]
    manifest: dict[str, Any] = yaml.safe_load("\n".join(lines[start:]))
    return entry, manifest


def as_cron_runs_it(entry: str) -> str:
    """Take the five fields off and do what cron does to %."""
    command = entry.split(" ", 5)[5]
    assert re.search(r"(?<!\\)%", command) is None, "cron would make a line break of it"
    return command.replace(r"\%", "%")


def run_in_shell(command: str, record: Path, path: str = "/usr/bin:/bin") -> list[str]:
    """Run a command as cron does; return where the stub ran and with which arguments."""
    environment = {"PATH": path, "RECORD": str(record)}
    subprocess.run(["/bin/sh", "-c", command], cwd="/", env=environment, check=True)
    return record.read_text().splitlines()


def write_stub(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STUB)
    path.chmod(0o755)
    return path


def label_now() -> str:
    return datetime.now(UTC).strftime(LABEL_FORMAT)


AWKWARD = 'a b/it\'s "so" $HOME 100% `x` & co'


def test_the_crontab_line_refreshes_with_a_label_from_the_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path / AWKWARD / "weekly.yaml")
    stub = write_stub(tmp_path / AWKWARD / "python")
    monkeypatch.setattr(sys, "executable", str(stub))
    entry, _ = split(list(schedule(recipe, WEEKLY)))
    assert entry.startswith(f"{WEEKLY} ")
    before = label_now()
    directory, *arguments, label = run_in_shell(as_cron_runs_it(entry), tmp_path / "record")
    assert directory == str(Path(__file__).parents[1])
    assert arguments == ["-m", "pipeline", "refresh", recipe]
    assert before <= label.removeprefix("snapshot=") <= label_now()
    assert load_recipe(recipe, [label]).snapshot == label.removeprefix("snapshot=")


def test_the_entrypoint_of_the_manifest_does_the_same(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / AWKWARD / "weekly.yaml")
    write_stub(tmp_path / "bin" / "python")
    _, manifest = split(list(schedule(recipe, WEEKLY)))
    before = label_now()
    _, *arguments, label = run_in_shell(
        manifest["spec"]["jobTemplate"]["entrypoint"],
        tmp_path / "record",
        f"{tmp_path / 'bin'}:/usr/bin:/bin",
    )
    assert arguments == ["-m", "pipeline", "refresh", recipe]
    assert before <= label.removeprefix("snapshot=") <= label_now()


def test_a_label_is_a_label_and_each_minute_has_its_own() -> None:
    label = datetime(2026, 11, 23, 3, 17).strftime(LABEL_FORMAT)
    assert label == "2026-11-23t0317"
    assert re.fullmatch(LABEL_PATTERN, label)
    assert label < datetime(2026, 11, 23, 3, 18).strftime(LABEL_FORMAT)


def test_the_manifest(recipe: str) -> None:
    _, manifest = split(list(schedule(recipe, f" {WEEKLY.replace(' ', '   ')} ")))
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayCronJob")
    assert manifest["metadata"] == {"name": "maskline-weekly"}
    assert manifest["spec"]["schedule"] == WEEKLY
    job = manifest["spec"]["jobTemplate"]
    assert job["submissionMode"] == "HTTPMode"
    assert job["shutdownAfterJobFinishes"] is True
    assert job["backoffLimit"] == 0
    cluster = job["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", cluster["rayVersion"])
    assert cluster["workerGroupSpecs"][0]["groupName"] == "workers"


def pods_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = manifest["spec"]["jobTemplate"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_every_pod_reports_no_usage_and_mounts_the_store(recipe: str) -> None:
    _, manifest = split(list(schedule(recipe, WEEKLY)))
    for pod in pods_of(manifest):
        (container,) = pod["containers"]
        assert container["env"] == [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}]
        assert container["volumeMounts"] == [{"name": "maskline", "mountPath": "/mnt/maskline"}]
        claim = {"name": "maskline", "persistentVolumeClaim": {"claimName": "maskline"}}
        assert pod["volumes"] == [claim]


def test_whatever_a_recipe_names_on_disks_is_mounted_where_it_is(tmp_path: Path) -> None:
    sources = [
        {"name": "a", "paths": ["/data/raw/*/x.jsonl", "/data/raw/deep/er.jsonl", "s3://bucket/x"]},
        {"name": "b", "paths": ["/mnt/maskline/b.jsonl", "/srv"]},
    ]
    path = write_recipe(
        tmp_path / "r.yaml",
        sources=sources,
        clean={"url_blocklists": ["/lists/of/hosts.txt"]},
        tokenizer={"path": "/mnt/maskline/store/tokenizer/x"},
    )
    lines = list(schedule(path, WEEKLY))
    claims = {
        "maskline": "/mnt/maskline", "maskline-2": "/data/raw", "maskline-3": "/srv",
        "maskline-4": "/lists/of",
    }  # fmt: skip
    assert [line for line in lines if line.startswith("# claim ")] == [
        f"# claim {claim}: {folder} as it is here" for claim, folder in claims.items()
    ]
    for pod in pods_of(split(lines)[1]):
        mounts = pod["containers"][0]["volumeMounts"]
        assert {each["name"]: each["mountPath"] for each in mounts} == claims
        named = {each["name"]: each["persistentVolumeClaim"] for each in pod["volumes"]}
        assert named == {claim: {"claimName": claim} for claim in claims}


def test_a_path_with_dots_is_mounted_where_it_leads(tmp_path: Path) -> None:
    sources = [{"name": "a", "paths": ["/mnt/maskline/../c/raw"]}]
    path = write_recipe(tmp_path / "r.yaml", sources=sources)
    claims = [line for line in schedule(path, WEEKLY) if line.startswith("# claim ")]
    assert [line.split()[3] for line in claims] == ["/mnt/maskline", "/mnt/c"]


@pytest.mark.parametrize("given", ["/data*/x.txt", "/*.txt", "/corpus.txt"])
def test_files_at_the_root_are_refused(tmp_path: Path, given: str) -> None:
    path = write_recipe(tmp_path / "r.yaml", sources=[{"name": "a", "paths": [given]}])
    with pytest.raises(ValueError, match=rf"{re.escape(given)} lies at the root, where no volume"):
        schedule(path, WEEKLY)


def test_a_store_with_a_line_break_is_refused(tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "r.yaml", store="/a/x\ny/store")
    with pytest.raises(ValueError, match="cannot stand in a crontab, whose entry is one line"):
        schedule(path, WEEKLY)


def test_what_lies_in_buckets_needs_no_volume(tmp_path: Path) -> None:
    remote = [{"name": "books", "paths": ["s3://bucket/raw"]}]
    recipe = write_recipe(tmp_path / "r.yaml", store="s3://bucket/store", sources=remote)
    _, manifest = split(list(schedule(recipe, WEEKLY)))
    for pod in pods_of(manifest):
        assert "volumes" not in pod
        assert "volumeMounts" not in pod["containers"][0]


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("base", "maskline-base"),
        ("My Corpus_2", "maskline-my-corpus-2"),
        ("é", "maskline"),
        ("a" * 50, "maskline-" + "a" * 27),
        ("a" * 26 + "-b", "maskline-" + "a" * 26),
    ],
)
def test_the_manifest_is_named_after_the_recipe(tmp_path: Path, stem: str, name: str) -> None:
    _, manifest = split(list(schedule(write_recipe(tmp_path / f"{stem}.yaml"), WEEKLY)))
    assert manifest["metadata"]["name"] == name
    assert len(name) <= 36


def test_a_schedule_that_begins_with_a_star_stays_text(recipe: str) -> None:
    _, manifest = split(list(schedule(recipe, "*/5 * * * *")))
    assert manifest["spec"]["schedule"] == "*/5 * * * *"


def test_the_recipe_is_named_by_its_absolute_path(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(recipe).parent)
    assert list(schedule("weekly.yaml", WEEKLY)) == list(schedule(recipe, WEEKLY))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"store": "output/store"}, "store is the relative path 'output/store'"),
        (
            {"sources": [{"name": "books", "paths": ["/raw", "my-text"]}]},
            "sources.books is the relative path 'my-text'",
        ),
        ({"tokenizer": {"path": "bpe"}}, "tokenizer.path is the relative path 'bpe'"),
        (
            {"clean": {"url_blocklists": ["/block.txt", "block.txt"]}},
            "clean.url_blocklists is the relative path 'block.txt'",
        ),
        (
            {"clean": {"decontaminate": ["eval/e.jsonl"]}},
            "clean.decontaminate is the relative path 'eval/e.jsonl'",
        ),
        (
            {"clean": {"boilerplate": "lines.jsonl"}},
            "clean.boilerplate is the relative path 'lines.jsonl'",
        ),
        (
            {"clean": {"rules": ["c4"], "c4_bad_words": ["words/en.txt"]}},
            "clean.c4_bad_words is the relative path 'words/en.txt'",
        ),
    ],
)
def test_relative_paths_are_refused(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", **changes)
    with pytest.raises(ValueError, match="another working directory: write an absolute") as caught:
        schedule(recipe, WEEKLY)
    assert named in str(caught.value)


def test_lists_at_absolute_paths_and_urls_and_in_the_store_are_taken(tmp_path: Path) -> None:
    lists = {
        "url_blocklists": ["/mnt/block.txt", "s3://bucket/block.txt"],
        "decontaminate": ["sha256-0123"],
        "boilerplate": "/mnt/lines.jsonl",
    }
    assert split(list(schedule(write_recipe(tmp_path / "r.yaml", clean=lists), WEEKLY)))


def test_a_rule_that_the_scheduled_job_does_not_find_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies in the working directory, which is on the import path here, under cron not."""
    (tmp_path / "rule_of_mine.py").write_text("def keep(batch): ...")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    mine = {"user_rules": ["json:loads", "rule_of_mine:keep"]}
    with pytest.raises(ValueError, match=r"finds no module rule_of_mine: install it for") as caught:
        schedule(write_recipe(tmp_path / "r.yaml", clean=mine), WEEKLY)
    assert "r.yaml: clean.user_rules names rule_of_mine:keep" in str(caught.value)
    # tests/ itself lies below the directory in which the job runs.
    found = {"user_rules": ["json:loads", "tests.test_schedule:split"]}
    assert split(list(schedule(write_recipe(tmp_path / "r.yaml", clean=found), WEEKLY)))


def test_a_recipe_that_is_wrong_or_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no recipe at /"):
        schedule(str(tmp_path / "none.yaml"), WEEKLY)
    with pytest.raises(ValueError, match="unknown key stroe"):
        schedule(write_recipe(tmp_path / "r.yaml", stroe="/x"), WEEKLY)


def test_a_recipe_that_a_refresh_would_refuse_is_refused(tmp_path: Path) -> None:
    clean = {"rules": ["c4"], "thresholds": {"gopher_min_words": 3}}
    with pytest.raises(ValueError, match=r"clean\.thresholds\.gopher_min_words has no effect"):
        schedule(write_recipe(tmp_path / "r.yaml", clean=clean), WEEKLY)


def test_a_path_with_a_line_break_is_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "a\nb.yaml")
    with pytest.raises(ValueError, match="cannot stand in a crontab"):
        schedule(recipe, WEEKLY)


ALL = ("*", "*", "*", "*", "*")


def field(number: int, text: str) -> str:
    """Return an expression in which only this field is not `*`."""
    return " ".join([*ALL[:number], text, *ALL[number + 1 :]])


@pytest.mark.parametrize(
    ("number", "text", "values"),
    [
        (0, "*", set(range(60))),
        (0, "0,30", {0, 30}),
        (0, "*/20", {0, 20, 40}),
        (1, "9-17/4", {9, 13, 17}),
        (1, "23", {23}),
        (2, "1-3,31", {1, 2, 3, 31}),
        (3, "jan,Jun-AUG", {1, 6, 7, 8}),
        (4, "sun,mon-fri/2", {0, 1, 3, 5}),
        (4, "06", {6}),
    ],
)
def test_fields(number: int, text: str, values: set[int]) -> None:
    assert parse_cron(field(number, text))[number] == values


@pytest.mark.parametrize(
    ("number", "text", "message"),
    [
        (0, "60", "cron field minute is '60': '60' is not in 0-59"),
        (0, "-1", "cron field minute is '-1': '' is not in 0-59"),
        (0, "1,,2", "cron field minute is '1,,2': '' is not in 0-59"),
        (0, "\u0661", "cron field minute is '\u0661': '\u0661' is not in 0-59"),
        (0, "5/10", "cron field minute is '5/10': the step in 5/10 needs a range or \\*"),
        (0, "*/0", "cron field minute is '\\*/0': the step '0' is not a number from 1 to 59"),
        (0, "*/60", "the step '60' is not a number from 1 to 59"),
        (0, "*/", "the step '' is not a number from 1 to 59"),
        (0, "*-5", "cron field minute is '\\*-5': '\\*' is not in 0-59"),
        (0, "1/2/3", "the step '2/3' is not|needs a range"),
        (1, "24", "cron field hour is '24': '24' is not in 0-23"),
        (1, "22-2", "cron field hour is '22-2': the range 22-2 runs backwards"),
        (1, "mon", "cron field hour is 'mon': 'mon' is not in 0-23"),
        (2, "0", "cron field day of month is '0': '0' is not in 1-31"),
        (3, "13", "cron field month is '13': '13' is not in 1-12 or jan-dec"),
        (4, "7", "cron field day of week is '7': '7' is not in 0-6 or sun-sat"),
        (4, "monday", "'monday' is not in 0-6 or sun-sat"),
        (4, "?", "cron field day of week is '\\?'"),
    ],
)
def test_a_wrong_field_is_named(recipe: str, number: int, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(recipe, field(number, text))


@pytest.mark.parametrize("cron", ["", "@weekly", "17 3 * *", "0 17 3 * * 1", "TZ=UTC 17 3 * * 1"])
def test_five_fields_are_expected(recipe: str, cron: str) -> None:
    with pytest.raises(ValueError, match=r"has \d fields, expected 5 \(minute, hour, day of month"):
        schedule(recipe, cron)


@pytest.mark.parametrize("cron", ["0 0 31 2 *", "0 0 30,31 feb *", "0 0 31 4,6,9,11 *"])
def test_a_date_that_never_comes_is_refused(recipe: str, cron: str) -> None:
    with pytest.raises(ValueError, match="never fires: day of month"):
        schedule(recipe, cron)


@pytest.mark.parametrize("cron", ["0 0 29 2 *", "0 0 31 2 1", "0 0 1-31 2 *", "0 0 31 * *"])
def test_a_date_that_comes_is_not(recipe: str, cron: str) -> None:
    assert split(list(schedule(recipe, cron)))[1]["spec"]["schedule"] == cron
