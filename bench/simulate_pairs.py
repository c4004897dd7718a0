"""What every policy carries, simulated, for all pairs of models and given groups.

    bench/simulate_pairs.py --predictor profiles/seven.predictor --out simulated

For every group, latency target and policy, from runs of `abacus-bench simulate`:
- the limit: the highest load at which no service has more than --limit violations, for each seed;
- with --curves: goodput over load, at shares of the highest limit of the group and target.
`gain` is the limit of abacus over that of the best of the others with batches, seed by seed.
Writes DIR/limits.csv and DIR/curves.csv as it goes, in --jobs processes at once (a second run goes on where the first
stopped), and DIR/limits-TARGET.png and DIR/curves-GROUP.png. A limit of 0: no load from 0.01 on is within it.
"""

import argparse
import concurrent.futures
import csv
import itertools
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import evaluate

OURS = "abacus"
POLICIES = (OURS, "abacus:off", "edf", "sjf", "fcfs", "free", "delay", "delay:1ms", "delay:2ms", "delay-free",
            "delay-free:1ms", "delay-free:2ms", "clockwork")  # fmt: skip
FIGURES = [
    "load", "rate_per_s", "violation", "worst_violation", "goodput_per_s", "p50_ms", "p99_ms",
    "rows_per_job", "padding",
]  # fmt: skip
KEYS = {"limits": ["group", "target", "policy", "seed"], "curves": ["group", "target", "policy", "share", "seed"]}
SHARES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.4)  # of the highest limit, for curves


def simulate(options, group, target, policy, more):
    """Rows of FIGURES and `seed`, in the order of `abacus-bench simulate --csv`."""
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:
        command = [
            f"{options.bin}/abacus-bench", "simulate", "--predictor", options.predictor,
            "--models", group.replace("+", ","), "--qos", target, "--policies", policy, "--rows", options.rows,
            "--arrivals", options.arrivals, "--seconds", str(options.seconds), "--seed", "1",
            "--seeds", str(options.seeds), "--csv", file.name, *more,
        ]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            sys.exit(f"simulate_pairs: {' '.join(command)}: {result.stderr[-500:]}")
        rows = []
        for row in csv.DictReader(pathlib.Path(file.name).read_text(encoding="utf-8").splitlines()):
            if row["service"] == "total":
                rows.append({key: row.get(key) for key in ("seed", *FIGURES)} | {"worst_violation": 0.0})
            else:  # the services follow their total
                rows[-1]["worst_violation"] = max(rows[-1]["worst_violation"], float(row["violation"]))
        return rows


class Table:
    """Rows of a CSV file by their key, and the runs that are still to be made."""

    def __init__(self, path, keys, seeds):
        self.path, self.keys, self.seeds, self.rows = path, keys, seeds, {}
        if path.exists():
            with open(path, newline="", encoding="utf-8") as file:
                for row in csv.DictReader(file):
                    if row.get(FIGURES[-1]):  # else cut off
                        self.rows[tuple(row[key] for key in keys)] = row

    def lacks(self, *key):
        """Whether a seed of the run is missing. key: all but the seed."""
        return any((*key, str(seed)) not in self.rows for seed in range(1, self.seeds + 1))

    def of(self, *key):
        return [self.rows[(*key, str(seed))] for seed in range(1, self.seeds + 1) if (*key, str(seed)) in self.rows]

    def fill(self, jobs, runs):
        """runs: {key: function that returns its rows}, `jobs` at once."""
        whole = self.path.with_suffix(".new")  # without what was cut off
        with open(whole, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*self.keys, *FIGURES])
            writer.writeheader()
            writer.writerows(self.rows.values())
        whole.replace(self.path)
        with (
            concurrent.futures.ThreadPoolExecutor(jobs) as pool,
            open(self.path, "a", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, [*self.keys, *FIGURES])
            futures = {pool.submit(run): key for key, run in runs.items()}
            try:
                for done, future in enumerate(concurrent.futures.as_completed(futures), 1):
                    key = futures[future]
                    named = dict(zip(self.keys[:-1], key, strict=True))
                    rows = {(*key, row["seed"]): named | row for row in future.result()}
                    writer.writerows(row for seed_key, row in rows.items() if seed_key not in self.rows)
                    file.flush()
                    self.rows |= rows
                    loads = ", ".join(f"{float(row['load']):.3f}" for row in rows.values())
                    print(f"{self.path.stem} {done}/{len(runs)}: {' '.join(key)}: load {loads}", flush=True)
            except BaseException:  # an interrupt, too, must not wait for all that is left
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def gains(limits, group, target, policies):
    """Of each seed: the limit of abacus over that of the best of the others with batches."""
    loads = {policy: [float(row["load"]) for row in limits.of(group, target, policy)] for policy in policies}
    rivals = [policy for policy in policies if policy != OURS and not policy.endswith(":off")]
    others = {policy: loads[policy] for policy in rivals if loads[policy]}
    if not others or not loads.get(OURS):
        return []
    highest = [max(seeds) for seeds in zip(*others.values(), strict=True)]
    return [ours / other for ours, other in zip(loads[OURS], highest, strict=True) if other > 0]


def summary(limits, groups, targets, policies):
    """Lines of text: for each target, the gains over the groups, and where abacus is behind."""
    yield f"{'target':<8} {'groups':>6}   gain: mean lowest highest   below 1 with every seed"
    for target in targets:
        found = {group: gains(limits, group, target, policies) for group in groups}
        means = {group: statistics.mean(gain) for group, gain in found.items() if gain} or {"": math.nan}
        behind = [f"{group} {max(gain):.3f}" for group, gain in found.items() if gain and max(gain) < 1]
        yield (
            f"{target:<8} {sum(map(bool, found.values())):>6}   {statistics.mean(means.values()):10.3f}"
            f" {min(means.values()):6.3f} {max(means.values()):7.3f}   {', '.join(behind) or 'none'}"
        )


def figure_of(width, height):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.figure(figsize=(width, height))


def plot_limits(limits, groups, target, policies, path):
    figure = figure_of(3.5 + 0.85 * len(policies), 1.2 + 0.3 * len(groups))
    axis = figure.add_subplot()
    grid = []
    for group in groups:
        loads = [[float(row["load"]) for row in limits.of(group, target, policy)] for policy in policies]
        means = [statistics.mean(seeds or [math.nan]) for seeds in loads]
        best = max((load for load in means if load > 0), default=math.nan)
        grid.append([load / best for load in means])
        for x, load in enumerate(means):
            axis.text(x, len(grid) - 1, f"{load:.2f}", ha="center", va="center", fontsize=7)
    axis.imshow(grid, cmap="RdYlGn", vmin=0.5, vmax=1, aspect="auto")
    axis.set_xticks(range(len(policies)), policies, rotation=45, ha="right", fontsize=7)
    axis.set_yticks(range(len(groups)), groups, fontsize=7)
    axis.set_title(f"load at the limit, target {target}\n(colour: share of the best)", fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def plot_curves(curves, group, targets, policies, path):
    figure = figure_of(4.2 * len(targets), 7)
    for i, target in enumerate(targets):
        for j, key in enumerate(("goodput_per_s", "worst_violation")):
            axis = figure.add_subplot(2, len(targets), j * len(targets) + i + 1)
            for policy in policies:
                points = [curves.of(group, target, policy, str(share)) for share in SHARES]
                points = [rows for rows in points if rows]
                rates = [statistics.mean(float(row["rate_per_s"]) for row in rows) for rows in points]
                values = [statistics.mean(float(row[key]) for row in rows) for rows in points]
                axis.plot(rates, values, ".-", label=policy, linewidth=2 if policy == OURS else 0.9)
            axis.set_title(f"{group}, {target}" if j == 0 else "", fontsize=8)
            axis.set_ylabel("violations of the worst service" if j else "in time, queries/s", fontsize=8)
            axis.set_xlabel("offered, queries/s", fontsize=8)
            if key == "worst_violation":
                axis.set_yscale("symlog", linthresh=0.001)
    figure.axes[0].legend(fontsize=6)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/bin", help="folder of the programs")
    parser.add_argument("--predictor", required=True)
    parser.add_argument("--groups", nargs="*", default=[], help="beside the pairs, such as resnet50+bert+vgg16")
    parser.add_argument("--no-pairs", action="store_true", help="only --groups")
    parser.add_argument("--targets", nargs="+", default=["5ms", "10ms", "20ms", "50ms"])
    parser.add_argument("--policies", nargs="+", default=list(POLICIES))
    parser.add_argument("--curves", nargs="*", default=[], help="groups to draw goodput over load for, or all")
    parser.add_argument("--rows", default="1", help="of a query, as abacus-bench simulate has it")
    parser.add_argument("--arrivals", default="poisson", help="poisson, bursts or diurnal")
    parser.add_argument("--limit", default="1%", help="of violations (default: 1%%)")
    parser.add_argument("--seconds", type=float, default=10, help="of arrivals in each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once")
    parser.add_argument("--out", required=True, help="folder for the tables and plots")
    return parser.parse_args(arguments)


def main(arguments):
    options = parse(arguments)
    models = [] if options.no_pairs else evaluate.read_solo(options.predictor)
    pairs = ["+".join(pair) for pair in itertools.combinations(models, 2)]
    groups = list(dict.fromkeys(pairs + options.groups))
    curve_groups = groups if options.curves == ["all"] else options.curves
    for group in curve_groups:
        if group not in groups:
            sys.exit(f"simulate_pairs: --curves {group}: none of the groups {' '.join(groups)}")
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    settings = {
        "predictor": evaluate.file_hash(options.predictor),
        "program": evaluate.file_hash(f"{options.bin}/abacus-bench"),
    } | {key: getattr(options, key) for key in ("rows", "arrivals", "limit", "seconds", "seeds")}
    evaluate.check_settings(out / "settings.json", settings)

    limits = Table(out / "limits.csv", KEYS["limits"], options.seeds)
    wanted = [key for key in itertools.product(groups, options.targets, options.policies) if limits.lacks(*key)]
    search = ["--find-limit", options.limit]
    limits.fill(options.jobs, {key: lambda key=key: simulate(options, *key, search) for key in wanted})
    print("\n".join(summary(limits, groups, options.targets, options.policies)))
    for target in options.targets:
        plot_limits(limits, groups, target, options.policies, out / f"limits-{target}.png")
    if not curve_groups:
        return

    curves = Table(out / "curves.csv", KEYS["curves"], options.seeds)
    runs = {}
    for group, target in itertools.product(curve_groups, options.targets):
        highest = max(float(row["load"]) for policy in options.policies for row in limits.of(group, target, policy))
        for policy, share in itertools.product(options.policies, SHARES):
            key = (group, target, policy, str(share))
            if highest > 0 and curves.lacks(*key):
                load = ["--loads", f"{highest * share:.5f}"]
                runs[key] = lambda key=key, load=load: simulate(options, *key[:3], load)
    curves.fill(options.jobs, runs)
    for group in curve_groups:
        plot_curves(curves, group, options.targets, options.policies, out / f"curves-{group}.png")


if __name__ == "__main__":
    evaluate.run(main, "simulate_pairs")
