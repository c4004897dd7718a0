"""bench/saturate.py: its bisection on simulated servers, what it reads, and the program with made-up ones."""

import csv
import importlib.util
import json
import pathlib
import random
import sys
import types

import pytest

BENCH = pathlib.Path(__file__).parents[2] / "bench"
sys.path.insert(0, str(BENCH))
import saturate  # noqa: E402


def step(kind, rate, seed, shares, sent=10_000):
    services = [saturate.Figures(name, sent, round(sent * (1 - share))) for name, share in shares.items()]
    return saturate.Step(kind, seed, rate, services)


def run(search, server, longest=100):
    """Drives a search on server(rate, seed) -> {service: share of violations}."""
    for _ in range(longest):
        asked = search.next_step()
        if asked is None:
            return search
        kind, rate, seed = asked
        search.record(step(kind, rate, seed, server(rate, seed)))
    raise AssertionError("the search does not end")


@pytest.mark.parametrize("capacity", [40, 333, 1000, 2350, 11_000, 123_456])
@pytest.mark.parametrize("resolution", [0.02, 0.1])
def test_the_limit_is_found_within_the_resolution(capacity, resolution):
    search = run(
        saturate.Search(1000, resolution=resolution), lambda rate, seed: {"a": 0.0 if rate <= capacity else 0.5}
    )
    assert search.confirmed and search.low <= capacity < search.low * (1 + resolution) * 1.001
    assert len(search.runs_at_limit()) == 3 and {s.seed for s in search.runs_at_limit()} == {1, 2, 3}
    assert search.spread() == (search.low, search.high)


def test_each_service_must_keep_the_limit_by_itself():
    def server(rate, seed):
        return {"big": 0.0, "small": 0.02 if rate > 3000 else 0.0}

    search = run(saturate.Search(1000, resolution=0.02), server)
    assert 2900 < search.low <= 3000, "the mean of both is within 1 %"


def test_a_smooth_and_noisy_server_ends_near_its_limit():
    limits = []
    for trial in range(40):
        noise = random.Random(trial)

        def server(rate, seed, noise=noise):
            return {"a": max(0.0, min(1.0, 0.01 * (rate / 5000) ** 6 * noise.uniform(0.7, 1.3)))}

        search = run(saturate.Search(500), server)
        assert search.confirmed and saturate.pooled_violation(search.runs_at_limit()) <= 0.01
        limits.append(search.low)
    assert all(4300 < limit < 5400 for limit in limits), limits


def test_a_lucky_step_does_not_stand():
    lucky = {1}

    def server(rate, seed):
        return {"a": 0.0 if rate <= 2000 or (rate <= 2600 and seed in lucky) else 0.3}

    search = run(saturate.Search(1000), server)
    assert search.confirmed and 1850 < search.low <= 2000
    assert search.spread()[1] > search.low


def test_a_single_bad_run_is_weighed_against_the_others():
    def server(rate, seed):
        return {"a": 0.5 if rate > 3000 else 0.014 if seed == 2 and rate > 2800 else 0.0}

    search = run(saturate.Search(1000), server)
    assert search.confirmed and 2900 < search.low <= 3000, "0, 1.4 and 0 % are within 1 % together"
    assert search.spread()[0] < search.low, "the spread tells of it"


@pytest.mark.parametrize(("share", "low", "most"), [(0.0, 64_000, 12), (1.0, 0.0, 8)])
def test_servers_that_carry_everything_or_nothing_come_to_an_end(share, low, most):
    search = run(saturate.Search(1000, highest=64_000), lambda rate, seed: {"a": share})
    assert search.low == low and len(search.steps) <= most


def test_a_service_that_got_no_query_counts_as_violated():
    assert saturate.Figures("a", 0, 0).violation == 1


# --- what load generators print


def test_the_report_of_abacus_client_is_read():
    report = {
        "send_lateness_us": {"p99": 70.0},
        "services": [
            {"name": "a", "sent": 100, "replies": {"OK": 90, "OVERLOADED": 7}, "lost": 3,
             "violations": {"late": 20, "rejected": 7}, "latency_us": {"p50": 5.0, "p99": 9.0}},
        ],
    }  # fmt: skip
    (figures,), late_us = saturate.read_load(json.dumps(report))
    assert (figures.sent, figures.in_time, figures.late, figures.rejected, figures.lost) == (100, 70, 20, 7, 3)
    assert figures.violation == pytest.approx(0.3) and (figures.p50_us, figures.p99_us, late_us) == (5, 9, 70)


def test_a_line_of_text_is_read():
    text = "warming\nrate 500 sent 1000 answered 990 in_time 980 violations 2.00% p50 2.30 p99 5.50 ms goodput 327/s\n"
    (figures,), _ = saturate.read_load(text)
    assert (figures.sent, figures.in_time, figures.p50_us, figures.p99_us) == (1000, 980, 2300, 5500)


@pytest.mark.parametrize("text", ["nonsense", "{}", "[]", '{"services": []}', '{"services": [{"name": "a"}]}', "7"])
def test_what_is_no_report_is_an_error(text):
    with pytest.raises(RuntimeError, match="load"):
        saturate.read_load(text)


def test_commands_are_filled():
    words = saturate.fill(
        "load.py {rate} --x='{seconds} s' {services} {other}", {"rate": 1500.0, "seconds": 3}, ["a", "b"]
    )
    assert words == ["load.py", "1500", "--x=3 s", "a", "b", "{other}"]


# --- the program

SERVER = "import pathlib, time; pathlib.Path({ready!r}).touch(); time.sleep(600)"
LOAD = """
import json, sys
rate, seconds, qos, seed, *services = sys.argv[1:]
rate = float(rate)
if {crash}: sys.exit("broken pipe")
late = 0 if rate <= {capacity} else 50
violations = dict(late=late, rejected=0)
print(json.dumps(dict(services=[dict(name=s, sent=100, replies=dict(OK=100), lost=0, violations=violations,
                                     latency_us=dict(p50=rate, p99=2 * rate)) for s in services])))
"""
CONTROLLER = """#!{python}
import os, pathlib, signal, sys, time
folder = pathlib.Path("{folder}")
name = next(a for a in sys.argv if a.startswith("server.name=")).split("=")[1]
(folder / (name + ".arguments")).write_text("\\n".join(sys.argv))
if "scheduler.policy=broken" in sys.argv: sys.exit(3)
signal.signal(signal.SIGTERM, lambda *_: ((folder / (name + ".ended")).touch(), sys.exit(0)))
(folder / name).write_text(str(os.getpid()))
while True: time.sleep(1)
"""
STATUS = """#!{python}
import json, pathlib, sys
path = pathlib.Path("{folder}") / sys.argv[-1]
if not path.exists(): sys.exit(1)
print(json.dumps(dict(pid=int(path.read_text()), services=[dict(state="serving")])))
"""
CLIENT = """#!{python}
import json, pathlib, sys
with open(pathlib.Path("{folder}") / "loads.log", "a") as log: log.write(sys.argv[4] + " " + sys.argv[6] + "\\n")
late = 0 if float(sys.argv[6]) <= 3000 else 50
violations = dict(late=late, rejected=0)
print(json.dumps(dict(services=[dict(name=s, sent=100, replies=dict(OK=100), lost=0, violations=violations,
                                     latency_us=dict(p50=1.0, p99=2.0)) for s in ("a", "b")])))
"""


def peer(folder, name, capacity=1500, crash="False"):
    """Arguments for a server of another kind, which lives in `folder`."""
    server, load, ready = (folder / f"{name}.{kind}" for kind in ("server.py", "load.py", "ready"))
    server.write_text(SERVER.format(ready=str(ready)), encoding="utf-8")
    load.write_text(LOAD.format(capacity=capacity, crash=crash), encoding="utf-8")
    return [
        "--peer", f"{name} {sys.executable} {server}",
        "--peer-ready", f"{name} test -e {ready}",
        "--peer-load", f"{name} {sys.executable} {load} {{rate}} {{seconds}} {{qos_ms}} {{seed}} {{services}}",
    ]  # fmt: skip


def run_program(folder, *arguments):
    for name, text in (("controller", CONTROLLER), ("status", STATUS), ("client", CLIENT)):
        program = folder / f"abacus-{name}"
        program.write_text(text.format(python=sys.executable, folder=folder), encoding="utf-8")
        program.chmod(0o755)
    common = ["--bin", str(folder), "--config", "c.toml", "--service", "a:batch=1", "--service", "b", "--qos", "20ms"]
    saturate.main([*common, "--out", str(folder / "out"), "--step-s", "0.01", "--warm-s", "0", *arguments])
    with open(folder / "out" / "limits.csv", newline="", encoding="utf-8") as file:
        return {row["setting"]: row for row in csv.DictReader(file)}


def test_settings_and_peers_take_turns(tmp_path, capsys):
    settings = [
        "--setting",
        "one scheduler.policy=abacus scheduler.batching=off",
        "--setting",
        "two",
        "--set",
        "worker.gpu=0",
    ]
    rows = run_program(tmp_path, *settings, *peer(tmp_path, "other"), "--reference", "other", "--resolution", "0.05")
    assert list(rows) == ["one", "two", "other"] and all(row["confirmed"] == "True" for row in rows.values())
    assert 2850 < float(rows["one"]["limit_per_s"]) <= 3000 and 1425 < float(rows["other"]["limit_per_s"]) <= 1500
    arguments = (tmp_path / "saturate-one.arguments").read_text(encoding="utf-8").splitlines()
    assert arguments[-4:] == ["--set", "scheduler.policy=abacus", "--set", "scheduler.batching=off"]
    assert "worker.gpu=0" in arguments and 'server.listen=["tcp://127.0.0.1:5590"]' in arguments
    loads = (tmp_path / "loads.log").read_text(encoding="utf-8").splitlines()
    assert [line.split()[0][-4:] for line in loads[:4]] == ["5590", "5591", "5590", "5591"]
    with open(tmp_path / "out" / "steps.csv", newline="", encoding="utf-8") as file:
        steps = list(csv.DictReader(file))
    assert [row["setting"] for row in steps[:6:2]] == ["one", "two", "other"] and {row["service"] for row in steps} == {
        "a",
        "b",
    }
    assert (tmp_path / "out" / "saturation.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "saturate-one.ended").exists() and (tmp_path / "saturate-two.ended").exists()
    last = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split()[0] for line in last] == ["one", "two", "other"] and " 1.00 " in last[2] and " 2.00 " in last[0]


def test_one_by_one_a_server_ends_before_the_next_begins(tmp_path):
    run_program(tmp_path, "--setting", "one", "--setting", "two", "--one-by-one")
    ports = [line.split()[0][-4:] for line in (tmp_path / "loads.log").read_text(encoding="utf-8").splitlines()]
    assert ports == sorted(ports) and len(set(ports)) == 2


def test_a_server_that_fails_costs_the_others_nothing(tmp_path, capsys):
    settings = ["--setting", "bad scheduler.policy=broken", "--setting", "good"]
    missing = ["--peer", "gone /nonexistent/server", "--peer-load", "gone x"]
    rows = run_program(tmp_path, *settings, *peer(tmp_path, "crash", crash="rate > 1500"), *missing)
    assert "exit code 3" in rows["bad"]["remark"] and "did not start" in rows["gone"]["remark"]
    assert "broken pipe" in rows["crash"]["remark"] and float(rows["crash"]["limit_per_s"]) == 1000
    assert rows["good"]["confirmed"] == "True" and rows["crash"]["confirmed"] == "False"
    assert "not confirmed" in capsys.readouterr().out


def test_it_ends_with_its_budget_and_says_what_is_missing(tmp_path, capsys):
    clock = saturate.Clock(20, now=iter(range(0, 10_000)).__next__)
    assert clock.left() == 20 - saturate.END_S - 1
    rows = run_program(
        tmp_path, "--setting", "one", "--setting", "two", "--budget-s", str(saturate.END_S + 0.5), "--step-s", "0.4"
    )
    assert all(row["confirmed"] == "False" for row in rows.values())
    assert any("the time was up" in row["remark"] for row in rows.values())
    assert "time was up" in capsys.readouterr().out


def test_a_late_load_generator_is_told(tmp_path):
    late = dict(services=[dict(name="a", sent=10, replies={"OK": 10}, lost=0, violations=dict(late=9, rejected=0),
                               latency_us=dict(p50=1.0, p99=2.0))], send_lateness_us=dict(p99=5000.0))  # fmt: skip
    load = tmp_path / "late.py"
    load.write_text(f"print({json.dumps(json.dumps(late))})", encoding="utf-8")
    arguments = peer(tmp_path, "slow")[:4] + ["--peer-load", f"slow {sys.executable} {load}"]
    assert "a lower bound" in run_program(tmp_path, *arguments)["slow"]["remark"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--setting", "a b", "--setting", "a c"], "a name of its own"),
        (["--setting", "a/b"], "a name of its own"),
        (["--peer", "p x"], "no --peer-load for p"),
        (["--setting", "a", "--peer-load", "p x"], "no --peer p"),
        (["--setting", "a", "--peer", "a x", "--peer-load", "a x"], "a setting and a peer"),
        (["--setting", "a", "--reference", "b"], "none of a"),
        (["--setting", "a", "--qos", "20"], "expected a duration"),
        ([], "nothing to measure"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(arguments, complaint):
    common = ["--service", "a", "--qos", "20ms", "--config", "c", "--out", "o"]
    with pytest.raises(SystemExit, match=complaint):
        saturate.parse([*common, *arguments])


# --- bench/peers/grpc_load.py


def test_requests_of_the_open_inference_protocol_are_encoded_as_its_messages_say():
    grpc_load = load_peer("grpc_load")
    tensor = b"\x0a\x01x" + b"\x12\x04FP32" + b"\x1a\x02\x01\x03"  # name, datatype, shape [1, 3], packed
    expected = b"\x0a\x04bert" + b"\x2a" + bytes([len(tensor)]) + tensor + b"\x3a\x0c" + bytes(12)
    assert grpc_load.infer_request("bert", "x", "FP32", [1, 3]) == expected
    assert grpc_load.varint(300) == b"\xac\x02"


def test_a_peers_load_is_poisson_and_shared_by_its_models():
    grpc_load = load_peer("grpc_load")
    arrivals = grpc_load.plan(1000, 10, ["a", "b"], 3)
    assert arrivals == sorted(arrivals) == grpc_load.plan(1000, 10, ["a", "b"], 3) and arrivals[-1][0] < 10
    assert 9500 < len(arrivals) < 10_500 and 4700 < sum(model == "a" for _, model in arrivals) < 5300


def test_a_peers_report_is_read_as_that_of_abacus():
    grpc_load = load_peer("grpc_load")
    parts = [
        ({"a": 3, "b": 1}, [("a", 0.01), ("a", 0.03), ("b", None)], [0.0, 1e-3]),
        ({"a": 1, "b": 0}, [("a", 0.02)], []),
    ]
    (a, b), late_us = saturate.read_load(json.dumps(grpc_load.report(["a", "b"], 20, parts)))
    assert (a.sent, a.in_time, a.late, a.rejected, a.lost) == (4, 2, 1, 0, 1), "20 ms are in time"
    assert (b.sent, b.in_time, b.rejected, b.violation) == (1, 0, 1, 1.0)
    assert a.p50_us == pytest.approx(20_000) and late_us == pytest.approx(1000)


def load_peer(name):
    """A module of bench/peers; what it imports from gRPC is not needed here."""
    sys.modules.setdefault("grpc", types.ModuleType("grpc"))
    spec = importlib.util.spec_from_file_location(name, BENCH / "peers" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
