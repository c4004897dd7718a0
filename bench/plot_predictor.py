"""Plots how good the predictor is: `plot_predictor.py DIR --out PREFIX`, from what `abacus-train --report DIR` wrote.

Writes PREFIX-pairs.png (error by pair of models) and PREFIX-scatter.png (predicted against measured times).
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

METHODS = {"mape": "network", "linear_mape": "linear regression", "svm_mape": "SVM"}
GOALS_PERCENT = (2.5, 4)


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ValueError(f"{path}: no rows")
    return rows


def plot_pairs(rows: list[dict[str, str]], target: Path) -> None:
    pairs = sorted((r for r in rows if r["models"] == "2"), key=lambda r: float(r["mape"]))
    if not pairs:
        raise ValueError("the report has no pairs of models")
    figure, axes = plt.subplots(figsize=(max(6, 0.55 * len(pairs) + 2), 5))
    for i, (column, name) in enumerate(METHODS.items()):
        errors = [100 * float(r[column]) for r in pairs]
        axes.bar([x + (i - 1) * 0.28 for x in range(len(pairs))], errors, width=0.28, label=name)
    for goal in GOALS_PERCENT:
        axes.axhline(goal, color="black", linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(pairs)), [r["set"] for r in pairs], rotation=60, ha="right")
    axes.set_ylabel("mean absolute error of held-out groups, %")
    axes.legend()
    axes.set_title(f"Error by pair (dashed: the goals of {' % and '.join(f'{g:g}' for g in GOALS_PERCENT)} %)")
    figure.tight_layout()
    figure.savefig(target, dpi=110)
    plt.close(figure)


def plot_scatter(rows: list[dict[str, str]], target: Path) -> None:
    by_size: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        size = row["set"].count(" + ") + 1
        by_size.setdefault(size, []).append((float(row["measured_us"]), float(row["predicted_us"])))
    times = [time for points in by_size.values() for point in points for time in point]
    residuals = [100 * (measured / predicted - 1) for points in by_size.values() for measured, predicted in points]
    figure, (scatter, histogram) = plt.subplots(1, 2, figsize=(12, 5))
    for size, points in sorted(by_size.items()):
        scatter.scatter(*zip(*points, strict=True), s=5, alpha=0.5, label=f"{size} models")
    scatter.plot([min(times), max(times)], [min(times), max(times)], color="black", linewidth=0.8)
    scatter.set_xscale("log")
    scatter.set_yscale("log")
    scatter.set_xlabel("measured, us")
    scatter.set_ylabel("predicted, us")
    scatter.legend()
    scatter.set_title(f"{len(residuals)} held-out groups")
    limit = 15
    histogram.hist([min(max(r, -limit), limit) for r in residuals], bins=60, range=(-limit, limit))
    histogram.set_xlabel(f"measured over predicted, % (beyond {limit}: in the last bar)")
    histogram.set_ylabel("groups")
    histogram.set_title("Residuals (right: took longer than predicted)")
    figure.tight_layout()
    figure.savefig(target, dpi=110)
    plt.close(figure)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, metavar="DIR")
    parser.add_argument("--out", required=True, metavar="PREFIX")
    options = parser.parse_args(arguments)
    try:
        plot_pairs(read_rows(options.report / "error_by_set.csv"), Path(f"{options.out}-pairs.png"))
        plot_scatter(read_rows(options.report / "predictions.csv"), Path(f"{options.out}-scatter.png"))
    except (OSError, ValueError, KeyError) as error:
        print(f"plot_predictor.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
