"""Finds the highest load that each of several server settings carries, all on one machine and in turns.

    bench/saturate.py --bin build/bin --config configs/seven.toml --out saturation --budget-s 400 --qos 20ms \\
        --service resnet50:batch=1 --service bert:batch=1:seq=64 \\
        --setting "abacus scheduler.policy=abacus" \\
        --setting "one-by-one scheduler.policy=edf scheduler.batching=off" \\
        --peer "triton tritonserver --model-repository=REPO" \\
        --peer-ready "triton curl -sf localhost:8000/v2/health/ready" \\
        --peer-load "triton python3 bench/peers/grpc_load.py {rate} {seconds} {qos_ms} {services} --seed {seed}"

A setting carries a load when every service, by itself, has at most --limit violations: late, refused and lost queries
all count. The load is open: queries come at random times whatever the server does. It is doubled until a step of
--step-s seconds is beyond the limit, then bisected (each time in the middle by ratio) until the bracket is --resolution
narrow, and confirmed with further seeds; where that fails, with less. All servers run at once and take turns, step by
step, so that a disturbance of the machine meets all; with --one-by-one each is started alone. Equal steps have equal
arrivals for all controllers. When --budget-s is used up, what was found so far is reported, and what is missing.

--peer names a server that is none of Abacus, as NAME and the command that starts it; --peer-load its load generator,
which prints JSON such as bench/peers/grpc_load.py does, or one line with "sent N", "in_time N", "p50 X", "p99 X ms" for
all services together. {rate}, {seconds}, {seed}, {qos_ms} and {services} stand for what they say.

Writes OUT/steps.csv as it goes, OUT/limits.csv and OUT/saturation.png. With a GPU, start the CUDA MPS daemon first and
pass --set worker.gpu=0.
"""

import argparse
import contextlib
import csv
import dataclasses
import json
import math
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import evaluate
from bisection import Figures, Search, Step, pooled_violation

STEP_COLUMNS = [
    "at_s", "setting", "kind", "seed", "rate_per_s", "service", "sent", "in_time", "violation", "late", "rejected",
    "lost", "p50_us", "p99_us", "send_late_p99_us",
]  # fmt: skip
LIMIT_COLUMNS = [
    "setting", "limit_per_s", "lowest_per_s", "highest_per_s", "confirmed", "runs_at_limit", "violation", "p50_us",
    "p99_us", "remark",
]  # fmt: skip
END_S = 5.0  # of the budget, to stop the servers and to draw


class Abacus(evaluate.Controller):
    """A controller with settings of its own."""

    def __init__(self, options, name, settings, port):
        self.options, self.setting, self.name = options, name, f"saturate-{name}"
        self.address = f"tcp://127.0.0.1:{port}"
        command = [f"{options.bin}/abacus-controller", "--config", options.config]
        for text in [f"server.name={self.name}", f'server.listen=["{self.address}"]', *options.set, *settings]:
            command += ["--set", text]
        self.log = open(f"{options.out}/{name}.log", "w", encoding="utf-8")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def is_ready(self):
        status = self.status()
        return (
            bool(status)
            and status["pid"] == self.process.pid
            and all(s["state"] == "serving" for s in status["services"])
        )

    def load(self, rate, seconds, seed):
        """(figures of each service, 99th percentile of the lateness of sending in us)."""
        command = [
            f"{self.options.bin}/abacus-client", "--json", "load", "--address", self.address, "--rate", str(rate),
            "--seconds", str(seconds), "--seed", str(seed), "--qos-us", str(self.options.qos_us),
            "--payload" if self.options.payload else "--no-payload",
        ]  # fmt: skip
        for service in self.options.service:
            command += ["--service", service]
        return read_load(run_load(command, seconds))


class Peer:
    """A server that the user named by its commands."""

    def __init__(self, options, name, command):
        self.options, self.setting = options, name
        self.ready, self.load_command = options.ready.get(name), options.load[name]
        self.log = open(f"{options.out}/{name}.log", "w", encoding="utf-8")
        # A session of its own, so that what the command starts ends with it.
        self.process = subprocess.Popen(shlex.split(command), stdout=self.log, stderr=self.log, start_new_session=True)

    def is_ready(self):
        if self.ready:
            result = subprocess.run(shlex.split(self.ready), capture_output=True, check=False)
            return result.returncode == 0
        with contextlib.suppress(RuntimeError):
            self.load(10, 0.5, 1)
            return True
        return False

    def load(self, rate, seconds, seed):
        values = {"rate": rate, "seconds": seconds, "seed": seed, "qos_ms": self.options.qos_us / 1000}
        return read_load(run_load(fill(self.load_command, values, names_of(self.options.service)), seconds))

    def stop(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(3)
        self.log.close()


def names_of(services):
    return [service.split(":")[0] for service in services]


def fill(command, values, services):
    """The words of a command with {rate} and the like replaced."""
    words = []
    for word in shlex.split(command):
        if word == "{services}":
            words += services
            continue
        for key, value in values.items():
            word = word.replace("{" + key + "}", f"{value:g}" if isinstance(value, float) else str(value))
        words.append(word)
    return words


def run_load(command, seconds):
    """What a load generator printed; RuntimeError where it did not run."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{command[0]}: {error}") from error
    if not result.stdout.strip():
        raise RuntimeError(f"{shlex.join(command)}: exit code {result.returncode}, {result.stderr.strip()[-300:]}")
    return result.stdout


LINE = re.compile(
    r"sent (?P<sent>\d+)\b.*\bin_time (?P<in_time>\d+)\b.*\bp50 (?P<p50>[\d.]+)\b.*\bp99 (?P<p99>[\d.]+) ms"
)


def read_load(text):
    """Figures of a load report: of abacus-client, in JSON of the same keys, or in a line of text."""
    try:
        report = json.loads(text)
    except ValueError:
        if not (match := LINE.search(text)):
            raise RuntimeError(f"a load generator printed neither JSON nor figures: {text.strip()[-300:]}") from None
        sent, in_time = int(match["sent"]), int(match["in_time"])
        return [Figures("all", sent, in_time, 1000 * float(match["p50"]), 1000 * float(match["p99"]))], 0.0
    try:
        services = []
        for item in report["services"]:
            late, rejected = item["violations"]["late"], item["violations"]["rejected"]
            latency = item["latency_us"]
            services.append(
                Figures(
                    item["name"],
                    item["sent"],
                    item["replies"].get("OK", 0) - late,
                    latency["p50"],
                    latency["p99"],
                    late,
                    rejected,
                    item["lost"],
                )  # fmt: skip
            )
        if not services:
            raise KeyError("services")
        return services, report.get("send_lateness_us", {}).get("p99", 0.0)
    except (KeyError, TypeError, AttributeError) as error:
        raise RuntimeError(f"a load report without {error}: {text.strip()[:300]}") from error


# --- the program


class Clock:
    """Time since the start of the program, and what is left of the budget."""

    def __init__(self, budget_s, now=time.monotonic):
        self.budget_s, self._now, self._start = budget_s, now, now()

    def passed(self):
        return self._now() - self._start

    def left(self):
        return self.budget_s - END_S - self.passed()


class Results:
    """OUT/steps.csv."""

    def __init__(self, path):
        self.path = path
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, STEP_COLUMNS).writeheader()

    def add(self, at_s, setting, step):
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, STEP_COLUMNS)
            for f in step.services:
                row = dataclasses.asdict(f) | {"violation": round(f.violation, 6)}
                row |= {"at_s": round(at_s, 1), "setting": setting, "kind": step.kind, "seed": step.seed}
                writer.writerow(row | {"rate_per_s": step.rate, "send_late_p99_us": step.send_late_p99_us})


def say(clock, text):
    print(f"[{clock.passed():6.1f} s] {text}", flush=True)


def describe(step):
    shares = ", ".join(f"{f.service} {100 * f.violation:.2f} %" for f in step.services)
    p50, p99 = (max(getattr(f, key) for f in step.services) / 1000 for key in ("p50_us", "p99_us"))
    return f"{step.rate:g}/s seed {step.seed}: violations {shares}; p50 {p50:.2f}, p99 {p99:.2f} ms"


def wait_until_ready(servers, clock, longest_s, remarks):
    """Those of {name: server} that came up; why the others did not goes to `remarks`."""
    ready, waiting = {}, dict(servers)
    end = clock.passed() + min(longest_s, clock.left())
    while waiting and clock.passed() < end:
        for name, server in list(waiting.items()):
            if server.process.poll() is not None:
                remarks[name] = f"did not start: exit code {server.process.returncode}, see {server.log.name}"
            elif not server.is_ready():
                continue
            else:
                ready[name] = server
            say(clock, f"{name}: {remarks.get(name, 'ready')}")
            del waiting[name]
        time.sleep(0.2)
    for name in waiting:
        remarks[name] = f"was not ready in time, see {servers[name].log.name}"
    return {name: ready[name] for name in servers if name in ready}


def run_turns(servers, searches, options, clock, end_s, results, remarks):
    """Steps of all searches in turns, until they are done or the clock has passed `end_s`."""
    active = list(servers)
    for name in list(active):
        if options.warm_s > 0 and clock.passed() + options.warm_s < end_s:
            with contextlib.suppress(RuntimeError):  # the first step will say it
                servers[name].load(options.start_rate / 2, options.warm_s, options.seed)
    longest_s = options.step_s  # of a step, with the answers that it waits for
    while active:
        for name in list(active):
            search = searches[name]
            asked = search.next_step()
            if asked is None or clock.passed() + longest_s > end_s:
                active.remove(name)
                continue
            kind, rate, seed = asked
            begin = clock.passed()
            try:
                services, send_late_us = servers[name].load(rate, options.step_s, seed)
            except RuntimeError as error:
                remarks[name] = f"ended at {rate:g}/s: {error}"
                say(clock, f"{name} {remarks[name]}")
                active.remove(name)
                continue
            longest_s = max(longest_s, clock.passed() - begin)
            step = Step(kind, seed, rate, services, send_late_us)
            search.record(step)
            results.add(clock.passed(), name, step)
            late = send_late_us > 0.1 * options.qos_us
            remark = (
                f" (the load generator was {send_late_us / 1000:.1f} ms late: its machine is the limit)" if late else ""
            )
            if late and step.violation > search.limit:
                remarks[name] = "the load generator was late in steps beyond the limit: a lower bound"
            say(clock, f"{name} {kind} {describe(step)}{remark}")


def limit_row(name, search, remark):
    """A row of limits.csv."""
    lowest, highest = search.spread()
    runs = search.runs_at_limit() if search.low else []
    if not search.steps:
        remark = remark or "not measured: the time was up"
    elif not search.done:
        remark = remark or "not finished: the time was up"
    elif search.low >= search.highest:
        remark = remark or "never beyond the limit"
    worst = {
        key: max((getattr(f, key) for run in runs for f in run.services), default=0.0) for key in ("p50_us", "p99_us")
    }
    return {
        "setting": name, "limit_per_s": search.low, "lowest_per_s": lowest,
        "highest_per_s": "" if math.isinf(highest) else highest, "confirmed": search.confirmed,
        "runs_at_limit": len(runs), "violation": round(pooled_violation(runs), 6) if runs else "",
        **worst, "remark": remark,
    }  # fmt: skip


def table(rows, reference):
    """Lines of text."""
    yield f"{'setting':<22} {'limit/s':>8} {'spread':>15} {'ratio':>6} {'viol. %':>8} {'p50 ms':>7} {'p99 ms':>7}"
    base = next((row["limit_per_s"] for row in rows if row["setting"] == reference), 0)
    for row in rows:
        highest = f"{row['highest_per_s']:g}" if row["highest_per_s"] else "?"
        spread = f"{row['lowest_per_s']:g}..{highest}"
        ratio = f"{row['limit_per_s'] / base:.2f}" if base else "-"
        share = f"{100 * row['violation']:.2f}" if row["violation"] != "" else "-"
        state = "" if row["confirmed"] else "  not confirmed"
        remark = f"  ({row['remark']})" if row["remark"] else ""
        yield (
            f"{row['setting']:<22} {row['limit_per_s']:>8g} {spread:>15} {ratio:>6} {share:>8}"
            f" {row['p50_us'] / 1000:>7.2f} {row['p99_us'] / 1000:>7.2f}{state}{remark}"
        )


def draw(path, searches, rows, options):
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        print("saturate: no matplotlib, so no plot", file=sys.stderr)
        return
    figure, axes = plt.subplots(1, 3, figsize=(16, 5))
    for number, (name, search) in enumerate(searches.items()):
        steps = sorted(search.steps, key=lambda step: step.rate)
        rates = [step.rate for step in steps]
        worst = {key: [max(getattr(f, key) for f in s.services) / 1000 for s in steps] for key in ("p50_us", "p99_us")}
        style = {"color": f"C{number}", "marker": ".", "linewidth": 1}
        axes[0].plot(rates, [max(0.01, 100 * step.violation) for step in steps], label=name, **style)
        axes[1].plot(rates, worst["p99_us"], label=f"{name} p99", **style)
        axes[1].plot(rates, worst["p50_us"], linestyle=":", **style)
    axes[0].axhline(100 * options.limit, color="black", linewidth=0.8, linestyle="--")
    axes[1].axhline(options.qos_us / 1000, color="black", linewidth=0.8, linestyle="--")
    axes[0].set(xlabel="offered queries/s", ylabel="violations of the worst service, %", xscale="log", yscale="log")
    axes[1].set(xlabel="offered queries/s", ylabel="ms (solid: p99, dotted: p50)", xscale="log", yscale="log")
    axes[0].legend(fontsize=7)
    limits = [row["limit_per_s"] for row in rows]
    axes[2].barh([row["setting"] for row in rows], limits, color=[f"C{i}" for i in range(len(rows))])
    for i, row in enumerate(rows):
        axes[2].plot([row["lowest_per_s"], row["highest_per_s"] or row["limit_per_s"]], [i, i], color="black")
    axes[2].invert_yaxis()
    axes[2].set(xlabel=f"queries/s with at most {100 * options.limit:g} % violations of each service")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def named(texts, what):
    """{name: rest} of "NAME REST" texts."""
    result = {}
    for text in texts:
        name, _, rest = text.strip().partition(" ")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,30}", name) or name in result:
            sys.exit(f"saturate: {what} {text!r}: begins with a name of its own, of letters, digits, - and _")
        result[name] = rest.strip()
    return result


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/bin", help="folder of the programs")
    parser.add_argument("--config", help="configuration that all settings begin with")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE for all settings; repeatable")
    parser.add_argument(
        "--setting", action="append", default=[], help='"NAME KEY=VALUE ..." of a controller; repeatable'
    )
    parser.add_argument("--peer", action="append", default=[], help='"NAME COMMAND" that starts another server')
    parser.add_argument("--peer-ready", action="append", default=[], help='"NAME COMMAND" that succeeds once it serves')
    parser.add_argument("--peer-load", action="append", default=[], help='"NAME COMMAND" of its load generator')
    parser.add_argument(
        "--service", action="append", required=True, help="NAME[:weight=W][:batch=1,2][:seq=64]; repeatable"
    )
    parser.add_argument("--qos", required=True, help="latency target, such as 20ms")
    parser.add_argument("--limit", type=float, default=0.01, help="share of violations that each service may have")
    parser.add_argument("--start-rate", type=float, default=1000, help="first load, in queries a second")
    parser.add_argument("--highest-rate", type=float, default=200_000)
    parser.add_argument("--resolution", type=float, default=0.03, help="ratio, less 1, of the final bracket")
    parser.add_argument("--step-s", type=float, default=3)
    parser.add_argument("--warm-s", type=float, default=1, help="uncounted load before the first step of a server")
    parser.add_argument("--confirm", type=int, default=2, help="further runs, of other seeds, at the limit")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--payload", action="store_true", help="send tensors to the controllers, too")
    parser.add_argument("--budget-s", type=float, default=600, help="for everything, starts included")
    parser.add_argument("--start-s", type=float, default=180, help="longest wait for the servers to come up")
    parser.add_argument("--one-by-one", action="store_true", help="one server at a time, for a GPU with little memory")
    parser.add_argument("--reference", help="setting whose limit the ratios refer to (default: the first)")
    parser.add_argument("--port", type=int, default=5590, help="of the first controller; the others follow")
    parser.add_argument("--out", required=True)
    options = parser.parse_args(arguments)
    options.settings = {name: shlex.split(rest) for name, rest in named(options.setting, "--setting").items()}
    options.peers, options.ready = named(options.peer, "--peer"), named(options.peer_ready, "--peer-ready")
    options.load = named(options.peer_load, "--peer-load")
    options.qos_us = microseconds(options.qos)
    if options.settings and not options.config:
        sys.exit("saturate: --setting needs --config")
    if not options.settings and not options.peers:
        sys.exit("saturate: nothing to measure: give --setting or --peer")
    if missing := options.peers.keys() - options.load.keys():
        sys.exit(f"saturate: no --peer-load for {', '.join(sorted(missing))}")
    if unknown := (options.ready.keys() | options.load.keys()) - options.peers.keys():
        sys.exit(f"saturate: no --peer {', '.join(sorted(unknown))}")
    if both := options.settings.keys() & options.peers.keys():
        sys.exit(f"saturate: {', '.join(sorted(both))} is a setting and a peer")
    options.names = [*options.settings, *options.peers]
    options.reference = options.reference or options.names[0]
    if options.reference not in options.names:
        sys.exit(f"saturate: --reference {options.reference} is none of {', '.join(options.names)}")
    return options


def microseconds(text):
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *(us|ms|s)", text)
    if not match or not (value := round(float(match[1]) * {"us": 1, "ms": 1e3, "s": 1e6}[match[2]])):
        sys.exit(f"saturate: --qos {text}: expected a duration such as 20ms")
    return value


def start(options, name):
    if name in options.settings:
        port = options.port + list(options.settings).index(name)
        return Abacus(options, name, options.settings[name], port)
    return Peer(options, name, options.peers[name])


def measure(options, clock, searches, results, remarks):
    groups = [[name] for name in options.names] if options.one_by_one else [options.names]
    for number, group in enumerate(groups):
        share_s = clock.left() / (len(groups) - number)
        end_s = clock.passed() + share_s
        if share_s < options.step_s:
            return
        with contextlib.ExitStack() as running:
            servers = {}
            for name in group:
                try:
                    servers[name] = start(options, name)
                except OSError as error:
                    remarks[name] = f"did not start: {error}"
                    say(clock, f"{name} {remarks[name]}")
                    continue
                running.callback(servers[name].stop)
            ready = wait_until_ready(servers, clock, min(options.start_s, share_s), remarks)
            run_turns(ready, searches, options, clock, end_s, results, remarks)


def main(arguments):
    options = parse(arguments)
    clock = Clock(options.budget_s)
    out = pathlib.Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    searches = {
        name: Search(
            options.start_rate,
            options.limit,
            options.resolution,
            options.confirm,
            options.seed,
            highest=options.highest_rate,
        )
        for name in options.names
    }
    remarks = {}
    try:
        measure(options, clock, searches, Results(out / "steps.csv"), remarks)
    except KeyboardInterrupt:
        print("saturate: interrupted; what was found so far:", file=sys.stderr)
    rows = [limit_row(name, search, remarks.get(name, "")) for name, search in searches.items()]
    with open(out / "limits.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, LIMIT_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    if any(search.steps for search in searches.values()):
        draw(out / "saturation.png", searches, rows, options)
    print(
        f"\nat most {100 * options.limit:g} % violations of each service within {options.qos}; {clock.passed():.0f} s"
    )
    print("\n".join(table(rows, options.reference)))


if __name__ == "__main__":
    main(sys.argv[1:])
