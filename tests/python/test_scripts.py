"""The functions of scripts/, with stand-ins for Python, the NVIDIA tools and the controller. Needs no build."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = "ABACUS_ROOT={0}; . {0}/scripts/common.sh; . {0}/scripts/setup.sh; . {0}/scripts/serve.sh\n"
PATH = "/usr/local/bin:/usr/bin:/bin"


def bash(
    code: str, *, cwd: Path | str = "/", check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs code behind the sourced scripts, in an environment of nothing but what is named here."""
    return subprocess.run(
        ["bash", "-c", SCRIPTS.format(shlex.quote(str(ROOT))) + code],
        cwd=cwd,
        env={"PATH": PATH} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=check,
    )


def make_program(path: Path, code: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{code}")
    path.chmod(0o755)
    return path


# --- who asks ---------------------------------------------------------------------------------------------------------


def test_a_missing_home_comes_from_the_password_database() -> None:
    home = pwd.getpwuid(os.getuid()).pw_dir
    for environment in ({}, {"HOME": ""}):
        assert bash('echo "$HOME $CACHE_DIR"', **environment).stdout.split() == [home, f"{home}/.cache/abacus"]
    assert bash('echo "$CACHE_DIR"', HOME="/h", ABACUS_CACHE_DIR="/c").stdout == "/c\n"


def test_the_users_python_variables_and_folder_break_nothing(tmp_path: Path) -> None:
    for module in ("json", "venv", "sysconfig", "importlib"):
        (tmp_path / f"{module}.py").write_text("raise SystemExit('the wrong one')\n")
    hostile = {"PYTHONPATH": str(tmp_path), "PYTHONHOME": "/nonexistent"}
    found = bash("find_python", cwd=tmp_path, **hostile).stdout
    assert found == bash("find_python").stdout
    assert Path(found).is_file()
    help_text = subprocess.run(
        [ROOT / "mps.sh", "help"], env={"PATH": PATH} | hostile, cwd=tmp_path, stdout=subprocess.PIPE, check=True
    )
    assert b"./mps.sh demo" in help_text.stdout


# --- the Python environment -------------------------------------------------------------------------------------------

# Stands in for a Python: it brings PyTorch version TORCH ("-": none) and makes environments whose Python is this again.
FAKE_PYTHON = """
abi={abi} torch={torch} log={log} torch_cmake={torch_cmake}
case "$*" in
  "-P - "*) cat >/dev/null; echo "$abi $torch $0" ;;
  "-P -c import torch") [[ $torch != - ]] ;;
  "-P -c "*) echo /fake/site-packages ;;
  *"-m venv "*)
    echo "venv by $0" >>"$log"
    mkdir -p "${{@: -1}}/bin"
    cp "$0" "${{@: -1}}/bin/python"
    ;;
  *"-m pip install"*) echo "pip" >>"$log" ;;
  "-I - "*) cat >/dev/null ;;
  *purelib*) dirname "$0" ;;
  *find_spec*) echo "$torch_cmake" ;;
  *) echo "unexpected: $*" >&2; exit 1 ;;
esac
"""


class Machine:
    """A machine with one cache folder; each call of environment() is one run of mps.sh."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.torch_cmake = folder / "torch_cmake"
        self.torch_cmake.mkdir()

    def python(self, name: str, abi: str = "cpython-311-x86_64-linux-gnu", torch: str = "-") -> Path:
        code = FAKE_PYTHON.format(abi=abi, torch=torch, log=self.log, torch_cmake=self.torch_cmake)
        return make_program(self.folder / name / "python3", code)

    def environment(self, system: Path, asker: Path) -> Path:
        """The environment that is used when `python3` is `asker` where the distribution's is `system`."""
        result = bash(
            f"SYSTEM_PYTHON={system} SETUP_LOG={self.folder}/setup.log VENV_GIB=0\n"
            'ensure_python >&2; echo "$PYTHON"',
            PATH=f"{asker.parent}:{PATH}",
            ABACUS_CACHE_DIR=str(self.folder / "cache"),
        )
        return Path(result.stdout.strip()).parents[1]

    def made(self) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if line.startswith("venv")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_one_environment_whoever_asks(machine: Machine) -> None:
    system = machine.python("system")
    first = machine.environment(system, system)
    assert machine.made() == [f"venv by {system}"]
    same = machine.python("another-path")
    newer = machine.python("newer", abi="cpython-313-x86_64-linux-gnu")
    with_torch = machine.python("with-torch", abi="cpython-312-x86_64-linux-gnu", torch="2.11.0")
    for asker in (same, newer, with_torch):
        assert machine.environment(system, asker) == first
    # The key is not that of a path either.
    assert machine.environment(machine.python("moved"), newer) == first
    assert len(machine.made()) == 1


def test_an_environment_of_another_abi_is_another_one(machine: Machine) -> None:
    old = machine.python("old")
    new = machine.python("new", abi="cpython-312-x86_64-linux-gnu")
    assert machine.environment(old, old) != machine.environment(new, new)
    assert len(machine.made()) == 2


def test_an_installed_pytorch_is_used(machine: Machine) -> None:
    system = machine.python("system")
    with_torch = machine.python("with-torch", torch="2.11.0")
    over = machine.environment(system, with_torch)
    assert machine.made() == [f"venv by {with_torch}"]
    assert "pip" not in machine.log.read_text()  # it brought everything
    assert (over / "bin" / "abacus-base.pth").read_text() == "/fake/site-packages\n"
    assert machine.environment(system, with_torch) == over
    assert machine.environment(system, system) != over
    assert len(machine.made()) == 2


def test_an_environment_whose_base_is_gone_is_made_again(machine: Machine) -> None:
    system = machine.python("system")
    first = machine.environment(system, system)
    (first / "bin" / "python").unlink()
    assert machine.environment(system, system) == first
    assert len(machine.made()) == 2
    (first / ".complete").write_text("/no/longer/here")  # PyTorch of a system that has been removed
    assert machine.environment(system, system) == first
    assert len(machine.made()) == 3


# --- the configuration ------------------------------------------------------------------------------------------------


def test_read_config_goes_by_what_the_controller_says(tmp_path: Path) -> None:
    config = {
        "run_dir": "/run dir",
        "server": {"name": "x", "drain_timeout_ms": 2500.5},
        "worker": {"device": "fake", "gpu": ["0", "GPU-1"], "mps": True, "load_timeout_s": 1.5},
        "service": [
            {"name": "a", "model": str(ROOT / "configs/../models/store/a.toml"), "gpu": "0"},
            {"name": "b.c", "model": "/elsewhere/b.toml", "gpu": "GPU-1"},
        ],
    }
    make_program(
        tmp_path / "abacus-controller",
        f"echo \"$*\" >{tmp_path}/arguments\n[[ $* != *wrong* ]] || {{ echo 'wrong key' >&2; exit 2; }}\n"
        f"cat <<'END'\n{json.dumps(config)}\nEND\n",
    )
    stand_ins = f"BIN={tmp_path} PYTHON=$(find_python)\n"
    code = f"{stand_ins}read_config {ROOT}/configs/fake.toml "
    result = bash(
        code + "k.a=1 k.b=2\n"
        'echo "$CONFIG_RUN_DIR|$CONFIG_NAME|$CONFIG_DRAIN_S|$CONFIG_DEVICE|$CONFIG_AUTO|$CONFIG_MPS"\n'
        'echo "$CONFIG_LOAD_S|${CONFIG_GPUS[*]}|${CONFIG_SERVICES[*]}|${CONFIG_MODELS[*]}"'
    )
    assert result.stdout.splitlines() == ["/run dir|x|2|fake|0|true", "1|0 GPU-1|a b.c|a"]
    expected = f"--config {ROOT}/configs/fake.toml --check --json --skip-models --set k.a=1 --set k.b=2\n"
    assert (tmp_path / "arguments").read_text() == expected

    refused = bash(code + "wrong=1", check=False)
    assert (refused.returncode, refused.stderr) == (2, "wrong key\n")
    start = bash(f"{stand_ins}start_controller {ROOT}/configs/fake.toml 0 wrong=1", check=False)
    assert start.returncode == 1
    assert "'fake' did not start" in start.stderr


# --- models -----------------------------------------------------------------------------------------------------------


def test_a_model_is_exported_when_the_file_that_it_names_is_missing(tmp_path: Path) -> None:
    store = tmp_path / "models" / "store"
    store.mkdir(parents=True)
    (tmp_path / "models" / "abacus_export").mkdir()
    (tmp_path / "models" / "abacus_export" / "cli.py").touch()
    (tmp_path / "models" / "export.py").touch()
    python = make_program(tmp_path / "python", f'echo "$ABACUS_WORKER $*" >>{tmp_path}/exports\n')

    def exports(name: str) -> list[str]:
        (tmp_path / "exports").write_text("")
        bash(
            f"ABACUS_ROOT={tmp_path} BIN=/bin/of/ours SETUP_LOG={tmp_path}/log PYTHON={python}\n"
            f"ensure_models cpu {name}"
        )
        return (tmp_path / "exports").read_text().splitlines()

    export = f"/bin/of/ours/abacus-worker {tmp_path}/models/export.py m --out {store} --device cpu"
    assert exports("m") == [export], "there is no description"
    description = 'name = "m"\nfile = "m.0123456789ab.pt"\n\n[[libraries]]\nfile = "other.so"\n'
    (store / "m.toml").write_text(description)
    assert exports("m") == [export], "the model file is missing"
    (store / "m.0123456789ab.pt").touch()
    assert exports("m") == []

    (store / "n.toml").write_text('name = "n"\n')
    (store / "n.pt").touch()
    assert exports("n") == [], "the usual name"


# --- start ------------------------------------------------------------------------------------------------------------


def start(folder: Path, *services: tuple[str, str, bool, str]) -> subprocess.CompletedProcess[str]:
    """start_controller with stand-ins: services are name, state, refused and error, as abacus-status has them."""
    config = {
        "run_dir": str(folder / "run"),
        "server": {"name": "x", "drain_timeout_ms": 0},
        "worker": {"device": "fake", "gpu": ["0"], "mps": False, "load_timeout_s": 1},
        "service": [{"name": name, "model": f"/elsewhere/{name}.toml", "gpu": "0"} for name, _, _, _ in services],
    }
    state = {
        "endpoint": "tcp://here:1",
        "policy": "fcfs",
        "services": [
            {"service": name, "state": state, "device": "fake", "refused": refused, "error": error}
            for name, state, refused, error in services
        ],
    }
    make_program(
        folder / "abacus-controller",
        f"[[ $* == *--check* ]] || exec sleep 1000\ncat <<'END'\n{json.dumps(config)}\nEND\n",
    )
    make_program(folder / "abacus-status", f"cat <<'END'\n{json.dumps(state)}\nEND\n")
    return bash(
        f"BIN={folder} PYTHON=$(find_python)\nensure_device_needs() {{ :; }}\n"
        f"start_controller {ROOT}/configs/fake.toml 0\n"
        'echo "down=${STARTED_DOWN[*]}"; stop_controller "$STARTED_FOLDER" quiet',
        check=False,
    )


def test_start_names_the_services_that_are_down_and_leaves_the_others(tmp_path: Path) -> None:
    serving = ("a", "serving", False, "")
    whole = start(tmp_path, serving, ("b", "serving", False, ""))
    assert (whole.returncode, whole.stderr) == (0, "")
    assert "'x' serves at tcp://here:1\n" in whole.stdout
    assert whole.stdout.endswith("down=\n")

    refused = ("b", "failed", True, "b is down; /m/b.pt: is not TorchScript")
    started = time.monotonic()
    some = start(tmp_path, serving, refused)
    assert time.monotonic() - started < 4, "what is down for good is not waited for"
    assert some.stdout.endswith("down=b\n")
    assert "warning: b is down; /m/b.pt: is not TorchScript\n" in some.stderr
    assert "warning: 1 of 2 services are down: b; the others serve\n" in some.stderr

    crashing = ("c", "failed", False, "out of memory")
    some = start(tmp_path, serving, crashing)
    assert some.stdout.endswith("down=c\n"), "after a while, one that may come back counts, too"
    assert "warning: c: out of memory\n" in some.stderr


def test_start_fails_when_no_service_is_left(tmp_path: Path) -> None:
    failed = start(tmp_path, ("a", "failed", True, "a is down; x"), ("b", "failed", True, "b is down; y"))
    assert failed.returncode == 1
    assert "'x' did not start: a is down; x\nb is down; y\n" in failed.stderr
    assert not (tmp_path / "run" / "x" / "controller.pid").exists()


# --- CUDA MPS ---------------------------------------------------------------------------------------------------------

FAKE_SMI = """
case "$*" in
  "-i 0 "*) echo GPU-aaaa ;;
  "-i 1 "* | "-i GPU-bbbb "*) echo GPU-bbbb ;;
  *) echo 'No devices were found'; exit 6 ;;
esac
"""
# A daemon is a process that sleeps, and a FIFO in its folder for the socket.
FAKE_MPS = """
folder=$CUDA_MPS_PIPE_DIRECTORY
echo "${1:-} $folder ${CUDA_VISIBLE_DEVICES:-}" >>"$FAKE_LOG"
if [[ ${1:-} == -d ]]; then
  [[ ${CUDA_VISIBLE_DEVICES:-} != "${BROKEN_GPU:-none}" ]] || { echo 'this GPU is broken'; exit 1; }
  [[ -d $CUDA_MPS_LOG_DIRECTORY ]] || exit 1
  mkfifo "$folder/control"
  setsid sleep 1000 </dev/null >/dev/null 2>&1 &
  echo $! >"$folder/nvidia-cuda-mps-control.pid"
  exit
fi
read -r question
[[ $question != quit ]] || { kill "$(<"$folder/nvidia-cuda-mps-control.pid")"; rm "$folder/control"; }
"""


class Gpus:
    """Two GPUs; each call of run() is one script that uses them, in the run directory of one controller."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.run_dir = folder / "run"
        self.run_dir.mkdir()
        make_program(folder / "bin" / "nvidia-smi", FAKE_SMI)
        make_program(folder / "bin" / "nvidia-cuda-mps-control", FAKE_MPS)

    def run(self, code: str, *, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        return bash(
            f"FOLDER={self.run_dir} CONFIG_DEVICE=cuda CONFIG_MPS=true CONFIG_SERVICES=(a b.c)\n" + code,
            check=check,
            PATH=f"{self.folder}/bin:{PATH}",
            FAKE_LOG=str(self.log),
            **environment,
        )

    def use(self, *gpus: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run(
            f'CONFIG_GPUS=({" ".join(gpus)}); use_gpus "$FOLDER"\n'
            'echo "pipe=${CUDA_MPS_PIPE_DIRECTORY:-}"',
            check=check,
            **environment,
        )

    def daemons(self) -> dict[str, str]:
        """Those that run: the name of the folder, and the GPU that it is for."""
        found = {}
        for pid_file in sorted(self.run_dir.glob("*/pipe/nvidia-cuda-mps-control.pid")):
            stat = Path(f"/proc/{pid_file.read_text().strip()}/stat")
            if stat.exists() and not stat.read_text().rpartition(") ")[2].startswith("Z"):
                found[pid_file.parents[1].name] = (pid_file.parents[1] / "owned").read_text()
        return found

    def started(self) -> list[str]:
        return [line.split()[2] for line in self.log.read_text().splitlines() if line.startswith("-d")]


@pytest.fixture
def gpus(tmp_path: Path):
    machine = Gpus(tmp_path)
    yield machine
    machine.run('stop_mps "$FOLDER"')
    assert machine.daemons() == {}


def test_one_gpu_has_one_daemon(gpus: Gpus) -> None:
    used = gpus.use("1")
    assert used.stdout.endswith("pipe=\n"), "the controller finds the daemon by itself"
    assert "starting the CUDA MPS daemon for GPU 1" in used.stdout
    assert gpus.daemons() == {"mps": "GPU-bbbb"}
    assert gpus.started() == ["GPU-bbbb"]

    # One that is still there is used again, by whatever name its GPU goes, but not for another GPU.
    gpus.use("GPU-bbbb")
    assert gpus.started() == ["GPU-bbbb"]
    gpus.use("0")
    assert gpus.daemons() == {"mps": "GPU-aaaa"}

    gpus.run('stop_mps "$FOLDER"')
    assert gpus.daemons() == {}
    assert not (gpus.run_dir / "mps" / "owned").exists()


def test_several_gpus_have_a_daemon_each(gpus: Gpus) -> None:
    used = gpus.use("1", "0")
    assert used.stdout.endswith("pipe=\n"), "the controller finds the daemons by itself"
    assert gpus.daemons() == {"mps-0": "GPU-bbbb", "mps-1": "GPU-aaaa"}
    assert gpus.started() == ["GPU-bbbb", "GPU-aaaa"]

    # Those of a controller that was not stopped do not stay beside the next one's.
    gpus.use("0")
    assert gpus.daemons() == {"mps": "GPU-aaaa"}
    gpus.use("0", "1")
    assert gpus.daemons() == {"mps-0": "GPU-aaaa", "mps-1": "GPU-bbbb"}
    gpus.run('stop_mps "$FOLDER"')
    assert gpus.daemons() == {}


def test_a_daemon_that_does_not_start_leaves_no_other_behind(gpus: Gpus) -> None:
    failed = gpus.use("0", "1", check=False, BROKEN_GPU="GPU-bbbb")
    assert failed.returncode == 1
    assert "the CUDA MPS daemon does not start: this GPU is broken" in failed.stderr
    assert gpus.daemons() == {}
    for wrong, message in ((("0", "7"), "there is no GPU 7"), (("1", "GPU-bbbb"), "the GPU GPU-bbbb twice")):
        refused = gpus.use(*wrong, check=False)
        assert refused.returncode == 1
        assert message in refused.stderr
    assert gpus.daemons() == {}


def test_a_daemon_of_the_users_own_is_left_alone(gpus: Gpus, tmp_path: Path) -> None:
    gpus.use("0")  # left behind
    own = tmp_path / "own"
    own.mkdir()
    os.mkfifo(own / "control")
    used = gpus.use("1", CUDA_MPS_PIPE_DIRECTORY=str(own))
    assert f"using the CUDA MPS daemon of {own}" in used.stdout
    assert f"pipe={own}\n" in used.stdout
    assert gpus.daemons() == {}
    several = gpus.use("0", "1", CUDA_MPS_PIPE_DIRECTORY=str(own))
    assert "is not used: with several GPUs" in several.stderr
    assert len(gpus.daemons()) == 2


def test_without_mps_nothing_is_started(gpus: Gpus) -> None:
    for setting in ("CONFIG_MPS=false", "CONFIG_DEVICE=cpu"):
        quiet = gpus.run(f'{setting} CONFIG_GPUS=(0 1); use_gpus "$FOLDER"')
        assert quiet.stdout == ""
    assert not gpus.log.exists()
