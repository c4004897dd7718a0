"""Serves pairs of models under each policy and measures QoS violations and latencies over a load sweep.

    bench/evaluate.py --bin build/bin --config configs/seven.toml --predictor profiles/seven.predictor \
        --sweep resnet50+bert,vgg16+resnet152:1:0.8,0.9,1.0,1.1,1.2,1.3 --sweep resnet50+bert:all:0.5,0.6,0.7 --out results

One controller a policy, all models loaded; every policy gets the same seeded arrivals. A load of 1 is the rate at which
the GPU, running one query after another, is always busy; the latency target is --qos-factor times the solo time of the
pair's slowest model at its largest bucket (solo times are the predictor's). Queries that get no answer in time, for
whatever reason, count as violations. Writes OUT/serving.csv as it goes; a second run goes on where the first stopped.
With a GPU, start the CUDA MPS daemon first and pass --set worker.gpu=0.
"""

import argparse
import contextlib
import csv
import hashlib
import itertools
import json
import operator
import pathlib
import subprocess
import sys
import time
import typing

COLUMNS = [
    "pair", "batches", "load", "rate_per_s", "qos_us", "policy", "sent", "in_time", "violation", "late", "rejected",
    "lost", "p50_us", "p99_us", "goodput_per_s", "rounds", "rounds_several", "rounds_over", "margin",
]  # fmt: skip
ALONE = ("fcfs", "sjf", "edf")  # policies that run one query at a time


def read_solo(path):
    """Solo times of a predictor: {model: [(batch, sequence, microseconds), ...]}."""
    with open(path, "rb") as file:
        file.readline()
        body = json.loads(file.read())
    return {
        model["name"]: [(b["batch"], b["sequence"], b["solo"]["us"][-1]) for b in model["buckets"]]
        for model in body["subject"]["models"]
    }


def mix_of(solo, pair, batches, qos_factor):
    """Mean solo time of a query in microseconds and latency target. batches: None stands for all."""
    means, slowest = [], 0.0
    for model in pair:
        times = [us for batch, _, us in solo[model] if batches is None or batch in batches]
        if not times:
            sys.exit(f"evaluate: {model} has no bucket of the batch sizes {batches}")
        means.append(sum(times) / len(times))
        slowest = max(slowest, max(us for _, _, us in solo[model]))
    return sum(means) / len(means), qos_factor * slowest


def highest_load(rows, policy, limit=0.01):
    """The load up to which the policy keeps violations within the limit at every load; 0: at none.

    Between the last load within the limit and the first beyond it, where a straight line between them crosses it:
    violations grow ever faster, so the true one is a little higher.
    """
    load, share = 0.0, 0.0
    for row in sorted((r for r in rows if r["policy"] == policy), key=lambda r: float(r["load"])):
        next_load, next_share = float(row["load"]), float(row["violation"])
        if next_share > limit:
            return load + (next_load - load) * (limit - share) / (next_share - share) if load else 0.0
        load, share = next_load, next_share
    return load


def load_text(rows, policy, limit=0.01):
    """highest_load as text; with < or >= where the sweep did not reach it."""
    loads = [float(r["load"]) for r in rows if r["policy"] == policy]
    load = highest_load(rows, policy, limit)
    return f"<{min(loads):.2f}" if load == 0 else f">={load:.2f}" if load == max(loads) else f"{load:.2f}"


def violation_ratios(rows, least=0.02):
    """{load: violations of abacus over those of the best of ALONE}, where the best has at least `least`.

    Only loads that all of ALONE that were swept have a row for.
    """
    by_load = {}
    for row in rows:
        by_load.setdefault(float(row["load"]), {})[row["policy"]] = float(row["violation"])
    swept = {row["policy"] for row in rows}.intersection(ALONE)
    ratios = {}
    for load, shares in sorted(by_load.items()):
        if "abacus" not in shares or not swept or not swept <= shares.keys():
            continue
        best = min(shares[policy] for policy in swept)
        if best >= least:
            ratios[load] = shares["abacus"] / best
    return ratios


class Controller:
    """A controller, from its start to stop()."""

    def __init__(self, options, policy, port):
        self.options, self.name = options, f"evaluate-{policy}"
        self.address = f"tcp://127.0.0.1:{port}"
        settings = [
            f"scheduler.policy={policy}",
            f"scheduler.predictor={pathlib.Path(options.predictor).resolve()}",
            f"server.name={self.name}",
            f'server.listen=["{self.address}"]',
            *options.set,
        ]
        command = [f"{options.bin}/abacus-controller", "--config", options.config]
        self.log = open(f"{options.out}/controller-{policy}.log", "w", encoding="utf-8")
        self.process = subprocess.Popen(
            command + [part for setting in settings for part in ("--set", setting)], stdout=self.log, stderr=self.log
        )

    def wait_until_serving(self):
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and self.process.poll() is None:
            status = self.status()
            if status and status["pid"] == self.process.pid and all(service["state"] == "serving" for service in status["services"]):
                return
            time.sleep(0.5)
        sys.exit(f"evaluate: the controller did not come up; see {self.log.name}")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def status(self):
        result = subprocess.run(
            [f"{self.options.bin}/abacus-status", "--json", "--name", self.name], capture_output=True, check=False
        )
        return json.loads(result.stdout) if result.returncode == 0 else None

    def predictor(self):
        for _ in range(5):
            if status := self.status():
                return status["predictor"]
            time.sleep(0.2)
        sys.exit(f"evaluate: the controller is gone; see {self.log.name}")


def load_once(options, controller, pair, batches, rate, qos_us):
    """Columns of one row: a load at `rate` queries a second."""
    before = controller.predictor()
    command = [
        f"{options.bin}/abacus-client", "--json", "load", "--address", controller.address,
        "--rate", str(rate), "--seconds", str(round(options.queries / rate, 3)), "--seed", str(options.seed), "--qos-us",
        str(round(qos_us)), "--payload" if options.payload else "--no-payload",
    ]  # fmt: skip
    for model in pair:
        command += ["--service", model + ("" if batches is None else ":batch=" + ",".join(map(str, batches)))]
    result = subprocess.run(command, capture_output=True, check=False)
    if not result.stdout:
        sys.exit(f"evaluate: {' '.join(command)}: {result.stderr.decode()[-500:]}")
    total = json.loads(result.stdout)["total"]
    after = controller.predictor()
    good = total["replies"].get("OK", 0) - total["violations"]["late"]
    return {
        "sent": total["sent"],
        "in_time": good,
        "violation": round(1 - good / max(1, total["sent"]), 6),
        "late": total["violations"]["late"],
        "rejected": total["violations"]["rejected"],
        "lost": total["lost"],
        "p50_us": total["latency_us"]["p50"],
        "p99_us": total["latency_us"]["p99"],
        "goodput_per_s": total["goodput_per_s"],
        **{key: after[key] - before[key] for key in ("rounds", "rounds_several", "rounds_over")},
        "margin": after["margin"],
    }


def by_mix(rows):
    """Pairs of (pair, batches) and their rows."""
    key = operator.itemgetter("pair", "batches")
    return [(mix, list(group)) for mix, group in itertools.groupby(sorted(rows, key=key), key=key)]


def summary(rows):
    """Lines of text: per pair and batch sizes, the highest load each policy carries and what abacus gains."""
    yield f"{'pair':<28} {'batches':<10} load with 1 % violations; violations of abacus / best of {', '.join(ALONE)} at a load"
    for (pair, batches), group in by_mix(rows):
        highest = {policy: highest_load(group, policy) for policy in sorted({r["policy"] for r in group})}
        alone = max((highest.get(p, 0) for p in ALONE), default=0)
        text = "  ".join(f"{policy} {load_text(group, policy)}" for policy in highest)
        gain = f"  gain {highest['abacus'] / alone:.2f}" if alone and "abacus" in highest else ""
        ratios = " ".join(f"{load}: {ratio:.2f}" for load, ratio in violation_ratios(group).items())
        yield f"{pair:<28} {batches:<10} {text}{gain}; {ratios}"
    rounds, over = (sum(int(r[key]) for r in rows if r["policy"] == "abacus") for key in ("rounds", "rounds_over"))
    if rounds:
        yield f"rounds of abacus that took longer than predicted plus margin: {over} of {rounds} ({100 * over / rounds:.2f} %)"


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/bin", help="folder of the programs")
    parser.add_argument("--config", required=True, help="configuration with the models as services of the same names")
    parser.add_argument("--predictor", required=True)
    parser.add_argument(
        "--sweep", action="append", default=[], metavar="PAIRS:BATCHES:LOADS[:POLICIES]",
        help="A+B,C+D or all; the batch sizes that are asked for, 1,2 or all; loads; only these of the policies; repeatable"
        " (default: all:all:0.4,0.5,0.6,0.7,0.8,0.9,1.0)",
    )  # fmt: skip
    parser.add_argument(
        "--turns", action="store_true",
        help="start the controllers of all policies at once and let them take turns at every load they share, so that a"
        " disturbance of the machine meets all; the GPU must have memory for as many copies of the models",
    )  # fmt: skip
    parser.add_argument("--stop-above", type=float, default=0.1, help="violations beyond which no higher load is tried")
    parser.add_argument("--policies", default="fcfs,sjf,edf,free,abacus")
    parser.add_argument("--queries", type=int, default=4000, help="at each load, on average")
    parser.add_argument("--qos-factor", type=float, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--payload", action="store_true", help="send tensors, too")
    parser.add_argument("--port", type=int, default=5579, help="of the first controller; with --turns the others follow")
    parser.add_argument("--set", action="append", default=[], help="setting of the controller; repeatable")
    parser.add_argument("--out", required=True, help="folder for serving.csv and logs")
    return parser.parse_args(arguments)


def file_hash(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def settings_of(options):
    return {
        "config": pathlib.Path(options.config).name,
        "predictor": file_hash(options.predictor),
        **{key: getattr(options, key) for key in ("queries", "qos_factor", "seed", "payload", "turns", "set")},
    }


def check_settings(path, settings):
    """Rows of one file are comparable only if all were measured alike: ends the program if they were not."""
    if not path.exists():
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    before = {"turns": False} | json.loads(path.read_text(encoding="utf-8"))  # older files do not have it
    if different := [key for key in settings if settings[key] != before.get(key)]:
        sys.exit(f"{path.parent} was begun with another {', '.join(different)}: use another --out")


class Sweep(typing.NamedTuple):
    pairs: list
    batches: list | None  # None: all
    batches_text: str
    loads: list
    policies: list


def parse_sweep(text, models, policies):
    """A Sweep from PAIRS:BATCHES:LOADS[:POLICIES]; ends the program if it is not one."""
    try:
        pairs, batches, loads, *only = text.split(":")
        chosen = [tuple(p.split("+")) for p in pairs.split(",")] if pairs != "all" else list(itertools.combinations(models, 2))
        sizes = None if batches == "all" else [int(b) for b in batches.split(",")]
        names = only[0].split(",") if only else policies
        sweep = Sweep(chosen, sizes, batches, [float(load) for load in loads.split(",")], names)
        if min(sweep.loads) <= 0 or any(len(pair) != 2 for pair in chosen) or len(only) > 1:
            raise ValueError
    except ValueError:
        sys.exit(f"evaluate: --sweep {text}: expected PAIRS:BATCHES:LOADS[:POLICIES], as in resnet50+bert:1:0.9,1.0,1.1")
    for model in itertools.chain(*sweep.pairs):
        if model not in models:
            sys.exit(f"evaluate: the predictor has no model {model}; it has {', '.join(models)}")
    for policy in names:
        if policy not in policies:
            sys.exit(f"evaluate: --sweep {text}: no policy {policy} among those of --policies, {','.join(policies)}")
    return sweep


class Point(typing.NamedTuple):
    """What is measured at once: one load, for each of the policies."""

    pair: tuple
    batches: list | None
    batches_text: str
    load: float
    policies: set

    def is_missing(self, results, policy, stop_above):
        """Whether it is asked for, not there yet, and no lower load of its curve has too many violations."""
        curve = [
            (float(r["load"]), float(r["violation"]))
            for r in results.rows
            if (r["pair"], r["batches"], r["policy"]) == ("+".join(self.pair), self.batches_text, policy)
        ]
        return policy in self.policies and all(
            load != self.load and (load > self.load or violation <= stop_above) for load, violation in curve
        )


def points_of(sweeps):
    """The points of all sweeps: pair by pair, loads ascending, so that policies meet at every load they share."""
    curves = {}
    for sweep in sweeps:
        for pair in sweep.pairs:
            loads = curves.setdefault((pair, sweep.batches_text), (sweep.batches, {}))[1]
            for load in sweep.loads:
                loads.setdefault(load, set()).update(sweep.policies)
    for (pair, text), (batches, loads) in curves.items():
        for load in sorted(loads):
            yield Point(pair, batches, text, load, loads[load])


class Results:
    """OUT/serving.csv: what was measured before, and rows as they come."""

    def __init__(self, path):
        self.path, self.rows = path, []
        if path.exists():
            with open(path, newline="", encoding="utf-8") as file:
                self.rows = list(csv.DictReader(file))

    def add(self, row):
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
        self.rows.append({key: str(value) for key, value in row.items()})


def measure(options, controllers, points, mixes, results):
    """All points that are missing for the policies of `controllers` ({policy: Controller})."""
    for number, point in enumerate(points, 1):
        mean_us, qos_us = mixes[point.pair, point.batches_text]
        for policy, controller in controllers.items():
            if not point.is_missing(results, policy, options.stop_above):
                continue
            row = {
                "pair": "+".join(point.pair), "batches": point.batches_text, "load": point.load, "policy": policy,
                "rate_per_s": round(point.load * 1e6 / mean_us, 1), "qos_us": round(qos_us),
            }  # fmt: skip
            row |= load_once(options, controller, point.pair, point.batches, row["rate_per_s"], qos_us)
            results.add(row)
            print(
                f"{number}/{len(points)} {policy}  {row['pair']} batch {point.batches_text} load {point.load}:"
                f" {100 * row['violation']:.2f} % violated, p99 {row['p99_us'] / 1000:.2f} ms,"
                f" {row['rounds_over']} of {row['rounds']} rounds over",
                flush=True,
            )


def main(arguments):
    options = parse(arguments)
    solo = read_solo(options.predictor)
    policies = options.policies.split(",")
    sweeps = [parse_sweep(text, list(solo), policies) for text in options.sweep or ["all:all:0.4,0.5,0.6,0.7,0.8,0.9,1.0"]]
    points = list(points_of(sweeps))
    mixes = {(p.pair, p.batches_text): mix_of(solo, p.pair, p.batches, options.qos_factor) for p in points}
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    check_settings(out / "settings.json", settings_of(options))
    results = Results(out / "serving.csv")
    asked = [policy for policy in policies if any(point.is_missing(results, policy, options.stop_above) for point in points)]
    for turn in [asked] if options.turns and asked else [[policy] for policy in asked]:
        with contextlib.ExitStack() as running:
            controllers = {}
            for i, policy in enumerate(turn):
                controllers[policy] = Controller(options, policy, options.port + i)
                running.callback(controllers[policy].stop)
            for controller in controllers.values():
                controller.wait_until_serving()
            measure(options, controllers, points, mixes, results)
    print("\n".join(summary(results.rows)))


def run(program, name):
    """Runs a program that can go on after an interrupt."""
    try:
        program(sys.argv[1:])
    except KeyboardInterrupt:
        print(f"{name}: interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run(main, "evaluate")
