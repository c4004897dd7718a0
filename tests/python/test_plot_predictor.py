"""bench/plot_predictor.py on a made-up report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "plot_predictor.py"
BY_SET = """set,models,groups,held_out,mape,linear_mape,svm_mape,p99_absolute,under_predicted
a + b,2,100,15,0.02,0.06,0.05,0.08,0.01
a + c,2,100,15,0.01,0.05,0.04,0.07,0.02
a + b + c,3,100,15,0.03,0.07,0.06,0.09,0.03
"""
PREDICTIONS = """set,ranges,measured_us,predicted_us,linear_us,svm_us,spread
a + b,a b1 0..5 + b b1 0..9,100,101,110,105,0.004
a + b,a b1 0..7 + b b1 0..9,2000,1900,1800,2100,0.004
a + b + c,a b1 0..7 + b b1 0..9 + c b4 s16 1..3,3000,1500,2800,3100,0.004
"""


@pytest.fixture
def report(tmp_path: Path) -> Path:
    (tmp_path / "error_by_set.csv").write_text(BY_SET)
    (tmp_path / "predictions.csv").write_text(PREDICTIONS)
    return tmp_path


def plot(report: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, report, "--out", report / "plot"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_draws_both_plots(report: Path):
    done = plot(report)
    assert done.returncode == 0, done.stderr
    for name in ("plot-pairs.png", "plot-scatter.png"):
        assert (report / name).read_bytes().startswith(b"\x89PNG")


def test_says_what_is_missing(report: Path):
    (report / "predictions.csv").write_text(PREDICTIONS.splitlines()[0] + "\n")
    assert "predictions.csv: no rows" in plot(report).stderr
    (report / "error_by_set.csv").write_text("set,models\na + b,2\n")
    done = plot(report)
    assert done.returncode == 1
    assert "mape" in done.stderr
    (report / "error_by_set.csv").unlink()
    assert "error_by_set.csv" in plot(report).stderr
