"""bench/simulate_pairs.py with an abacus-bench that answers by a formula."""

import csv
import json
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "bench"))
import simulate_pairs  # noqa: E402

# abacus carries 1.2 times what the others do, without batches a tenth; nobody carries anything within 5 ms. The second
# seed carries a little more.
FAKE_BENCH = """#!{python}
import pathlib, sys
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
with open("{folder}/runs.log", "a") as log: log.write(" ".join(sys.argv[1:]) + "\\n")
if options["--models"] == "a,broken": sys.exit("no such model")
policy = options["--policies"]
limit = {{"abacus": 4.8, "abacus:off": 0.4, "edf": 4, "sjf": 3}}[policy] if options["--qos"] != "5ms" else 0
lines = ["policy,seed,service,load,rate_per_s,violation,goodput_per_s,p50_ms,p99_ms,rows_per_job,padding"]
for seed in range(1, int(options["--seeds"]) + 1):
    load = float(options["--loads"]) if "--loads" in options else limit * (1 + 0.01 * (seed - 1))
    over = load > limit
    for service, violation in (("total", 0.05 * over), ("a", 0.02 * over), ("b", 0.08 * over)):
        figures = (policy, seed, service, load, 1000 * load, violation, 1000 * min(load, limit), 1, 2, 7.5, 0.1)
        lines.append(",".join(map(str, figures)))
pathlib.Path(options["--csv"]).write_text("\\n".join(lines) + "\\n")
"""


@pytest.fixture
def arguments(tmp_path):
    program = tmp_path / "abacus-bench"
    program.write_text(FAKE_BENCH.format(python=sys.executable, folder=tmp_path), encoding="utf-8")
    program.chmod(0o755)

    def make(*models):
        buckets = [{"batch": 1, "sequence": 0, "solo": {"us": [100.0]}}]
        subject = {"models": [{"name": model, "buckets": buckets} for model in models]}
        (tmp_path / "p").write_text("x\n" + json.dumps({"subject": subject}), encoding="utf-8")
        return ["--bin", str(tmp_path), "--predictor", str(tmp_path / "p"), "--out", str(tmp_path / "out"),
                "--seeds", "2", "--jobs", "2", "--policies", "abacus", "abacus:off", "edf", "sjf"]  # fmt: skip

    return make


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def runs_of(tmp_path):
    return (tmp_path / "runs.log").read_text(encoding="utf-8").splitlines()


def test_limits_are_written_and_a_second_run_goes_on(tmp_path, arguments, capsys):
    options = arguments("a", "b", "c")
    simulate_pairs.main([*options, "--targets", "20ms"])
    rows = rows_of(tmp_path / "out" / "limits.csv")
    assert {row["group"] for row in rows} == {"a+b", "a+c", "b+c"}
    assert len(rows) == 3 * 4 * 2, "pairs, policies, seeds"
    of_abacus = [row for row in rows if row["group"] == "a+c" and row["policy"] == "abacus"]
    assert [(row["seed"], float(row["load"])) for row in of_abacus] == [("1", 4.8), ("2", pytest.approx(4.848))]
    assert float(of_abacus[0]["rows_per_job"]) == 7.5
    runs = runs_of(tmp_path)
    assert len(runs) == 12 and all("--find-limit 1% " in run + " " and "--qos 20ms" in run for run in runs)
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1].split() == ["20ms", "3", "1.200", "1.200", "1.200", "none"], "over edf, the best with batches"
    assert (tmp_path / "out" / "limits-20ms.png").read_bytes().startswith(b"\x89PNG")

    # A row that was cut off is run again, what is there is not; more groups and targets can be asked for.
    path = tmp_path / "out" / "limits.csv"
    path.write_text(path.read_text(encoding="utf-8")[:-12], encoding="utf-8")
    simulate_pairs.main([*options, "--targets", "20ms", "5ms", "--groups", "a+b+c"])
    assert len(runs_of(tmp_path)) == 12 + 1 + 4 * 4 + 4
    assert len(rows_of(path)) == (4 * 4 + 4 * 4) * 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split()[:3] == ["5ms", "0", "nan"], "nobody carries anything: no gain"
    with pytest.raises(SystemExit, match="begun with another seconds"):
        simulate_pairs.main([*options, "--seconds", "5"])


def test_curves_are_around_the_highest_limit(tmp_path, arguments):
    simulate_pairs.main([*arguments("a", "b"), "--targets", "5ms", "10ms", "--curves", "a+b"])
    rows = rows_of(tmp_path / "out" / "curves.csv")
    shares = [str(share) for share in simulate_pairs.SHARES]
    assert {row["target"] for row in rows} == {"10ms"}, "there is no limit at 5 ms"
    assert len(rows) == 4 * len(shares) * 2
    by_key = {(row["policy"], row["share"], row["seed"]): row for row in rows}
    highest = 4.8 * 1.01
    assert float(by_key["edf", "1.0", "1"]["load"]) == pytest.approx(highest, abs=1e-4)
    assert float(by_key["edf", "1.0", "1"]["worst_violation"]) == 0.08, "of the services, not of all"
    assert float(by_key["abacus", "0.9", "1"]["worst_violation"]) == 0
    assert (tmp_path / "out" / "curves-a+b.png").read_bytes().startswith(b"\x89PNG")
    before = len(runs_of(tmp_path))
    simulate_pairs.main([*arguments("a", "b"), "--targets", "5ms", "10ms", "--curves", "a+b"])
    assert len(runs_of(tmp_path)) == before, "all of it was there"


def test_a_gain_below_one_with_every_seed_is_named():
    class Limits:
        def of(self, group, target, policy):
            loads = {("g", "abacus"): (3.9, 3.8), ("h", "abacus"): (3.9, 4.1)}
            return [{"load": load} for load in loads.get((group, policy), (4.0, 4.0))]

    lines = list(simulate_pairs.summary(Limits(), ["g", "h"], ["20ms"], ["abacus", "edf"]))
    assert "g 0.975" in lines[1] and "h " not in lines[1].split("   ")[-1]


def test_what_the_simulator_says_is_passed_on(arguments):
    with pytest.raises(SystemExit, match="no such model"):
        simulate_pairs.main([*arguments("a", "broken"), "--targets", "20ms"])
    with pytest.raises(SystemExit, match="none of the groups"):
        simulate_pairs.main([*arguments("a", "b"), "--curves", "a+c"])
