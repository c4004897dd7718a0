"""What `abacus` gains with every pair of models, simulated: `simulate_pairs.py --predictor P --out DIR`.

For every pair and choice of batch sizes, from runs of `abacus-bench simulate`:
- load: the load with 1 % violations, for each policy; load 1 keeps the GPU busy running one query after another;
- gain: that of abacus over the best of the policies that run one query at a time;
- full: what abacus gets done per second while the queues never run dry, over the same of edf: what overlap brings.
Writes DIR/simulated-pairs.csv as it goes (a second run goes on where the first stopped) and DIR/simulated-pairs.png.
"nan" stands where no load from 0.01 to 2.5 has 1 % violations.
"""

import argparse
import concurrent.futures
import csv
import itertools
import math
import os
import pathlib
import subprocess
import sys
import tempfile

import evaluate

POLICIES = (*evaluate.ALONE, "abacus")
COLUMNS = ["pair", "batches", *(f"load_{policy}" for policy in POLICIES), "gain", "full"]
LOWEST, HIGHEST = 0.01, 2.5  # loads that are looked at
FULL_LOAD, FULL_QOS_FACTOR = 2.0, 10_000  # queues never run dry, and no query is given up


def simulate(options, pair, batches, policy, load, queries, qos_factor):
    """One row of `abacus-bench simulate --csv`."""
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        command = [
            f"{options.bin}/abacus-bench", "simulate", "--predictor", options.predictor, "--models", ",".join(pair),
            "--policies", policy, "--loads", str(load), "--seconds", str(queries * options.mean_us[pair, batches] / load / 1e6),
            "--seed", str(options.seed), "--qos-factor", str(qos_factor), "--csv", file.name,
        ]  # fmt: skip
        if batches != "all":
            command += ["--batches", batches]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            sys.exit(f"simulate_pairs: {' '.join(command)}: {result.stderr[-500:]}")
        return next(csv.DictReader(pathlib.Path(file.name).read_text(encoding="utf-8").splitlines()))


def highest_load(violation_at, limit=0.01, steps=10):
    """The load up to which violation_at(load) is within the limit, by bisection of the ratio; it grows with the load."""
    low, high = LOWEST, HIGHEST
    for _ in range(steps):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if violation_at(middle) <= limit else (low, middle)
    return math.nan if low == LOWEST or high == HIGHEST else (low * high) ** 0.5


def row_of(options, pair, batches):
    def load_of(policy):
        def violation_at(load):
            run = simulate(options, pair, batches, policy, load, options.queries, options.qos_factor)
            return float(run["violation"])

        return highest_load(violation_at)

    def full_of(policy):
        run = simulate(options, pair, batches, policy, FULL_LOAD, options.full_queries, FULL_QOS_FACTOR)
        return float(run["goodput_per_s"])

    loads = {policy: load_of(policy) for policy in POLICIES}
    alone = [loads[policy] for policy in evaluate.ALONE]
    gain = math.nan if any(map(math.isnan, alone)) else loads["abacus"] / max(alone)
    return {
        "pair": "+".join(pair), "batches": batches, **{f"load_{policy}": f"{load:.4f}" for policy, load in loads.items()},
        "gain": f"{gain:.4f}", "full": f"{full_of('abacus') / full_of('edf'):.4f}",
    }  # fmt: skip


def summary(rows):
    """Lines of text: gain and full over the pairs, for each choice of batch sizes."""
    yield f"{'batch':<8} {'pairs':>5}   gain: mean lowest highest, pairs with 1.3   full queues: mean lowest highest"
    for batches in dict.fromkeys(row["batches"] for row in rows):
        gain, full = ([float(r[key]) for r in rows if r["batches"] == batches] for key in ("gain", "full"))
        gain = [g for g in gain if not math.isnan(g)] or [math.nan]
        yield (
            f"{batches:<8} {len(full):>5}   {sum(gain) / len(gain):10.2f} {min(gain):6.2f} {max(gain):7.2f}"
            f" {sum(g >= 1.3 for g in gain):15}   {sum(full) / len(full):17.2f} {min(full):6.2f} {max(full):7.2f}"
        )


def plot(rows, target):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    pairs = list(dict.fromkeys(row["pair"] for row in rows))
    batches = list(dict.fromkeys(row["batches"] for row in rows))
    figure, axes = plt.subplots(1, 2, figsize=(3 + 1.5 * len(batches), 1 + 0.3 * len(pairs)), sharey=True)
    for axis, key, title in zip(axes, ("gain", "full"), ("load with 1 % violations", "throughput, queues full"), strict=True):
        values = {(r["pair"], r["batches"]): float(r[key]) for r in rows}
        grid = [[values.get((p, b), float("nan")) for b in batches] for p in pairs]
        axis.imshow(grid, cmap="RdYlGn", vmin=0.7, vmax=1.5, aspect="auto")
        for y, line in enumerate(grid):
            for x, value in enumerate(line):
                axis.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=7)
        axis.set_xticks(range(len(batches)), batches)
        axis.set_yticks(range(len(pairs)), pairs, fontsize=7)
        axis.set_xlabel("batch")
        axis.set_title(f"{title}:\nabacus over one query at a time", fontsize=9)
    figure.tight_layout()
    figure.savefig(target, dpi=110)


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/bin", help="folder of the programs")
    parser.add_argument("--predictor", required=True)
    parser.add_argument("--batches", nargs="+", default=["1", "2", "4", "8", "16", "32", "all"], help="choices, e.g. 1 1,2 all")
    parser.add_argument("--queries", type=int, default=100_000, help="of each run, on average")
    parser.add_argument("--full-queries", type=int, default=2_000, help="of each run with full queues")
    parser.add_argument("--qos-factor", type=float, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", required=True, help="folder for simulated-pairs.csv and .png")
    return parser.parse_args(arguments)


def main(arguments):
    options = parse(arguments)
    solo = evaluate.read_solo(options.predictor)
    options.mean_us = {
        (pair, batches): evaluate.mix_of(solo, pair, None if batches == "all" else [int(b) for b in batches.split(",")], 1)[0]
        for batches in options.batches
        for pair in itertools.combinations(solo, 2)
    }
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    settings = {"predictor": evaluate.file_hash(options.predictor)}
    settings |= {key: getattr(options, key) for key in ("queries", "full_queries", "qos_factor", "seed")}
    evaluate.check_settings(out / "settings.json", settings)
    path = out / "simulated-pairs.csv"
    rows = {}
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            rows = {(row["pair"], row["batches"]): row for row in csv.DictReader(file)}
    wanted = [mix for mix in options.mean_us if ("+".join(mix[0]), mix[1]) not in rows]
    total = len(rows) + len(wanted)
    with open(path, "a", newline="", encoding="utf-8") as file, concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        writer = csv.DictWriter(file, COLUMNS)
        if file.tell() == 0:
            writer.writeheader()
        try:
            for run in concurrent.futures.as_completed([pool.submit(row_of, options, *mix) for mix in wanted]):
                row = run.result()
                writer.writerow(row)
                file.flush()
                rows[row["pair"], row["batches"]] = row
                print(f"{len(rows)}/{total}", " ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        except BaseException:  # an interrupt, too, must not wait for all that is left
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    keys = dict.fromkeys(("+".join(pair), batches) for pair, batches in options.mean_us)  # as asked for, others behind
    ordered = [rows[key] for key in keys | dict.fromkeys(rows)]
    print("\n".join(summary(ordered)))
    plot(ordered, out / "simulated-pairs.png")


if __name__ == "__main__":
    evaluate.run(main, "simulate_pairs")
