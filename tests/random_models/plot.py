"""Draws how close differences come to the tolerance: `plot.py RESULTS.csv PLOT.png`."""

from __future__ import annotations

import sys
from pathlib import Path


def plot(outcomes: list, target: Path) -> None:
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print("no plot: matplotlib is missing", file=sys.stderr)
        return
    figure, axes = plt.subplots(figsize=(9, 4.5))
    smallest = 1e-3
    for kind, colour in (("image", "C0"), ("signal", "C1"), ("vector", "C2"), ("sequence", "C3")):
        ratios = sorted(max(smallest, min(1e3, o.ratio)) for o in outcomes
                        if o.summary.startswith(kind) and o.status in ("ok", "DIFFERENT"))  # fmt: skip
        if ratios:
            shares = [(i + 1) / len(ratios) for i in range(len(ratios))]
            axes.step(ratios, shares, where="post", color=colour, label=f"{kind} ({len(ratios)} models)")
    axes.axvline(1, color="black", linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.set_xlabel("largest difference of a model over its tolerance (left edge: bit-identical or nearly)")
    axes.set_ylabel("share of the models")
    axes.set_title("Served against eager (dashed: four times eager's own error against float64)")
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(target, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: plot.py RESULTS.csv PLOT.png")
    from run import read

    plot(list(read(Path(sys.argv[1])).values()), Path(sys.argv[2]))
