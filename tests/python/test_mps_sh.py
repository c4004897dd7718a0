"""mps.sh as a person uses it, with the fake device: start, status, stop, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
START = ("start", "configs/fake.toml", "--set", "server.listen=tcp://127.0.0.1:*")

pytestmark = pytest.mark.skipif(
    not (ROOT / "build" / "bin" / "abacus-controller").exists(), reason="nothing is built in build/; run ./mps.sh test"
)


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A controller name of this test's own, with a run directory of its own; whatever runs is stopped afterwards."""
    run_dir = tmp_path / "run"
    monkeypatch.setenv("ABACUS_RUN_DIR", str(run_dir))
    unique = f"test-{os.getpid()}-{time.monotonic_ns() % 1_000_000}"
    yield unique
    mps("stop", "--name", unique)


def mps(*arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "mps.sh", *arguments], cwd="/", capture_output=True, text=True, timeout=timeout_s, check=False
    )


def status(name: str) -> dict:
    return json.loads(mps("status", "--name", name, "--json").stdout)


def is_gone(pid: int) -> bool:
    """True for a zombie, too: in some containers nobody reaps orphans."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except FileNotFoundError:
        return True


def test_help_names_every_command() -> None:
    result = mps("help")
    assert result.returncode == 0
    for command in ("demo", "start", "status", "stop", "test", "export", "setup"):
        assert f"./mps.sh {command}" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("strat",), "unknown command 'strat'"),
        (("start", "--nmae", "x"), "unknown option '--nmae'"),
        (("start", "a.toml", "b.toml"), "one configuration"),
        (("start", "--name"), "--name needs a value"),
        (("stop", "--name", "../x"), "not the name of a controller"),
        (("status", "extra"), "unknown argument 'extra'"),
        (("demo", "extra"), "takes no argument"),
    ],
)
def test_wrong_command_lines_are_named(arguments: tuple[str, ...], message: str) -> None:
    result = mps(*arguments)
    assert result.returncode == 2
    assert message in result.stderr


def test_nothing_runs(name: str) -> None:
    assert mps("status", "--name", name).returncode == 3
    stopped = mps("stop", "--name", name)
    assert stopped.returncode == 0
    assert f"no controller '{name}' is running" in stopped.stdout


def test_start_status_stop(name: str) -> None:
    started = mps(*START, "--name", name)
    assert started.returncode == 0, started.stdout + started.stderr
    assert "fake-image: serving" in started.stdout
    assert f"'{name}' serves at tcp://127.0.0.1:" in started.stdout
    state = status(name)
    assert {service["state"] for service in state["services"]} == {"serving"}
    assert f"'{name}' serves at {state['endpoint']}" in started.stdout

    again = mps(*START, "--name", name)
    assert again.returncode == 1
    assert f"(pid {state['pid']})" in again.stderr

    stopped = mps("stop", "--name", name)
    assert stopped.returncode == 0
    assert f"stopped '{name}'" in stopped.stdout
    assert mps("status", "--name", name).returncode == 3
    assert is_gone(state["pid"])


def test_a_stuck_controller_is_killed(name: str) -> None:
    # A stopped process cannot answer SIGTERM.
    assert mps(*START, "--name", name, "--set", "server.drain_timeout_ms=0").returncode == 0
    state = status(name)
    os.kill(state["pid"], signal.SIGSTOP)
    stopped = mps("stop", "--name", name)
    assert stopped.returncode == 0
    assert "killing it" in stopped.stderr
    assert is_gone(state["pid"])


def test_start_shows_why_it_failed(name: str, tmp_path: Path) -> None:
    result = mps(*START, "--name", name, "--set", "scheduler.policy=fcsf")
    assert result.returncode == 1
    assert 'did you mean "fcfs"?' in result.stderr
    assert f"'{name}' did not start" in result.stderr

    missing = mps("start", str(tmp_path / "nowhere.toml"))
    assert missing.returncode == 1
    assert "nowhere.toml" in missing.stderr
    assert mps("status", "--name", name).returncode == 3


def test_a_taken_port_is_named(name: str) -> None:
    assert mps(*START, "--name", name).returncode == 0
    endpoint = status(name)["endpoint"]
    other = f"{name}-2"
    result = mps("start", "configs/fake.toml", "--name", other, "--set", f"server.listen={endpoint}")
    assert result.returncode == 1
    assert endpoint in result.stderr
    assert mps("status", "--name", other).returncode == 3


def test_foreground_stops_on_a_signal(name: str) -> None:
    process = subprocess.Popen([ROOT / "mps.sh", *START, "--name", name, "--foreground"], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while mps("status", "--name", name).returncode != 0:
            assert time.monotonic() < deadline
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()
        process.wait()
    assert mps("status", "--name", name).returncode == 3
