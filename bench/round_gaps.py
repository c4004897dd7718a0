"""How long the GPU waits between rounds: `round_gaps.py TRACE.json`, from a trace with GPU timestamps.

The trace comes from `./mps.sh trace FILE` while a controller with `worker.gpu_timestamps = true` is under load. A gap is
the time from the end of the last range of a round on the GPU to the beginning of the first range of the next, on the
GPU's own clock. Only rounds that followed each other at once count: the GPU was not waiting for queries.
"""

import json
import statistics
import sys


def gaps_us(trace):
    """Gaps in microseconds between consecutive rounds of a parsed trace."""
    ranges = {}
    for event in trace["traceEvents"]:
        args = event.get("args", {})
        if "gpu_ended_ns" in args and args.get("round", 0) > 0:
            ranges.setdefault(args["round"], []).append((args["gpu_started_ns"], args["gpu_ended_ns"]))
    rounds = {}  # number -> (start, end) on the controller's clock, and how many ranges it had
    for event in trace["traceEvents"]:
        name = event.get("name", "")
        if event.get("ph") == "X" and name.startswith("round ") and "actual_us" in event.get("args", {}):
            # Twice in the trace, as predicted and as it was: the length is that of the argument, not of the event.
            rounds[int(name.split()[1])] = (event["ts"], event["ts"] + event["args"]["actual_us"], event["args"]["ranges"])
    gaps = []
    for number, (begin, _, count) in sorted(rounds.items()):
        before = rounds.get(number - 1)
        complete = len(ranges.get(number, [])) == count and before and len(ranges.get(number - 1, [])) == before[2]
        if complete and abs(begin - before[1]) < 0.01:
            started = min(start for start, _ in ranges[number])
            ended = max(end for _, end in ranges[number - 1])
            gaps.append((started - ended) / 1000)
    return gaps


def main(path):
    with open(path, encoding="utf-8") as file:
        gaps = gaps_us(json.load(file))
    if len(gaps) < 2:
        sys.exit("round_gaps: no consecutive rounds with GPU times; is worker.gpu_timestamps on, and was there load?")
    quantiles = statistics.quantiles(gaps, n=100)
    print(
        f"{len(gaps)} gaps between rounds on the GPU: median {statistics.median(gaps):.1f} us, p90 {quantiles[89]:.1f} us, "
        f"p99 {quantiles[98]:.1f} us, mean {statistics.mean(gaps):.1f} us"
    )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: round_gaps.py TRACE.json")
    main(sys.argv[1])
