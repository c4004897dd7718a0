"""Plots a load sweep: `plot_serving.py serving.csv PREFIX`, from the CSV of bench/evaluate.py.

Writes PREFIX-violations.png (share of queries that were not answered in time) and PREFIX-p99.png (99th percentile of the
latency over the target), one panel for each pair of models and choice of batch sizes, one line for each policy.
"""

import csv
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLORS = {"fcfs": "tab:gray", "sjf": "tab:brown", "edf": "tab:blue", "free": "tab:orange", "abacus": "tab:red"}
COLUMNS = 4


def panels(rows):
    """{(pair, batches): {policy: rows by load}}"""
    result = {}
    for row in sorted(rows, key=lambda r: float(r["load"])):
        result.setdefault((row["pair"], row["batches"]), {}).setdefault(row["policy"], []).append(row)
    return result


def draw(rows, target, value, label, limit, logarithmic):
    groups = panels(rows)
    lines = -(-len(groups) // COLUMNS)
    figure, axes = plt.subplots(lines, min(COLUMNS, len(groups)), figsize=(4 * min(COLUMNS, len(groups)), 3.2 * lines),
                                squeeze=False)  # fmt: skip
    for axis in axes.flat[len(groups) :]:
        axis.set_axis_off()
    for axis, ((pair, batches), policies) in zip(axes.flat, groups.items(), strict=False):
        for policy, points in policies.items():
            axis.plot([float(p["load"]) for p in points], [value(p) for p in points], marker=".", label=policy,
                      color=COLORS.get(policy))  # fmt: skip
        axis.axhline(limit, color="black", linewidth=0.8, linestyle="--")
        if logarithmic:
            axis.set_yscale("log")
        axis.set_title(f"{pair}, batch {batches}", fontsize=9)
        axis.set_xlabel("load (1: one query after another keeps the GPU busy)", fontsize=7)
        axis.set_ylabel(label, fontsize=8)
    axes.flat[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(target, dpi=110)


def main(source, prefix):
    with open(source, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        sys.exit(f"plot_serving: {source} has no rows")
    least = 0.01  # in percent: where zero is drawn on the logarithmic axis
    draw(rows, f"{prefix}-violations.png", lambda r: max(least, 100 * float(r["violation"])), "violations, %", 1, True)
    draw(rows, f"{prefix}-p99.png", lambda r: float(r["p99_us"]) / float(r["qos_us"]), "p99 / target", 1, False)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: plot_serving.py SERVING.csv PREFIX")
    main(sys.argv[1], sys.argv[2])
