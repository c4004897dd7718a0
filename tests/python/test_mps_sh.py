"""mps.sh as a person uses it, with the fake device: start, status, stop, and what it says when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
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


def mps(
    *arguments: str, timeout_s: float = 120, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "mps.sh", *arguments],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
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
    commands = ("demo", "start", "status", "stop", "trace", "profile", "train", "test", "export", "setup")
    for command in commands:
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
        (("trace",), "needs the name of the file"),
        (("trace", "a", "b"), "writes one file"),
        (("trace", "a", "--name", "../x"), "not the name of a controller"),
        (("profile", "--minute", "1"), "unknown option '--minute'"),
        (("profile", "a.toml", "b.toml"), "one configuration"),
        (("profile", "--groups"), "--groups needs a value"),
        (("train", "a.toml", "b.jsonl"), "not both"),
        (("train", "--epochs"), "--epochs needs a value"),
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


def test_the_environment_of_the_caller_breaks_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong one')\n")
    environment = {key: value for key, value in os.environ.items() if key != "HOME"}
    environment |= {"PYTHONPATH": str(tmp_path), "PYTHONHOME": "/nonexistent"}
    # The packages that run this test, wherever the password database says that home is.
    environment.setdefault("ABACUS_CACHE_DIR", str(Path(sys.prefix).parent))
    started = mps(*START, "--name", name, environment=environment)
    assert started.returncode == 0, started.stdout + started.stderr
    target = tmp_path / "trace.json"
    assert mps("trace", str(target), "--name", name, environment=environment).returncode == 0
    assert target.exists()
    assert mps("stop", "--name", name, environment=environment).returncode == 0

    # What PYTHONPATH is for still works: a module of the user's own.
    (tmp_path / "elsewhere.py").write_text("import torch\n\n\ndef make():\n    return torch.nn.Linear(4, 2)\n")
    export = ("export", "--module", "elsewhere:make", "--name", "own", "--input", "x:float32:batch,4", "--batch", "1,2")
    exported = mps(*export, "--out", str(tmp_path / "store"), environment=environment)
    assert exported.returncode == 0, exported.stdout + exported.stderr
    assert (tmp_path / "store" / "own.toml").exists()


def controller(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = ROOT / "build" / "bin" / "abacus-controller"
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def test_the_controller_shows_its_configuration(name: str, tmp_path: Path) -> None:
    check = ("--config", str(ROOT / "configs" / "fake.toml"), "--check", "--json")
    shown = controller(*check, "--set", f"server.name={name}", "--set", "worker.round_timeout_ms=1.5")
    assert shown.returncode == 0, shown.stderr
    config = json.loads(shown.stdout)
    assert config["server"]["name"] == name
    assert config["server"]["drain_timeout_ms"] == 10000
    assert config["worker"]["round_timeout_ms"] == 1.5
    assert config["worker"]["gpu"] == ["0"]
    assert config["run_dir"] == str(tmp_path / "run")
    assert controller("--run-dir").stdout == f"{tmp_path}/run\n"
    image, text = config["service"]
    assert image == {
        "name": "fake-image",
        "model": str(ROOT / "configs" / "fake" / "fake-image.toml"),
        "qos_ms": 50,
        "queue_limit": 1024,
        "max_batch": 0,
        "gpu": "0",
    }
    assert text["name"] == "fake-text"

    missing = ("--set", "service.fake-text.model=/nowhere.toml")
    refused = controller(*check, *missing)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "/nowhere.toml: no such file" in refused.stderr
    skipped = controller(*check, *missing, "--skip-models")
    assert json.loads(skipped.stdout)["service"][1]["model"] == "/nowhere.toml"
    for wrong in (("--json",), ("--check", "--no-such-option"), ("--config", "x", "--skip-models")):
        assert controller(*wrong).returncode == 2


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


DESCRIPTION = """
name = "{0}"
file = "{0}.pt"
buckets = {{ batch = [1] }}
inputs = [{{ name = "x", dtype = "float32", shape = ["batch", 4] }}]
outputs = [{{ name = "y", dtype = "float32", shape = ["batch", 2] }}]
"""


def two_services(folder: Path, good: str, bad: str) -> Path:
    """A configuration with a service of a model that is there, and one of a model file that says something else."""
    torch = pytest.importorskip("torch")
    torch.jit.trace(torch.nn.Linear(4, 2).eval(), torch.zeros(1, 4)).save(str(folder / f"{good}.pt"))
    (folder / f"{bad}.pt").write_text("this is no TorchScript")
    for name in (good, bad):
        (folder / f"{name}.toml").write_text(DESCRIPTION.format(name))
    config = folder / "config.toml"
    services = "".join(f'[[service]]\nname = "{name}"\nmodel = "{name}.toml"\n' for name in (good, bad))
    config.write_text('[server]\nlisten = "tcp://127.0.0.1:*"\n[worker]\ndevice = "cpu"\n' + services)
    return config


@pytest.mark.skipif(not (ROOT / "build" / "bin" / "abacus-worker").exists(), reason="built without LibTorch")
def test_one_bad_model_does_not_stop_the_others(name: str, tmp_path: Path) -> None:
    config = two_services(tmp_path, "good", "bad")
    started = mps("start", str(config), "--name", name)
    assert started.returncode == 3, started.stdout + started.stderr
    assert "good: serving" in started.stdout
    assert f"'{name}' serves at tcp://127.0.0.1:" in started.stdout
    assert "bad is down" in started.stderr
    assert str(tmp_path / "bad.pt") in started.stderr
    assert "1 of 2 services are down: bad; the others serve" in started.stderr
    services = {service["service"]: service for service in status(name)["services"]}
    assert (services["good"]["state"], services["good"]["refused"]) == ("serving", False)
    assert (services["bad"]["state"], services["bad"]["refused"]) == ("failed", True)
    assert services["bad"]["generation"] == 1, "tried once"
    infer(name, "good")

    assert mps("stop", "--name", name).returncode == 0
    (tmp_path / "good.pt").unlink()
    failed = mps("start", str(config), "--name", name)
    assert failed.returncode == 1
    assert "did not start" in failed.stderr
    assert str(tmp_path / "good.pt") in failed.stderr
    assert str(tmp_path / "bad.pt") in failed.stderr
    assert mps("status", "--name", name).returncode == 3, "nothing is left running"


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


def infer(name: str, model: str) -> None:
    client = ROOT / "build" / "bin" / "abacus-client"
    endpoint = status(name)["endpoint"]
    subprocess.run([client, "infer", "--address", endpoint, "--model", model, "--synthetic", "1"], check=True)


def test_trace(name: str, tmp_path: Path) -> None:
    assert mps(*START, "--name", name, "--set", "scheduler.policy=abacus").returncode == 0
    infer(name, "fake-image")
    target = tmp_path / "first.json"
    for attempt in range(2):  # the second one must not find the first one's file
        traced = mps("trace", str(target), "--name", name)
        assert traced.returncode == 0, traced.stderr
        assert "https://ui.perfetto.dev" in traced.stdout
        names = [event["name"] for event in json.loads(target.read_text())["traceEvents"]]
        assert names.count("queries of fake-image") == 2 * (attempt + 1)  # a begin and an end each
        assert f"round {attempt + 1}" in names
        infer(name, "fake-image")
    assert [path.name for path in (tmp_path / "run" / name).glob("trace*")] == []

    assert "is a folder" in mps("trace", str(tmp_path), "--name", name).stderr
    nowhere = mps("trace", str(tmp_path / "nowhere" / "trace.json"), "--name", name)
    assert nowhere.returncode == 1
    assert "cannot write" in nowhere.stderr
    shown = mps("status", "--name", name).stdout
    assert "predictor: additive" in shown
    assert "over 3 rounds (0 of several ranges)" in shown


def test_trace_without_a_controller_or_without_events(name: str, tmp_path: Path) -> None:
    target = tmp_path / "trace.json"
    assert mps("trace", str(target), "--name", name).returncode == 3
    assert mps(*START, "--name", name, "--set", "scheduler.trace_events=0").returncode == 0
    off = mps("trace", str(target), "--name", name)
    assert off.returncode == 1
    assert "trace_events is 0" in off.stderr
    assert not target.exists()
    assert status(name)["draining"] is False


def test_a_missing_predictor_is_only_a_warning(name: str, tmp_path: Path) -> None:
    missing = tmp_path / "none.predictor"
    assert mps(*START, "--name", name, "--set", f"scheduler.predictor='{missing}'").returncode == 0
    assert status(name)["predictor"]["trained"] is False
    assert str(missing) in status(name)["predictor"]["description"]
    assert "sum of solo times" in (tmp_path / "run" / name / "controller.log").read_text()


def profile(name: str, out: Path, *options: str) -> tuple[str, ...]:
    # Short of repetitions: nobody trains on it.
    common = ("--set", f"server.name={name}", "--repetitions", "1", "--out", str(out))
    return ("profile", "configs/fake.toml", *common, *options)


def groups_of(out: Path) -> int:
    return out.read_text().count('{"group"')


def test_profile_goes_on_where_it_stopped(name: str, tmp_path: Path) -> None:
    out = tmp_path / "made" / "fake.jsonl"
    first = mps(*profile(name, out, "--groups", "5"))
    assert first.returncode == 0, first.stderr
    assert f"./mps.sh train {out}" in first.stdout
    assert groups_of(out) == 5
    assert mps(*profile(name, out, "--groups", "7")).returncode == 0
    assert groups_of(out) == 7
    assert mps(*profile(name, out, "--groups", "2", "--fresh", "--nvidia-smi-gpu", "GPU-1")).returncode == 0
    assert groups_of(out) == 2
    wrong = mps(*profile(name, out, "--set", "worker.device=gpu"))
    assert wrong.returncode == 2  # the program's own code
    assert "worker.device" in wrong.stderr
    assert mps("train", str(out)).returncode == 1  # far too few groups

    # Ctrl-C: the program stops in its own way, and nothing of it stays.
    process = subprocess.Popen(
        [ROOT / "mps.sh", *profile(name, out, "--minutes", "10")],
        cwd="/",
        stdout=subprocess.DEVNULL,
        # A background job ignores Ctrl-C, and so would everything that it starts: these tests may run in one.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 60
        while groups_of(out) < 4:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        again = mps(*profile(name, out))
        assert again.returncode == 1
        assert f"'{name}' is running (pid " in again.stderr
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        process.kill()
        process.wait()
    assert mps("status", "--name", name).returncode == 3
    assert not (tmp_path / "run" / name / "controller.pid").exists()


def test_profile_warns_of_a_running_controller(name: str, tmp_path: Path) -> None:
    assert mps(*START, "--name", name).returncode == 0
    profiled = mps(*profile(f"{name}p", tmp_path / "fake.jsonl", "--groups", "1"))
    assert profiled.returncode == 0
    assert f"the controller '{name}' is running" in profiled.stderr


def test_train_says_which_profile_is_missing(tmp_path: Path) -> None:
    result = mps("train", str(tmp_path / "nowhere.jsonl"))
    assert result.returncode == 1
    assert "nowhere.jsonl: ./mps.sh profile" in result.stderr
    by_config = mps("train", "some/where/no-such-config.toml")
    assert by_config.returncode == 1
    assert "profiles/no-such-config.jsonl" in by_config.stderr
