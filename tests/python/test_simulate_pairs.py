"""bench/simulate_pairs.py with an abacus-bench that answers by a formula."""

import csv
import json
import math
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "bench"))
import simulate_pairs  # noqa: E402

# Violations grow with the load, from 1 % at 0.5 for policies that run one query at a time and at 0.7 for abacus.
FAKE_BENCH = """#!{python}
import pathlib, sys
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
with open("{folder}/runs.log", "a") as log: log.write(" ".join(sys.argv[1:]) + "\\n")
if options["--models"] == "a,broken": sys.exit("no such model")
edge = 0.7 if options["--policies"] == "abacus" else 0.5 if options["--policies"] == "edf" else 0.4
violation = 0.01 * float(options["--loads"]) / edge
goodput = 140 if options["--policies"] == "abacus" else 100
pathlib.Path(options["--csv"]).write_text("violation,goodput_per_s\\n%s,%s\\n" % (violation, goodput))
"""


@pytest.fixture
def arguments(tmp_path):
    program = tmp_path / "abacus-bench"
    program.write_text(FAKE_BENCH.format(python=sys.executable, folder=tmp_path), encoding="utf-8")
    program.chmod(0o755)

    def make(*models):
        subject = {"models": [{"name": m, "buckets": [{"batch": b, "sequence": 0, "solo": {"us": [100.0 * b]}} for b in (1, 8)]}
                              for m in models]}  # fmt: skip
        (tmp_path / "p").write_text("x\n" + json.dumps({"subject": subject}), encoding="utf-8")
        return ["--bin", str(tmp_path), "--predictor", str(tmp_path / "p"), "--out", str(tmp_path / "out"), "--queries", "1000"]

    return make


def test_the_highest_load_is_found_by_bisection():
    assert simulate_pairs.highest_load(lambda load: load / 50) == pytest.approx(0.5, rel=0.01)
    assert math.isnan(simulate_pairs.highest_load(lambda load: 1)) and math.isnan(simulate_pairs.highest_load(lambda load: 0))


def test_gains_are_written_and_a_second_run_goes_on(tmp_path, arguments, capsys):
    options = arguments("a", "b", "c")
    simulate_pairs.main([*options, "--batches", "1"])
    with open(tmp_path / "out" / "simulated-pairs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["pair"] for row in rows) == ["a+b", "a+c", "b+c"]
    assert float(rows[0]["load_edf"]) == pytest.approx(0.5, rel=0.01)
    assert float(rows[0]["gain"]) == pytest.approx(1.4, rel=0.02), "over edf, the best of those that run alone"
    assert float(rows[0]["full"]) == 1.4
    assert (tmp_path / "out" / "simulated-pairs.png").read_bytes().startswith(b"\x89PNG")
    runs = (tmp_path / "runs.log").read_text(encoding="utf-8").splitlines()
    assert all("--batches 1" in run for run in runs)

    simulate_pairs.main([*options, "--batches", "1", "all"])
    more = (tmp_path / "runs.log").read_text(encoding="utf-8").splitlines()[len(runs) :]
    assert len(more) == len(runs) and not any("--batches" in run for run in more), "only what was missing"
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("6/6 ") for line in lines) and "1.40" in lines[-1]
    with pytest.raises(SystemExit, match="begun with another seed"):
        simulate_pairs.main([*options, "--batches", "1", "--seed", "2"])


def test_what_the_simulator_says_is_passed_on(arguments):
    with pytest.raises(SystemExit, match="no such model"):
        simulate_pairs.main([*arguments("a", "broken"), "--batches", "1"])
