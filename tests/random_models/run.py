#!/usr/bin/env python3
"""Random small models through export, load, every cut and several batches, against eager PyTorch. See README.md."""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import asdict, fields
from multiprocessing.connection import Connection, wait
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; processes are what runs in parallel
sys.path.insert(0, str(Path(__file__).resolve().parent))

from examine import BROKEN, GOOD, REFUSED, How, Outcome, examine, prepare  # noqa: E402

COLUMNS = [field.name for field in fields(Outcome)]
SEED_TIMEOUT_S = 180
SEEDS_OF_A_PROCESS = 150  # then a new one: TorchScript frees nothing of what it compiled
MAX_REFUSED = 0.02


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    begin, end = args.seeds
    done = read(args.csv)
    seeds = [seed for seed in range(begin, end) if seed not in done]
    outcomes = [outcome for seed, outcome in done.items() if begin <= seed < end]
    how = How(args.worker, args.device, args.keep)
    interrupted = False
    if seeds:
        if args.csv is not None:
            _write(args.csv, done)
        sink = (
            open(args.csv, "a", newline="", encoding="utf-8") if args.csv else open(os.devnull, "w", encoding="utf-8")
        )
        with sink:
            writer = csv.DictWriter(sink, COLUMNS)
            try:
                _run(seeds, how, args.jobs, outcomes, lambda outcome: _record(outcome, writer, sink))
            except KeyboardInterrupt:
                interrupted = True
                print("stopped; the same command goes on from here", file=sys.stderr)
    good = summarise(outcomes)
    if args.plot is not None:
        from plot import plot

        plot(outcomes, args.plot)
    return 130 if interrupted else 0 if good else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=_seeds, default=(0, 40), metavar="A:B", help="from A to B - 1 (default: 0:40)")
    parser.add_argument("--worker", type=Path, help="abacus-worker; without: frozen in this process, and not cut")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one per core)")
    parser.add_argument(
        "--csv", type=Path, help="where results go, a line each; what is there already is not run again"
    )
    parser.add_argument("--plot", type=Path, help="PNG of difference over tolerance (needs matplotlib)")
    parser.add_argument("--keep", type=Path, help="folder for the files of models that went wrong")
    return parser


def _seeds(text: str) -> tuple[int, int]:
    begin, separator, end = text.partition(":")
    if not separator or not begin.isdecimal() or not end.isdecimal() or int(begin) >= int(end):
        raise argparse.ArgumentTypeError(f"{text!r} is not A:B, such as 0:40")
    return int(begin), int(end)


def read(path: Path | None) -> dict[int, Outcome]:
    if path is None or not path.exists():
        return {}
    outcomes = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["detail"] is None:
                continue  # cut off when it was written
            numbers = float(row["ratio"]), float(row["seconds"])
            outcome = Outcome(int(row["seed"]), row["summary"], row["status"], *numbers, row["detail"])
            outcomes[outcome.seed] = outcome
    return outcomes


def _write(path: Path, outcomes: dict[int, Outcome]) -> None:
    """Anew, so that the next line begins at the start of one, however the last run ended."""
    temporary = path.with_name(path.name + ".new")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(map(_as_row, outcomes.values()))
    os.replace(temporary, path)


def _as_row(outcome: Outcome) -> dict[str, object]:
    return asdict(outcome) | {"ratio": f"{outcome.ratio:.4g}", "seconds": f"{outcome.seconds:.3f}"}


def _record(outcome: Outcome, writer: csv.DictWriter, sink) -> None:
    writer.writerow(_as_row(outcome))
    sink.flush()
    if outcome.status not in GOOD:
        print(f"\nseed {outcome.seed} ({outcome.summary}): {outcome.status}: {outcome.detail}", flush=True)


class _Process:
    """Examines seeds one after another in a process of its own, which may crash."""

    def __init__(self, how: How) -> None:
        self._how = how
        self.seed: int | None = None
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._how), daemon=True)
        self._process.start()
        theirs.close()
        self._given = 0

    def give(self, seed: int) -> None:
        if self._given == SEEDS_OF_A_PROCESS:
            self.stop()
            self._start()
        self.seed, self._given, self._since = seed, self._given + 1, time.monotonic()
        self.pipe.send(seed)

    def take(self) -> Outcome:
        try:
            outcome = self.pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            outcome = self._lost(f"the process ended with {self._process.exitcode}")
        self.seed = None
        return outcome

    def overdue(self) -> bool:
        return self.seed is not None and time.monotonic() - self._since > SEED_TIMEOUT_S

    def give_up(self) -> Outcome:
        self._process.kill()
        outcome = self._lost(f"no result within {SEED_TIMEOUT_S} s")
        self.seed = None
        return outcome

    def _lost(self, detail: str) -> Outcome:
        from generator import make_model

        outcome = Outcome(
            self.seed, make_model(self.seed).summary, BROKEN, seconds=time.monotonic() - self._since, detail=detail
        )
        self.stop()
        self._start()
        return outcome

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _serve(pipe: Connection, how: How) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    prepare()
    try:
        while True:
            pipe.send(examine(pipe.recv(), how))
    except (EOFError, BrokenPipeError):
        return  # the parent is gone


def _run(seeds: list[int], how: How, jobs: int, outcomes: list[Outcome], record) -> None:
    waiting = list(reversed(seeds))
    processes = [_Process(how) for _ in range(min(jobs, len(seeds)))]
    start, shown, finished = time.monotonic(), 0.0, 0
    try:
        for process in processes:
            process.give(waiting.pop())
        while busy := [process for process in processes if process.seed is not None]:
            ready = set(wait([process.pipe for process in busy], timeout=1.0))
            for process in busy:
                if process.pipe in ready:
                    outcome = process.take()
                elif process.overdue():
                    outcome = process.give_up()
                else:
                    continue
                outcomes.append(outcome)
                record(outcome)
                finished += 1
                if waiting:
                    process.give(waiting.pop())
            if time.monotonic() - shown > (2 if sys.stderr.isatty() else 30):
                shown = time.monotonic()
                rate = finished / (shown - start)
                left = f", {(len(seeds) - finished) / rate:.0f} s left" if finished else ""
                print(f"{finished}/{len(seeds)} models, {rate:.1f}/s{left}", file=sys.stderr, flush=True)
    finally:
        for process in processes:
            process.stop()


def summarise(outcomes: list[Outcome]) -> bool:
    """Prints what came out; whether it is as it must be."""
    count = Counter(outcome.status for outcome in outcomes)
    bad = sum(number for status, number in count.items() if status not in GOOD)
    ratios = [outcome.ratio for outcome in outcomes if outcome.status == "ok"]
    refused = [outcome for outcome in outcomes if outcome.status == REFUSED]
    share = len(refused) / max(1, len(outcomes))
    print(f"{len(outcomes)} models: " + ", ".join(f"{number} {status}" for status, number in count.most_common()))
    print(f"worst difference of those that are ok: {max(ratios, default=0.0):.2f} of the tolerance")
    print(f"refused: {share:.2%} (at most {MAX_REFUSED:.0%})")
    for outcome in refused:
        print(f"  seed {outcome.seed}: {outcome.detail[:200]}")
    for outcome in outcomes:
        if outcome.status not in GOOD:
            print(f"  seed {outcome.seed} ({outcome.summary}): {outcome.status}: {outcome.detail[:300]}")
    # A few models say nothing about a share.
    few = len(refused) <= max(1, MAX_REFUSED * len(outcomes))
    good = bad == 0 and few
    print("differences and faults: " + (str(bad) if bad else "none") + ("" if few else "; too many are refused"))
    return good


if __name__ == "__main__":
    sys.exit(main())
