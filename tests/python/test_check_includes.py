"""The rule that includes point down, on planted offences and on this tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def check(root: Path, *files: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / ".ci" / "check_includes.py", "--root", root, *files]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def plant(root: Path, name: str, text: str) -> str:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    return name


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("base/clock.h", "shm/layout.h"),
        ("shm/layout.h", "models/model_spec.h"),
        ("client/client.h", "shm/layout.h"),
        ("controller/config/config.cc", "controller/schedule/lane.h"),
        ("controller/intake/front_end.cc", "controller/schedule/lane.h"),
        ("controller/intake/front_end.cc", "controller/workers/worker_link.h"),
        ("controller/app/server.cc", "client/client.h"),
        ("worker/serve/executor.cc", "worker/torch/tensors.h"),
        ("worker/cuda/runtime.cc", "controller/config/config.h"),
        ("predictor/features.cc", "predictor/train/trainer.h"),
        ("profiler/main.cc", "bench/bench.h"),
        ("base/clock.cc", "clock.h"),
    ],
)
def test_an_upward_include_is_found(tmp_path: Path, name: str, header: str) -> None:
    plant(tmp_path, name, f'// A file.\n#include <vector>\n\n#include "{header}"\n')
    result = check(tmp_path, name)
    assert result.returncode == 1
    assert result.stderr.startswith(f"{name}:4: ")
    assert header in result.stderr


def test_a_folder_that_nobody_placed_is_found(tmp_path: Path) -> None:
    for name in ("gossip/talk.cc", "controller/server.cc", "worker/cuda/deep/kernels.cc"):
        result = check(tmp_path, plant(tmp_path, name, "\n"))
        assert result.returncode == 1
        assert result.stderr.startswith(f"{name}:1: the room {Path(name).parent}/ is not known")


def test_what_points_down_passes(tmp_path: Path) -> None:
    files = [
        plant(tmp_path, "controller/intake/front_end.cc", '#include "client/protocol.h"\n#include "base/clock.h"\n'),
        plant(tmp_path, "bench/main.cc", '#include "tests/support/specs.h"\n#include "client/client.h"\n'),
        plant(tmp_path, "tests/controller/any_test.cc", '#include "worker/torch/tensors.h"\n'),
    ]
    assert check(tmp_path, *files).returncode == 0


def test_this_tree_passes() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.cc", "*.h", "*.cu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    files = [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    if not files:
        pytest.skip("not a git checkout")
    result = check(ROOT, *files)
    assert result.returncode == 0, result.stderr
