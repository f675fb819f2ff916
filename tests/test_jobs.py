"""Tasks and their records, without Ray: an output exists once its record does."""

import os
import pickle
from pathlib import Path
from threading import Barrier
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from corpus.files import checksum, join, list_names, write_bytes
from corpus.snapshots import Tree
from pipeline import jobs
from pipeline.jobs import (
    WORK_STAGES,
    Output,
    Pool,
    Record,
    Stages,
    Task,
    describe_file,
    in_runs,
    read_record,
    run_task,
    sweep,
)


def shout(tree: Tree, name: str, word: str) -> Output:
    """Write one file and count its letters."""
    write_bytes(tree.own(f"out/{name}.txt"), word.upper().encode())
    return Output((f"out/{name}.txt",), {"letters": len(word)})


def fail(tree: Tree, name: str) -> Output:
    """Write a file, then fail."""
    write_bytes(tree.own(f"out/{name}.txt"), b"half")
    raise RuntimeError("halfway")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run missing tasks in this process; return the list of what ran."""
    ran: list[str] = []

    def run_missing(stages: Stages, stage: str, missing: list[Task]) -> None:
        for task in missing:
            run_task(stages.tree, stage, task)
            ran.append(task.name)

    monkeypatch.setattr(Stages, "_run_missing", run_missing)
    return ran


def test_a_task_commits_its_outputs_and_then_its_record(tmp_path: Path) -> None:
    root = str(tmp_path)
    run_task(Tree(root), "talk", Task("a", shout, ("hello",)))
    assert list_names(root) == ["out/a.txt", "records/talk/a.json"]
    record = read_record(root, "talk", "a")
    assert record.counts == {"letters": 5}
    assert record.files == (
        {"path": "out/a.txt", "size_bytes": 5, "checksum": checksum(join(root, "out/a.txt"))},
    )
    assert 0 <= record.elapsed_seconds < 60


def test_a_task_that_fails_leaves_no_record(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="halfway"):
        run_task(Tree(str(tmp_path)), "talk", Task("a", fail, ()))
    assert Stages(Tree(str(tmp_path)), None).missing("talk", ["a"]) == {"a"}


def test_running_a_task_twice_is_harmless(tmp_path: Path) -> None:
    root = str(tmp_path)
    run_task(Tree(root), "talk", Task("a", shout, ("hello",)))
    before = (tmp_path / "records/talk/a.json").read_bytes()
    run_task(Tree(root), "talk", Task("a", shout, ("hello",)))
    assert (tmp_path / "records/talk/a.json").read_bytes() == before


def test_only_what_has_no_record_is_run(tmp_path: Path, here: list[str]) -> None:
    root = str(tmp_path)
    tasks = [Task(name, shout, (name,)) for name in ("a", "b", "c")]
    run_task(Tree(root), "talk", tasks[1])
    write_bytes(join(root, "records/talk/a.json.tmp"), b"")
    stages = Stages(Tree(root), 2)
    assert stages.missing("talk", ["a", "b"]) == {"a"}
    assert stages.missing("talk", ["b"]) == set()
    done = stages.run("talk", tasks)
    assert here == ["a", "c"]
    assert list(done) == ["a", "b", "c"]
    assert all(isinstance(record, Record) for record in done.values())
    assert stages.run("talk", tasks) == done
    assert stages.run("whisper", tasks).keys() == done.keys()
    assert here == ["a", "c", "a", "b", "c"]


def test_where_nothing_is_missing_ray_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_import_ray", lambda: pytest.fail("Ray was started"))
    run_task(Tree(str(tmp_path)), "talk", Task("a", shout, ("hello",)))
    stages = Stages(Tree(str(tmp_path)), None)
    stages.run("talk", [Task("a", shout, ("hello",))])
    stages.close()
    assert stages.tasks_run == 0


def test_an_embedded_ray_stays_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.import_module", lambda name: name)
    for given, expected in (({}, "0"), ({"RAY_ADDRESS": "10.0.0.1:6379"}, None)):
        environment: dict[str, str] = dict(given)
        monkeypatch.setattr(os, "environ", environment)
        assert jobs._import_ray() == "ray"
        assert environment.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER") == expected


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b'{"files": [], "counts": {}}', b"[]", b"null", b'"x"']
)
def test_a_damaged_record_is_named(tmp_path: Path, content: bytes) -> None:
    write_bytes(str(tmp_path / "records/talk/a.json"), content)
    with pytest.raises(ValueError, match=r"the record .*a\.json is damaged .*: delete it to redo"):
        read_record(str(tmp_path), "talk", "a")


def test_a_described_file(tmp_path: Path) -> None:
    write_bytes(str(tmp_path / "a/b"), b"abc")
    described: dict[str, Any] = describe_file(str(tmp_path), "a/b")
    assert described == {
        "path": "a/b", "size_bytes": 3,
        "checksum": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }  # fmt: skip


def test_a_sweep_keeps_what_is_listed_and_the_other_records(tmp_path: Path) -> None:
    root = str(tmp_path)
    keep = {"clean/a.parquet", "stats.json"}
    for name in [
        *keep, "clean/b.parquet", "clean/tmpx.tmp", "records/clean/a.json",
        *[f"records/{stage}/x.json" for stage in WORK_STAGES],
        *[f"work/{stage}/x.arrow" for stage in WORK_STAGES], "work/other",
    ]:  # fmt: skip
        write_bytes(join(root, name), orjson.dumps(name))
    for _ in range(2):
        sweep(root, keep)
        assert list_names(root) == ["clean/a.parquet", "records/clean/a.json", "stats.json"]


class Reference:
    """What Ray gives for what it holds."""

    def __init__(self, value: Any) -> None:  # noqa: ANN401 - any
        self.value = value


class InProcessRay:
    """Runs what it is sent at once, and notes what it was sent and handed."""

    exceptions = SimpleNamespace(RayTaskError=KeyError)

    def __init__(self) -> None:
        self.put_values: list[Any] = []
        self.sent_bytes: list[int] = []

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def put(self, value: Any) -> Reference:  # noqa: ANN401 - any
        self.put_values.append(value)
        return Reference(value)

    def remote(self, **_: Any) -> Any:  # noqa: ANN401 - any
        def send(function: Any) -> Any:  # noqa: ANN401 - any
            def run(*given: Any) -> Reference:  # noqa: ANN401 - any
                plain = [each for each in given if not isinstance(each, Reference)]
                self.sent_bytes.append(len(pickle.dumps(plain)))
                values = [e.value if isinstance(e, Reference) else e for e in given]
                return Reference(function(*values))

            return SimpleNamespace(remote=run)

        return send

    def wait(self, running: list[Reference], num_returns: int) -> tuple[list[Reference], None]:
        return running[:num_returns], None

    def get(self, reference: Reference) -> Any:  # noqa: ANN401 - any
        return reference.value


def count_all(tree: Tree, name: str, every: list[str], number: int, few: tuple[int, int]) -> Output:
    """Count what is shared by all tasks."""
    write_bytes(tree.own(f"out/{name}.txt"), str(number).encode())
    return Output((f"out/{name}.txt",), {"every": len(every), "few": sum(few)})


def test_what_tasks_share_is_sent_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of all parts in the arguments of each task would be as many lists as there are."""
    ray = InProcessRay()
    monkeypatch.setattr(jobs, "_import_ray", lambda: ray)
    for parts in (100, 1000):
        every = [f"web-{n:016x}-00000" for n in range(parts)]
        tasks = [Task(f"{parts}-{n}", count_all, (every, n, (n, n))) for n in range(5)]
        done = Stages(Tree(str(tmp_path)), None).run("count", tasks)
        assert [each.counts for each in done.values()] == [
            {"every": parts, "few": 2 * n} for n in range(5)
        ]
        assert [each for each in ray.put_values if each is every] == [every]
    assert len(set(ray.sent_bytes[:5] + [each - 1 for each in ray.sent_bytes[5:]])) == 1


def test_records_are_read_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a bucket each is a round trip, and a stage may have 100,000 of them."""
    tasks = [Task(name, shout, (name,)) for name in "abcd"]
    for task in tasks:
        run_task(Tree(str(tmp_path)), "talk", task)
    together = Barrier(len(tasks), timeout=20)

    def read(root: str, stage: str, name: str) -> Record:
        together.wait()
        return read_record(root, stage, name)

    monkeypatch.setattr(jobs, "read_record", read)
    assert list(Stages(Tree(str(tmp_path)), None).run("talk", tasks)) == [*"abcd"]


class LastFirst(InProcessRay):
    """Whatever was started last ends first."""

    def wait(self, running: list[Reference], num_returns: int) -> tuple[list[Reference], None]:
        return running[-num_returns:], None


def times(item: int, factors: list[int]) -> int:
    return item * sum(factors)


def test_a_pool_gives_results_in_order_and_sends_what_is_shared_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ray = LastFirst()
    monkeypatch.setattr(jobs, "_import_ray", lambda: ray)
    factors = [1, 2]
    for workers in (2, 3, None):
        ray.put_values.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ray, "shutdown", lambda: pytest.fail("not ours"), raising=False)
            with Pool(workers) as pool:
                assert list(pool.map("times", times, range(7), factors)) == [*range(0, 21, 3)]
        assert ray.put_values == [factors]


@pytest.mark.parametrize(
    ("workers", "items", "least"), [(1, [1, 2, 3], 2), (4, [5], 2), (4, [], 2), (4, [6, 7], 3)]
)
def test_a_pool_of_one_worker_or_for_few_items_works_here(
    monkeypatch: pytest.MonkeyPatch, workers: int, items: list[int], least: int
) -> None:
    monkeypatch.setattr(jobs, "_import_ray", lambda: pytest.fail("Ray was started"))
    with Pool(workers) as pool:
        found = list(pool.map("times", times, items, [2], least=least))
    assert found == [2 * each for each in items]


def test_runs_are_bounded_in_bytes_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_BYTES_OF_A_RUN", 10)
    monkeypatch.setattr(jobs, "_FILES_OF_A_RUN", 3)
    for sizes, runs in (
        ([], []),
        ([4, 6, 1], [[4, 6], [1]]),
        ([11, 1, 30, 2], [[11], [1], [30], [2]]),
        ([0] * 7, [[0, 0, 0], [0, 0, 0], [0]]),
    ):
        assert in_runs(sizes, lambda size: size) == runs


class Failed(KeyError):
    """As Ray has it: the error of a task with its cause."""

    cause = ValueError("part 3 is damaged")


def test_a_pool_says_what_a_task_failed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = InProcessRay()
    monkeypatch.setattr(jobs, "_import_ray", lambda: ray)

    def get(_: Reference) -> None:
        raise Failed

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(ValueError, match="signatures: part 3 is damaged"):
        list(Pool(2).map("signatures", times, [1, 2], [3]))
