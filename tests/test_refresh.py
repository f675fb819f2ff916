"""The cluster is invisible: workers, order, partitions and kills never show in a snapshot."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil
import pyarrow.parquet as pq
import pytest
from corpus_helpers import (
    REPOSITORY,
    Built,
    environment,
    hold,
    make_documents,
    refresh,
    run,
    start,
    wait_for_held,
)
from ray_helpers import one_node

from corpus.snapshots import newest_label, open_snapshot
from pipeline.__main__ import main
from pipeline.refresh import summarize

pytestmark = pytest.mark.slow

# In their order, each with how many tasks it has for the corpus of `built`.
_TASKS = {
    "clean": 10, "canaries": 1, "group": 8, "verify": 0, "judge": 1, "resolve": 1,
    "count-words": 10, "add-words": 1, "tokenizer": 1, "encode": 10, "pack": 10,
}  # fmt: skip
STAGES = tuple(_TASKS)


class Shared(NamedTuple):
    """A Ray that is there before a command and after it, and the directory that holds workers."""

    held: Path
    variables: dict[str, str]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Start a Ray for the commands of this file that do not start their own."""
    held = tmp_path_factory.mktemp("held")
    with one_node(4, hold(held, {})) as variables:
        yield Shared(held, variables)


def count_tasks(workers: int) -> dict[str, int]:
    """Return how many tasks each stage has for the corpus of `built`."""
    return _TASKS | {"verify": workers}


def files_of(store: Path) -> dict[str, tuple[int, int]]:
    """Return every file with its time and inode, which show whether it was touched."""
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


def test_summary_is_consistent(built: Built) -> None:
    summary = built.summary
    assert summary["documents_in"] == summary["documents_kept"] + sum(
        summary["documents_dropped"].values()
    )
    assert set(summary["documents_dropped"]) == {
        "invalid_json", "invalid_utf8", "corrupt_archive", "gopher_min_words", "exact", "minhash",
        "same_id",
    }  # fmt: skip
    assert summary["shards"] >= 4
    snapshot = open_snapshot(str(built.directory / "store"))
    assert summarize(snapshot) == summary
    assert snapshot.counts.sequences == sum(shard.rows for shard in snapshot.shards)
    assert {entry.source for entry in snapshot.inputs} == {"books", "news"}
    assert len(snapshot.inputs) == 10


def test_damage_is_dropped_with_its_place(built: Built) -> None:
    drops = [
        (row["file"], row["position"], row["rule"])
        for path in (built.directory / "store").glob("snapshots/first/dropped/*.parquet")
        for row in pq.read_table(path).to_pylist()
        if row["stage"] == "read"
    ]
    assert ("0.jsonl.zst", 4, "invalid_json") in drops
    assert ("1.jsonl", 1, "invalid_utf8") in drops
    (cut,) = [position for file, position, rule in drops if rule == "corrupt_archive"]
    assert 1 < cut < 300  # the records before the break were read


def test_second_refresh_touches_nothing_and_starts_no_ray(built: Built) -> None:
    before = files_of(built.directory / "store")
    code = (
        "import sys; from pipeline.__main__ import main; "
        f"status = main(['refresh', {str(built.recipe)!r}, '--json']); "
        "assert 'ray' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == built.summary  # and nothing else, so that it can be piped
    assert "nothing to do" in done.stderr
    words = [line.split() for line in done.stderr.splitlines()]
    told = {reason: int(count.replace(",", "")) for count, reason in filter(is_reason, words)}
    assert told == built.summary["documents_dropped"]
    assert sorted(told.values(), reverse=True) == list(told.values())
    assert ["documents_dropped", f"{sum(told.values()):,}"] in words
    assert files_of(built.directory / "store") == before


def test_a_refresh_ends_with_the_path_of_the_report(
    built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    for overrides in ((), ("snapshot=again",)):  # complete, and with nothing new
        assert main(["refresh", str(built.recipe), *overrides]) == 0
        last = capsys.readouterr().out.splitlines()[-1]
        path = f"{built.directory}/store/snapshots/first/report.html"
        assert last == f"report: {path}"
        assert Path(path).exists()


def is_reason(words: list[str]) -> bool:
    """Tell whether a line gives a count and a reason of drops, not a name and a value."""
    return len(words) == 2 and words[0].replace(",", "").isdecimal()


def test_no_work_files_stay(built: Built) -> None:
    names = {path.relative_to(built.directory).parts[3] for path in
             (built.directory / "store" / "snapshots" / "first").rglob("*")}  # fmt: skip
    assert names == {
        "clean", "dropped", "duplicates", "index", "nearest", "records", "shards", "snapshot.json",
        "report.html", "stats.json", "tokens",
    }  # fmt: skip
    assert {path.name for path in (built.directory / "store").iterdir()} == {
        "HEAD", "inputs.json", "lease", "lineage.json", "snapshots", "tokenizer",
    }  # fmt: skip


def test_one_worker_gives_the_same_snapshot(built: Built, shared: Shared, tmp_path: Path) -> None:
    overrides = (f"store={tmp_path}/store", "workers=1")
    assert refresh(built.recipe, *overrides, extra=shared.variables) == built.summary


def test_order_of_files_and_partitions_do_not_show(
    built: Built, shared: Shared, tmp_path: Path
) -> None:
    recipe = json.loads(built.recipe.read_text())
    for source in recipe["sources"]:
        names = sorted(Path(source["paths"][0]).iterdir(), reverse=True)
        source["paths"] = [str(name) for name in names]
    recipe["sources"].reverse()
    path = tmp_path / "reversed.yaml"
    path.write_text(json.dumps(recipe))
    overrides = (f"store={tmp_path}/store", "dedup.partitions=64", "workers=4")
    assert refresh(path, *overrides, extra=shared.variables) == built.summary


def relabelled(built: Built, directory: Path) -> Path:
    """Copy the store; return a recipe that takes the same files for a delivery `second`."""
    shutil.copytree(built.directory / "store", directory / "store")
    recipe = json.loads(built.recipe.read_text())
    recipe |= {"store": str(directory / "store"), "snapshot": "second"}
    path = directory / "second.yaml"
    path.write_text(json.dumps(recipe))
    return path


def test_a_new_label_without_new_inputs_makes_no_snapshot(built: Built, tmp_path: Path) -> None:
    recipe = relabelled(built, tmp_path)
    before = files_of(tmp_path / "store")
    assert refresh(recipe) == built.summary
    assert files_of(tmp_path / "store") == before


def test_a_new_label_with_new_inputs_is_a_second_snapshot(
    built: Built, shared: Shared, tmp_path: Path
) -> None:
    """What was delivered before is neither read again nor touched."""
    path = relabelled(built, tmp_path)
    store = tmp_path / "store"
    before = files_of(store / "snapshots" / "first")
    documents = make_documents(1, 120)[:8] + make_documents(50, 30)  # some are delivered before
    lines = [json.dumps(document) for document in documents]
    (tmp_path / "more.jsonl").write_text("\n".join(lines))
    recipe = json.loads(path.read_text())
    recipe["sources"][0]["paths"].append(str(tmp_path / "more.jsonl"))
    path.write_text(json.dumps(recipe))
    summary = refresh(path, extra=shared.variables)
    first, second = (open_snapshot(str(store), label) for label in ("first", "second"))
    assert newest_label(str(store)) == "second"
    assert summary == summarize(second)
    assert (second.parent, second.deliveries) == ("first", ("first", "second"))
    assert [each.name for each in second.inputs if each.snapshot == "second"] == ["more.jsonl"]
    assert second.parts[: len(first.parts)] == first.parts
    assert second.shards[: len(first.shards)] == first.shards
    assert {each.snapshot for each in second.parts[len(first.parts) :]} == {"second"}
    assert summary["documents_in"] == built.summary["documents_in"] + 38
    assert built.summary["documents_kept"] < summary["documents_kept"]
    assert files_of(store / "snapshots" / "first") == before
    assert run("pipeline", "audit", str(store)).returncode == 0
    again = files_of(store)
    assert refresh(path) == summary
    assert refresh(built.recipe, f"store={store}") == built.summary
    assert files_of(store) == again


def committed(root: Path, stage: str) -> int:
    return len(list((root / "records" / stage).glob("*.json")))


def halfway(tasks: Mapping[str, int]) -> dict[str, int]:
    """Say where to hold stages: where one record stands, or before the record of an only task."""
    return {stage: min(1, count - 1) for stage, count in tasks.items()}


def wait_until_dead(helpers: list[psutil.Process]) -> None:
    """Wait for Ray's workers, which end with the driver; end Ray's slower agents by their ids."""
    workers = [process for process in helpers if is_alive(process) and is_worker(process)]
    deadline = time.monotonic() + 120
    while any(map(is_alive, workers)):
        assert time.monotonic() < deadline, f"{workers} outlive their driver"
        time.sleep(0.05)
    for process in filter(is_alive, helpers):
        process.kill()


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def is_worker(process: psutil.Process) -> bool:
    """Tell a process that runs tasks from Ray's own services."""
    try:
        return any(name in " ".join(process.cmdline()) for name in ("ray::run_task", "ray::IDLE"))
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("stage", STAGES)
def test_driver_killed_in_every_stage(
    built: Built,
    shared: Shared,
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    stage: str,
) -> None:
    """One store goes through all parameters: each kill comes on top of the ones before.

    The driver of the last stage starts Ray itself, as on a laptop, and Ray ends with it.
    """
    store = tmp_path_factory.getbasetemp() / "killed" / "store"
    root = store / "snapshots" / "first"
    is_last, tasks = stage == STAGES[-1], count_tasks(1)[stage]
    held = tmp_path / "held" if is_last else shared.held
    variables = hold(held, halfway({stage: tasks})) | ({} if is_last else shared.variables)
    driver = start(
        "pipeline", "refresh", str(built.recipe), f"store={store}", "workers=1", extra=variables
    )
    worker = psutil.Process(wait_for_held(driver, held, stage))
    helpers = [worker, *psutil.Process(driver.pid).children(recursive=True)]
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    wait_until_dead(helpers)
    assert committed(root, stage) < tasks
    hold(held, {})
    if is_last:
        overrides = (f"store={store}",)
        assert refresh(built.recipe, *overrides, extra=shared.variables) == built.summary
        assert run("pipeline", "audit", str(store)).returncode == 0


def test_worker_killed_in_every_stage(built: Built, tmp_path: Path) -> None:
    held = tmp_path / "held"
    driver = start(
        "pipeline", "refresh", str(built.recipe), f"store={tmp_path}/store", "--json",
        extra=hold(held, halfway(count_tasks(2))),
    )  # fmt: skip
    for stage in STAGES:
        worker = psutil.Process(wait_for_held(driver, held, stage))
        assert is_worker(worker)
        worker.kill()
    out, err = driver.communicate(timeout=900)
    assert driver.returncode == 0, err
    assert json.loads(out) == built.summary


def test_ctrl_c_is_one_line_and_ends_what_was_started(built: Built, tmp_path: Path) -> None:
    held = tmp_path / "held"
    driver = start(
        "pipeline", "refresh", str(built.recipe), f"store={tmp_path}/store",
        extra=hold(held, halfway({"clean": 10})),
    )  # fmt: skip
    wait_for_held(driver, held, "clean")
    helpers = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGINT)
    err = driver.communicate(timeout=300)[1]
    assert driver.returncode == 130, err
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
    wait_until_dead(helpers)
