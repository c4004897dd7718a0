"""The highest load that a server carries, by bisection: a state machine that is told what each step showed."""

import dataclasses
import math


@dataclasses.dataclass
class Figures:
    """One service during one step."""

    service: str
    sent: int
    in_time: int
    p50_us: float = 0.0
    p99_us: float = 0.0
    late: int = 0
    rejected: int = 0
    lost: int = 0

    @property
    def violation(self):
        return 1 - self.in_time / self.sent if self.sent else 1.0


@dataclasses.dataclass
class Step:
    """One measurement: a load for some seconds."""

    kind: str  # "search" or "confirm"
    seed: int
    rate: float
    services: list
    send_late_p99_us: float = 0.0

    @property
    def violation(self):
        """Of the service that has most."""
        return max(figures.violation for figures in self.services)


class Search:
    """The highest rate of one setting. next_step() says what to measure, record() takes the outcome.

    A pure state machine: it neither sleeps nor looks at a clock.
    """

    def __init__(self, start, limit=0.01, resolution=0.03, confirmations=2, seed=1, highest=1e6):
        self.start, self.limit, self.resolution = start, limit, resolution
        self.confirmations, self.seed, self.highest = confirmations, seed, highest
        self.lowest = start / 32  # below it, the setting counts as carrying nothing
        self.steps = []
        self.low, self.high = 0.0, math.inf  # the highest rate that was carried, the lowest one that was not
        self.confirming = 0.0  # rate that is being confirmed; 0: still searching
        self.confirmed = False
        self.done = False

    def next_step(self):
        """(kind, rate, seed), or None at the end."""
        if self.done:
            return None
        if self.confirming:
            return "confirm", self.confirming, self.seed + len(self._runs_at(self.confirming))
        if self.low and math.isinf(self.high):
            rate = min(self.highest, 2 * self.low)
        elif self.low:
            rate = math.sqrt(self.low * self.high)
        else:
            rate = self.start if math.isinf(self.high) else max(self.lowest, self.high / 2)
        return "search", float(f"{rate:.4g}"), self.seed

    def record(self, step):
        self.steps.append(step)
        if not self.confirming:
            if step.violation <= self.limit:
                self.low = max(self.low, step.rate)
            else:
                self.high = min(self.high, step.rate)
            if not self.low and self.high <= self.lowest:
                self.done = True  # carries nothing
            elif self.low and (self.high <= self.low * (1 + self.resolution) or self.low >= self.highest):
                self._confirm(self.low)
            return
        runs = self._runs_at(self.confirming)
        within = pooled_violation(runs) <= self.limit
        if within and len(runs) > self.confirmations:
            self.low, self.confirmed, self.done = self.confirming, True, True
        elif not within:
            # One run over the limit can be made good by further ones, but only within what they can weigh.
            if len(runs) > self.confirmations or min_pooled(runs, 1 + self.confirmations) > self.limit:
                self.high = min(self.high, self.confirming)
                self._confirm(float(f"{self.confirming / (1 + self.resolution):.4g}"))

    def _confirm(self, rate):
        self.low = self.confirming = rate
        if rate < self.lowest:
            self.low, self.done = 0.0, True
        elif len(self._runs_at(rate)) > self.confirmations and pooled_violation(self._runs_at(rate)) <= self.limit:
            self.confirmed = self.done = True

    def _runs_at(self, rate):
        return [step for step in self.steps if step.rate == rate]

    def runs_at_limit(self):
        return self._runs_at(self.low)

    def spread(self):
        """(highest rate up to which no run was beyond the limit, lowest one from which on every run was)."""
        failed = [s.rate for s in self.steps if s.violation > self.limit]
        passed = [s.rate for s in self.steps if s.violation <= self.limit]
        lowest = max((rate for rate in passed if rate < min(failed, default=math.inf)), default=0.0)
        return lowest, min((rate for rate in failed if rate > max(passed, default=0.0)), default=math.inf)


def pooled_violation(runs):
    """The highest share of violations of any service over several runs together."""
    sent, in_time = {}, {}
    for run in runs:
        for figures in run.services:
            sent[figures.service] = sent.get(figures.service, 0) + figures.sent
            in_time[figures.service] = in_time.get(figures.service, 0) + figures.in_time
    return max((1 - in_time[name] / sent[name] if sent[name] else 1.0 for name in sent), default=1.0)


def min_pooled(runs, wanted):
    """What pooled_violation() of `wanted` runs would be if all further ones had none."""
    return pooled_violation(runs) * len(runs) / max(wanted, len(runs))
