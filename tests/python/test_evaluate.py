"""bench/evaluate.py, plot_serving.py and round_gaps.py on made-up figures."""

import csv
import json
import pathlib
import subprocess
import sys

import pytest

BENCH = pathlib.Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))
import evaluate  # noqa: E402
import round_gaps  # noqa: E402

SOLO = {"a": [(1, 0, 100.0), (8, 0, 500.0)], "b": [(1, 8, 200.0), (1, 16, 400.0), (8, 8, 900.0)]}


def row(policy, load, violation):
    values = dict.fromkeys(evaluate.COLUMNS, "0")
    return values | {"pair": "a+b", "batches": "1", "policy": policy, "load": str(load), "violation": str(violation),
                     "qos_us": "1800", "p99_us": "900"}  # fmt: skip


def test_solo_times_are_read_from_a_predictor(tmp_path):
    body = {"subject": {"models": [{"name": "a", "buckets": [{"batch": 4, "sequence": 0, "solo": {"us": [3, 90.5]}}]}]}}
    path = tmp_path / "p.predictor"
    path.write_text("abacus-predictor 1 10 00000000\n" + json.dumps(body), encoding="utf-8")
    assert evaluate.read_solo(path) == {"a": [(4, 0, 90.5)]}


def test_the_target_counts_the_largest_bucket_and_the_load_only_those_asked_for():
    assert evaluate.mix_of(SOLO, ("a", "b"), [1], 2) == (200.0, 1800.0)
    assert evaluate.mix_of(SOLO, ("a", "b"), None, 1) == (400.0, 900.0)


def test_the_highest_load_ends_at_the_first_violation():
    rows = [row("edf", 0.6, 0.0), row("edf", 0.8, 0.02), row("edf", 1.0, 0.005), row("abacus", 0.6, 0.0), row("abacus", 0.8, 0.01)]
    assert evaluate.highest_load(rows, "edf") == pytest.approx(0.7), "half way from 0 to 2 %"
    assert evaluate.highest_load(rows, "abacus") == 0.8
    assert evaluate.highest_load(rows, "sjf") == 0
    assert evaluate.violation_ratios(rows) == {0.8: 0.5}
    more = [*rows, row("sjf", 0.6, 0.05)]
    assert evaluate.violation_ratios(more) == {}, "sjf has no row at 0.8"
    assert evaluate.load_text(more, "sjf") == "<0.60"
    assert evaluate.load_text(rows, "abacus") == ">=0.80"
    assert any("gain 1.14; 0.8: 0.50" in line for line in evaluate.summary(rows))


def test_a_sweep_goes_on_after_what_is_there_and_stops_at_too_many_violations(tmp_path):
    points = list(evaluate.points_of([evaluate.parse_sweep("a+b:1:1.0,0.8,1.2,1.4", list(SOLO), ["edf", "abacus"])]))
    results = evaluate.Results(tmp_path / "serving.csv")
    results.add(row("edf", 0.8, 0.0))
    asked = []
    for point in points:
        if point.is_missing(results, "edf", 0.1):
            asked.append(point.load)
            results.add(row("edf", point.load, 0.05 if point.load < 1.2 else 0.2))
    assert asked == [1.0, 1.2]
    again = evaluate.Results(tmp_path / "serving.csv")
    assert not any(point.is_missing(again, "edf", 0.1) for point in points)
    assert points[-1].is_missing(again, "abacus", 0.1)
    assert not points[-1].is_missing(again, "sjf", 0.1), "not asked for"


def test_sweeps_of_a_pair_are_merged_by_load():
    policies = ["edf", "abacus"]
    sweeps = [evaluate.parse_sweep(text, list(SOLO), policies) for text in ("a+b:1:0.7,0.9:edf", "a+b:1:0.8,0.9:abacus", "a+b:all:0.7")]
    points = [(p.batches_text, p.load, sorted(p.policies)) for p in evaluate.points_of(sweeps)]
    assert points == [("1", 0.7, ["edf"]), ("1", 0.8, ["abacus"]), ("1", 0.9, ["abacus", "edf"]), ("all", 0.7, ["abacus", "edf"])]


FAKE_CONTROLLER = """#!{python}
import os, pathlib, signal, sys, time
folder, policy = pathlib.Path("{folder}"), next(a for a in sys.argv if a.startswith("scheduler.policy=")).split("=")[1]
log = open(folder / "started.log", "a")
log.write(policy + "\\n"); log.flush()
if policy == "broken": sys.exit(1)
signal.signal(signal.SIGTERM, lambda *_: (log.write("end of " + policy + "\\n"), log.flush(), sys.exit(0)))
(folder / ("evaluate-" + policy)).write_text(str(os.getpid()))
while True: time.sleep(1)
"""
FAKE_STATUS = """#!{python}
import json, pathlib, sys
pid = int((pathlib.Path("{folder}") / sys.argv[-1]).read_text())
predictor = dict(rounds=0, rounds_several=0, rounds_over=0, margin=0.1)
print(json.dumps(dict(pid=pid, services=[dict(state="serving")], predictor=predictor)))
"""
FAKE_CLIENT = """#!{python}
import json, pathlib, sys
with open(pathlib.Path("{folder}") / "loads.log", "a") as log: log.write(sys.argv[4] + " " + sys.argv[6] + "\\n")
latency = dict(p50=1.0, p99=2.0)
print(json.dumps(dict(total=dict(sent=10, replies=dict(OK=10), violations=dict(late=0, rejected=0), lost=0,
                                 latency_us=latency, goodput_per_s=5.0))))
"""


def run_with_fakes(folder, *arguments):
    """evaluate.main with programs that only write down what happens to them; the lines of both logs."""
    for name, text in (("controller", FAKE_CONTROLLER), ("status", FAKE_STATUS), ("client", FAKE_CLIENT)):
        program = folder / f"abacus-{name}"
        program.write_text(text.format(python=sys.executable, folder=folder), encoding="utf-8")
        program.chmod(0o755)
    models = [{"name": n, "buckets": [{"batch": 1, "sequence": 0, "solo": {"us": [100.0]}}]} for n in "ab"]
    (folder / "p").write_text("x\n" + json.dumps({"subject": {"models": models}}), encoding="utf-8")
    common = ["--bin", str(folder), "--config", "c.toml", "--predictor", str(folder / "p"), "--out", str(folder / "out")]
    evaluate.main([*common, *arguments])
    return [(folder / name).read_text(encoding="utf-8").splitlines() for name in ("started.log", "loads.log")]


def test_policies_follow_each_other_or_take_turns(tmp_path):
    sweep = ["--sweep", "a+b:1:0.5,1.0", "--policies", "edf,abacus", "--port", "7000"]
    (tmp_path / "after").mkdir()
    started, loads = run_with_fakes(tmp_path / "after", *sweep)
    assert started == ["edf", "end of edf", "abacus", "end of abacus"]
    assert loads == [f"tcp://127.0.0.1:7000 {rate}" for rate in ("5000.0", "10000.0") * 2]
    (tmp_path / "turns").mkdir()
    started, loads = run_with_fakes(tmp_path / "turns", *sweep, "--turns")
    assert sorted(started[:2]) == ["abacus", "edf"] and len(started) == 4, "both run before one ends"
    assert loads == [f"tcp://127.0.0.1:{port} {rate}" for rate in ("5000.0", "10000.0") for port in (7000, 7001)]
    (tmp_path / "some").mkdir()
    started, _ = run_with_fakes(tmp_path / "some", "--sweep", "a+b:1:0.5:abacus", "--policies", "edf,abacus", "--turns")
    assert started == ["abacus", "end of abacus"], "nothing is asked of edf"


def test_no_controller_stays_behind_when_one_does_not_come_up(tmp_path):
    with pytest.raises(SystemExit, match="did not come up"):
        run_with_fakes(tmp_path, "--sweep", "a+b:1:0.5", "--policies", "edf,broken", "--turns")
    lines = (tmp_path / "started.log").read_text(encoding="utf-8").splitlines()
    assert sorted(lines) == ["broken", "edf", "end of edf"]


@pytest.mark.parametrize("text", ["a+b:1", "a+b:x:1.0", "a+b:1:x", "a+b:1:0", "a:1:1.0", "a+b:1:1.0:edf:sjf"])
def test_a_wrong_sweep_says_what_is_expected(text):
    with pytest.raises(SystemExit, match="expected PAIRS:BATCHES:LOADS"):
        evaluate.parse_sweep(text, list(SOLO), ["edf", "sjf"])
    with pytest.raises(SystemExit, match="no model c"):
        evaluate.parse_sweep("a+c:1:1.0", list(SOLO), ["edf"])
    with pytest.raises(SystemExit, match="no policy abacsu among those of --policies, edf"):
        evaluate.parse_sweep("a+b:1:1.0:abacsu", list(SOLO), ["edf"])


def test_the_plots_are_written(tmp_path):
    source = tmp_path / "serving.csv"
    with open(source, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, evaluate.COLUMNS)
        writer.writeheader()
        writer.writerows([row(p, load, 0.1 * load) for p in ("edf", "abacus") for load in (0.5, 1.0)])
    subprocess.run([sys.executable, BENCH / "plot_serving.py", source, tmp_path / "out"], check=True)
    for name in ("out-violations.png", "out-p99.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def trace_of(starts):
    """Rounds of 100 us that follow at once; the GPU begins starts[i] us after the round."""
    events = []
    for number, start in enumerate(starts, 1):
        ts = 100 * (number - 1)
        for dur in (100, 80):  # the round and, on a track of its own, its prediction
            events.append({"ph": "X", "name": f"round {number}", "ts": ts, "dur": dur, "args": {"ranges": 1, "actual_us": 100}})
        gpu = {"gpu_started_ns": 10**18 + round(1000 * (ts + start)), "gpu_ended_ns": 10**18 + 1000 * (ts + 98)}
        events.append({"ph": "X", "name": "bucket 0 [0, 4)", "ts": ts, "dur": 100, "args": {"round": number, **gpu}})
    return {"traceEvents": events}


def test_gaps_are_those_of_the_gpu():
    assert round_gaps.gaps_us(trace_of([4, 5, 7])) == pytest.approx([7, 9])
    broken = trace_of([4, 5, 7])
    for event in broken["traceEvents"][3:5]:
        event["ts"] += 50  # the second round began later: the GPU had nothing to do
    assert round_gaps.gaps_us(broken) == []


def test_rows_of_other_settings_are_not_mixed(tmp_path):
    (tmp_path / "p").write_bytes(b"predictor")
    common = ["--config", "c.toml", "--predictor", str(tmp_path / "p"), "--out", str(tmp_path)]
    path = tmp_path / "settings.json"

    def check(*more):
        evaluate.check_settings(path, evaluate.settings_of(evaluate.parse([*common, *more])))

    check()
    check("--sweep", "all:1:0.5")
    with pytest.raises(SystemExit, match="begun with another queries, seed"):
        check("--seed", "2", "--queries", "9")
    with pytest.raises(SystemExit, match="another turns"):
        check("--turns")
    older = json.loads(path.read_text(encoding="utf-8"))
    del older["turns"]
    path.write_text(json.dumps(older), encoding="utf-8")
    check()
    (tmp_path / "p").write_bytes(b"another")
    with pytest.raises(SystemExit, match="another predictor"):
        check()


def test_a_batch_size_without_a_bucket_is_an_error():
    with pytest.raises(SystemExit, match="b has no bucket of the batch sizes"):
        evaluate.mix_of({"a": [(1, 0, 1.0)], "b": [(2, 0, 1.0)]}, ("a", "b"), [1], 2)
