"""Plots what cutting costs: `plot_ranges.py ranges.csv ranges.png`, from the CSV that docs/results/README.md describes."""

import csv
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

WAYS = {
    "full_range_us": "full range",
    "two_slices_us": "two slices",
    "four_slices_us": "four slices",
    "two_slices_waited_us": "two slices, wait after each",
    "four_slices_waited_us": "four slices, wait after each",
}


def main(source: str, target: str) -> None:
    with open(source, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    labels = [f"{r['model']} b{r['batch']}" + (f" s{r['sequence']}" if r["sequence"] != "0" else "") for r in rows]
    figure, axes = plt.subplots(figsize=(13, 5))
    for i, (column, name) in enumerate(WAYS.items()):
        cost = [100 * (float(r[column]) / float(r["whole_us"]) - 1) for r in rows]
        axes.bar([x + (i - 2) * 0.17 for x in range(len(rows))], cost, width=0.17, label=name)
    axes.axhline(2, color="black", linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(rows)), labels, rotation=90)
    axes.set_ylabel("time over the uncut CUDA graph, %")
    axes.legend()
    axes.set_title("Cost of operator ranges (dashed: the goal of 2 % for one and two slices)")
    figure.tight_layout()
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: plot_ranges.py RANGES.csv PLOT.png")
    main(sys.argv[1], sys.argv[2])
