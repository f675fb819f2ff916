"""The same commands inside `ray job submit --working-dir .`, on a local head bound to loopback."""

import json
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from corpus_helpers import REPOSITORY, Built, environment
from pretrain_helpers import column, free_ports, make_recipe, write_recipe, write_snapshot

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

RAY = str(Path(sys.executable).parent / "ray")


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, str]]:
    """Start a Ray head with token authentication; give the environment to submit with."""
    work = Path(tempfile.mkdtemp(prefix="ml", dir="/tmp"))  # socket paths must be short
    (work / "token").write_text(secrets.token_hex(16))
    # The agent's port is fixed by default: of two heads on a machine one would have no agent.
    port, dashboard, agent = free_ports(3)
    variables = environment() | {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(work / "token"),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    with (work / "log").open("w") as log:
        process = subprocess.Popen(
            [
                RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}",
                "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
                f"--dashboard-agent-listen-port={agent}", "--num-cpus=2",
                "--object-store-memory=200000000", f"--temp-dir={work}/ray",
            ],
            env=variables, cwd=work, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(dashboard, process, work / "log")
        yield variables
    finally:
        stop(process)
        shutil.rmtree(work, ignore_errors=True)


def wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail(f"no dashboard after 300 s: {log.read_text()}")


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End the head that this test started, and what it started, by their ids."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in started:
        if child.is_running():
            child.kill()


def submit(head: dict[str, str], *command: str) -> "subprocess.CompletedProcess[str]":
    """Submit a job and wait for its end; a head whose agent is not up is asked again."""
    deadline = time.monotonic() + 300
    while True:
        done = subprocess.run(
            [RAY, "job", "submit", "--working-dir", ".", "--", sys.executable, "-m", *command],
            cwd=REPOSITORY, env=head, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        unready = ("No available agent", "ServerDisconnectedError")
        if not any(each in done.stderr for each in unready) or time.monotonic() > deadline:
            return done
        time.sleep(1)


def listeners(head: dict[str, str]) -> set[str]:
    """Return the addresses on which processes of this user's Ray listen."""
    session = head["RAY_AUTH_TOKEN_PATH"].rsplit("/", 1)[0]
    found = set()
    for process in psutil.process_iter():
        try:
            if any(session in argument for argument in process.cmdline()):
                for connection in process.net_connections("inet"):
                    if connection.status == psutil.CONN_LISTEN:
                        found.add(connection.laddr.ip)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_refresh_and_train_as_jobs(head: dict[str, str], built: Built, tmp_path: Path) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    done = submit(head, "pipeline", "refresh", str(built.recipe), f"store={store}", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.dumps(built.summary) in done.stdout
    assert listeners(head) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}

    done = submit(
        head, "pretrain", "train", str(built.recipe), f"store={store}", f"pretrain.run={run}",
        "pretrain.preset=tiny", "pretrain.max_steps=3", "pretrain.warmup_steps=1",
        "pretrain.batch_sequences=8", "pretrain.microbatch_sequences=4",
        "pretrain.precision=fp32", "pretrain.checkpoint_every_steps=3",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [0, 1, 2]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000003"]


def test_a_job_trains_on_ray_workers(head: dict[str, str], tmp_path: Path) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    write_snapshot(store)
    recipe = write_recipe(make_recipe(store, run, ray_workers=2), tmp_path / "recipe.yaml")
    done = submit(head, "pretrain", "train", str(recipe))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "training begins on 2 ranks of Ray" in done.stdout
    assert len(column(run, "loss")) == 6
    assert listeners(head) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}


def test_relative_store_is_refused_in_a_job(head: dict[str, str], built: Built) -> None:
    done = submit(head, "pipeline", "refresh", str(built.recipe), "store=relative/store")
    assert done.returncode == 1
    assert "store is the relative path 'relative/store' inside a Ray job" in done.stdout
