"""One command at a time writes a store; a dead holder blocks nobody, a fenced one learns of it."""

import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import orjson
import pytest

from corpus import lease
from corpus.files import create, exists, join, list_names, read_bytes, remove, remove_tree
from corpus.lease import holding

TIMEOUT_SECONDS = 120
HOLD = """
import sys
from corpus.lease import holding
try:
    with holding(sys.argv[1], sys.argv[2]):
        print("held", flush=True)
        sys.stdin.read()
except ValueError as error:
    print("refused", error, flush=True)
"""


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A store, once on this disk and once on an fsspec filesystem."""
    if request.param == "local":
        yield str(tmp_path / "store")
        return
    place = f"memory://{uuid.uuid4().hex}"
    yield place
    remove_tree(place)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """From `look_from_elsewhere` on, this process looks at leases as from another host."""
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.01)
    yield monkeypatch


def look_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "_visible_processes", lambda: "another host")


def start_holder(store: str, label: str = "first") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, store, label],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def end(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=TIMEOUT_SECONDS)


def kill(process: subprocess.Popen[str]) -> None:
    """End a process as a power cut would, and leave it a zombie until `end`."""
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def heartbeats() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "lease heartbeat"]


def refusal(store: str) -> str:
    """Return what the second is told."""
    with pytest.raises(ValueError, match=r"held|damaged") as caught, holding(store, "second"):
        raise AssertionError("two hold one lease")
    return str(caught.value)


def lease_file(store: str, name: str) -> str:
    return join(store, "lease", name)


def test_the_second_is_told_who_holds_it(store: str) -> None:
    with holding(store, "refresh of 2026-w47"):
        message = refusal(store)
    assert message.startswith(f"{store} is held by refresh of 2026-w47 (process {os.getpid()} on ")
    content = orjson.loads(read_bytes(lease_file(store, "00000001.json")))
    assert f"on {content['host']}, since {content['since']})" in message
    assert "wait until it ends, or end it, and run this one again" in message


def test_what_the_file_says_holds_no_secret(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "do-not-tell")
    with holding(store, "first"):
        content = read_bytes(lease_file(store, "00000001.json"))
    assert b"do-not-tell" not in content
    assert sorted(orjson.loads(content)) == [
        "host", "label", "nonce", "process_id", "processes", "since", "started_seconds",
    ]  # fmt: skip


def test_released_is_free_and_older_files_go(store: str) -> None:
    for number in range(1, 4):
        with holding(store, "one after another") as held:
            held.check()
            assert held.number == number
            assert list_names(join(store, "lease")) == [f"{number:08d}.json"]
    assert list_names(join(store, "lease")) == ["00000003.json", "00000003.released"]


def test_an_exception_inside_releases_and_ends_the_thread(store: str) -> None:
    with pytest.raises(KeyboardInterrupt), holding(store, "first"):
        assert len(heartbeats()) == 1
        raise KeyboardInterrupt
    assert heartbeats() == []
    with holding(store, "second"):
        pass


@pytest.mark.parametrize("reaped", [False, True], ids=["zombie", "reaped"])
def test_a_killed_holder_on_this_host_is_taken_over_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reaped: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def no_watching(*_: object) -> bool:
        raise AssertionError("watched a heartbeat where the process itself can be seen")

    monkeypatch.setattr(lease, "_is_beating", no_watching)
    store = str(tmp_path / "store")
    holder = start_holder(store)
    assert first_line(holder) == "held\n"
    assert f"held by first (process {holder.pid} on " in refusal(store)
    kill(holder)
    if reaped:
        end(holder)
    with holding(store, "second") as held:
        assert held.number == 2
    end(holder)
    assert f"held by first (process {holder.pid}" in caplog.text
    assert "is gone: taking over" in caplog.text


def test_another_process_under_the_same_id_is_not_the_holder(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = lease._started_seconds
    monkeypatch.setattr(lease, "_started_seconds", lambda process_id: 1.0)
    with holding(store, "started a second after boot") as old:
        monkeypatch.setattr(lease, "_started_seconds", real)
        with holding(store, "second"), pytest.raises(ValueError, match="was lost to second"):
            old.check()


def test_of_threads_that_take_over_exactly_one_wins(tmp_path: Path) -> None:
    racers = 6
    for attempt in range(5):
        store = str(tmp_path / f"{attempt}")
        leave_dead_holder(store)
        barrier, all_refused = threading.Barrier(racers), threading.Semaphore(0)

        def race(
            number: int,
            store: str = store,
            barrier: threading.Barrier = barrier,
            all_refused: threading.Semaphore = all_refused,
        ) -> bool:
            barrier.wait()
            try:
                with holding(store, f"racer {number}") as held:
                    for _ in range(racers - 1):
                        assert all_refused.acquire(timeout=TIMEOUT_SECONDS)
                    held.check()
                    return True
            except ValueError as error:
                assert "held by racer" in str(error)
                all_refused.release()
                return False

        with ThreadPoolExecutor(racers) as pool:
            assert sorted(pool.map(race, range(racers))) == [False] * (racers - 1) + [True]


def leave_dead_holder(store: str) -> None:
    """Leave a lease as a process of this host that was killed leaves it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lease, "_started_seconds", lambda _: 1.0)
        dead = lease._this_process("dead")
    assert create(lease_file(store, "00000001.json"), dead.model_dump_json().encode())


def test_of_processes_that_take_over_exactly_one_wins(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    leave_dead_holder(store)
    racers = [start_holder(store, f"racer {number}") for number in range(3)]
    answers = [first_line(racer) for racer in racers]
    for racer in racers:
        end(racer)
    assert sorted(answer.split()[0] for answer in answers) == ["held", "refused", "refused"]
    assert all("held by racer" in answer for answer in answers if answer != "held\n")


def test_who_loses_the_race_names_the_winner(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rivals = []

    def create_too_late(path: str, data: bytes) -> bool:
        monkeypatch.setattr(lease, "create", create)
        rival = holding(store, "rival")
        rival.__enter__()
        rivals.append(rival)
        return create(path, data)

    monkeypatch.setattr(lease, "create", create_too_late)
    assert "held by rival" in refusal(store)
    rivals[0].__exit__(None, None, None)


def test_a_number_whose_turn_is_over_does_not_hold(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two others came and went between the listing and the creation."""

    def create_much_too_late(path: str, data: bytes) -> bool:
        monkeypatch.setattr(lease, "create", create)
        for _ in range(2):
            with holding(store, "rival"):
                pass
        assert not exists(path)
        return create(path, data)

    monkeypatch.setattr(lease, "create", create_much_too_late)
    with holding(store, "slow") as held:
        assert held.number == 3
        held.check()
        assert list_names(join(store, "lease")) == ["00000003.json"]


def test_a_creation_that_the_filesystem_repeated_is_ours(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create_twice(path: str, data: bytes) -> bool:
        monkeypatch.setattr(lease, "create", create)
        assert create(path, data)
        return create(path, data)

    monkeypatch.setattr(lease, "create", create_twice)
    with holding(store, "first") as held:
        assert held.number == 1
        held.check()


def test_a_foreign_holder_whose_heart_beats_is_left_alone(
    store: str, elsewhere: pytest.MonkeyPatch
) -> None:
    elsewhere.setattr(lease, "HEARTBEAT_SECONDS", 0.01)
    elsewhere.setattr(lease, "WATCH_SECONDS", TIMEOUT_SECONDS)  # ends with the first beat it sees
    with holding(store, "abroad") as held:
        look_from_elsewhere(elsewhere)
        assert "held by abroad" in refusal(store)
        held.check()


def test_a_foreign_holder_whose_heart_stopped_is_taken_over_and_fenced(
    store: str, elsewhere: pytest.MonkeyPatch
) -> None:
    elsewhere.setattr(lease, "HEARTBEAT_SECONDS", TIMEOUT_SECONDS)
    elsewhere.setattr(lease, "WATCH_SECONDS", 0.05)
    with holding(store, "abroad") as old:
        old.check()
        look_from_elsewhere(elsewhere)
        with holding(store, "second") as new:
            assert new.number == 2
            with pytest.raises(ValueError, match=r"was lost to second \(.*nothing was committed"):
                old.check()
            new.check()
    assert heartbeats() == []


def test_where_processes_cannot_be_told_the_heartbeat_decides(
    store: str, elsewhere: pytest.MonkeyPatch
) -> None:
    elsewhere.setattr(lease, "_visible_processes", lambda: None)
    elsewhere.setattr(lease, "WATCH_SECONDS", 0.05)
    with holding(store, "first"), holding(store, "second") as new:
        assert new.number == 2


def test_the_last_look_comes_after_the_deadline(store: str, elsewhere: pytest.MonkeyPatch) -> None:
    """A newcomer that was stopped for long itself must not take that for a death."""
    clock = iter([0.0, 0.0, 1000.0])
    beats = iter([b"1", b"1", b"2"])
    stopped = SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None)
    elsewhere.setattr(lease, "time", stopped)
    elsewhere.setattr(lease, "_read_beat", lambda path: next(beats))
    assert lease._is_beating(store, 1, lease._this_process("abroad"))


def test_a_failed_beat_is_tried_again(
    store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    beats: list[bytes] = []
    renewed = threading.Event()

    def fail_once(path: str, data: bytes) -> None:
        beats.append(data)
        if len(beats) == 1:
            raise TimeoutError("the network is away")
        renewed.set()

    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr(lease, "write_bytes", fail_once)
    with holding(store, "first"):
        assert renewed.wait(TIMEOUT_SECONDS)
    assert beats[:2] == [b"1", b"2"]
    assert "00000001.beat was not renewed: the network is away" in caplog.text


def test_a_lease_whose_file_is_gone_is_lost(store: str) -> None:
    with holding(store, "first") as held:
        remove(lease_file(store, "00000001.json"))
        with pytest.raises(ValueError, match="was lost to an unknown process"):
            held.check()


@pytest.mark.parametrize("content", [b"", b"{}", b"[1", b'{"process_id": 0}'])
def test_a_damaged_file_is_named(store: str, content: bytes) -> None:
    path = lease_file(store, "00000007.json")
    create(path, content)
    message = refusal(store)
    assert message.startswith(f"{path} is damaged (")
    assert f"make sure that nothing else works on {store}, then delete this file" in message
    remove(path)
    with holding(store, "second"):
        pass


def test_numbers_never_go_back(store: str) -> None:
    """After a hand has deleted a file, what is left of its number must not release the next one."""
    with holding(store, "first"):
        pass
    remove(lease_file(store, "00000001.json"))
    with holding(store, "second") as held:
        assert held.number == 2


def test_other_files_in_the_directory_do_not_count(store: str) -> None:
    create(lease_file(store, "00000009.json.tmp"), b"")
    create(lease_file(store, "notes.txt"), b"")
    with holding(store, "first") as held:
        assert held.number == 1


def test_a_stopped_process_still_holds(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    holder = start_holder(store)
    assert first_line(holder) == "held\n"
    holder.send_signal(signal.SIGSTOP)
    try:
        assert "held by first" in refusal(store)
    finally:
        holder.send_signal(signal.SIGCONT)
        end(holder)
    with holding(store, "second"):
        pass


def test_a_store_that_went_away_does_not_hide_why_the_command_failed(
    store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(*_: object) -> None:
        raise OSError("nobody answers")

    with pytest.raises(ValueError, match="the reason"), holding(store, "first"):
        monkeypatch.setattr(lease, "create", gone)
        raise ValueError("the reason")
    assert "the lease was not released, as a killed holder's is not: nobody answers" in caplog.text
