#!/usr/bin/env python3
"""Takes every model of a file of cases through export, check and serving, and compares what happens with what must.

    bench/case_table.py CASES/models.py --out DIR [--device cuda] [--csv TABLE.csv]

CASES knows the classes by name; which arguments each is exported with, what it is asked and what must come back stands
here. What is served is compared with the class itself, run by PyTorch on the same device. Exit code 1: something did
not happen as it must.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "client" / "python"))

from abacus_client import AbacusError, Client  # noqa: E402

Inputs = dict[str, torch.Tensor]
READY_TIMEOUT_S = 120
SLOW_SERVICES = 8
SLOW_QUERIES = 10  # of each service
# Predicted over executed time of services that load together: measured in turns, and corrected by what was executed.
MAX_PREDICTED_AT_FIRST = 4.0
MAX_PREDICTED_LATER = 3.0


@dataclass
class Query:
    what: str
    inputs: Inputs
    refused: str | None = None  # a pattern of the message; None: answered as the class does
    check: Callable[[dict[str, numpy.ndarray]], bool] = lambda outputs: True


@dataclass
class Case:
    factory: str
    arguments: str  # of the export, without the module and the name
    queries: list[Query] = field(default_factory=list)
    refused: str | None = None  # the exporter must refuse it, with a reason that this pattern finds
    on_gpu: str | None = None  # as `refused`, but on a GPU only
    silent: str | None = None  # a pattern that the exporter must not print
    script: bool = False

    @property
    def name(self) -> str:
        return self.factory + ("-script" if self.script else "") + (f"-{self.variant}" if self.variant else "")

    variant: str = ""


def _pixels(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) * 255


def _normal(*shape: int, seed: int = 4) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _ids(*shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    return torch.randint(0, 100, shape, generator=torch.Generator().manual_seed(5)).to(dtype)


def _lengths(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64)


def _one_nan(*shape: int) -> torch.Tensor:
    image = torch.zeros(shape)
    image.view(-1)[shape[-1] * 3 + 5] = float("nan")
    return image


def _padding(rows: int, length: int) -> torch.Tensor:
    mask = torch.zeros(rows, length, dtype=torch.bool)
    mask[:, length - 2 :] = True
    mask[0] = False
    return mask


def _within_20(outputs: dict[str, numpy.ndarray]) -> bool:
    return all(float(numpy.abs(x).max()) <= 20 for x in outputs.values())


X8 = "--input x:float32:batch,8"
IDS = "--input ids:int64:batch,sequence:0..99"


def cases() -> list[Case]:
    rows = (1, 2, 3, 4)
    small, large = torch.full((2, 8), 0.5), _pixels(2, 8)
    return [
        Case("TwoClamps", "--input image:float32:batch,3,8,8",
             [Query(f"{n} of pixels", {"image": _pixels(n, 3, 8, 8)}, check=_within_20) for n in rows]),
        # On a GPU its tensor, which is no buffer, stays on the CPU: the class itself fails.
        Case("RunningMaximum", X8, refused=r"seen|on the same device"),
        Case("ReluOfNan", "--input image:float32:batch,3,16,16",
             [Query("one NaN", {"image": _one_nan(1, 3, 16, 16)}), Query("no NaN", {"image": _pixels(3, 3, 16, 16)}),
              Query("NaN in one of two", {"image": torch.cat([_one_nan(1, 3, 16, 16), _pixels(1, 3, 16, 16)])})]),
        Case("BatchStatistics", f"{X8} --batch 2,4",
             [*(Query(f"{n} rows", {"x": _normal(n, 8)}) for n in (2, 4)),
              *(Query(f"{n} rows", {"x": _normal(n, 8)}, refused=r"2|4") for n in (1, 3))]),
        *(Case("MeanPool", f"{IDS} --sequence {lengths}",
               [Query("length 16", {"ids": _ids(2, 16)}), Query("length 5", {"ids": _ids(1, 5)}, refused=r"16")],
               variant=lengths.replace(",", "-")) for lengths in ("16", "8,16")),
        Case("PackedGru", f"{IDS} --input lengths:int64:batch:1..SEQUENCE --sequence 16,32",
             [Query("17 of 32", {"ids": _ids(1, 32), "lengths": _lengths(17)}),
              Query("length 20, 7 and 20", {"ids": _ids(2, 20), "lengths": _lengths(7, 20)}),
              Query("17 of 16", {"ids": _ids(1, 16), "lengths": _lengths(17)}, refused=r"lengths|17|16")],
             on_gpu=r"captur|CPU", silent=r"[Pp]adding .*changes|\bwarning: "),
        Case("PixelsOrUnit", X8, refused=r"(?i)bool|trace|branch"),
        Case("PixelsOrUnit", X8,
             [Query("below 1", {"x": small}), Query("pixels", {"x": large}), Query("one row", {"x": large[:1]}),
              Query("3 rows, of which one is above", {"x": torch.cat([small, large[:1]])}, refused=r"1|2|4")],
             on_gpu=r"captur|branch|CPU", script=True),
        Case("InPlaceNormalisation", X8, [Query(f"{n} rows", {"x": _normal(n, 8)}) for n in rows]),
        *(Case("DictionaryOutput", X8,
               [Query("2 rows", {"x": _normal(2, 8)}, check=lambda o: set(o) == {"logits", "twice"})], script=script)
          for script in (False, True)),
        Case("ComplexSpectrum", X8, refused=r"complex64"),
        Case("LogProbability", "--input p:float32:batch,8:0.01..1",
             [Query("inside", {"p": torch.linspace(0.01, 1, 16).reshape(2, 8).clamp(0.01, 1)}),
              Query("zero", {"p": torch.zeros(1, 8)}, refused=r"range|0\.01"),
              Query("NaN", {"p": torch.full((1, 8), float("nan"))}, refused=r"range|NaN|nan")]),
        Case("OneImageOnly", "--input image:float32:1,3,32,32 --batch 1",
             [Query("the image", {"image": _pixels(1, 3, 32, 32)})]),
        Case("PaddingMask",
             "--input ids:int32:batch,sequence:0..99 --input padding_mask:bool:batch,sequence --sequence 8,16",
             [Query(f"length {n}", {"ids": _ids(2, n, dtype=torch.int32), "padding_mask": _padding(2, n)})
              for n in (5, 8, 11, 16)]),
        Case("HalfInside", X8, [Query(f"{n} rows", {"x": _normal(n, 8)}) for n in rows]),
        Case("Slow", "--input x:float32:batch,64", [Query(f"{n} rows", {"x": _normal(n, 64)}) for n in rows]),
    ]  # fmt: skip


@dataclass
class Row:
    case: Case
    exported: str = ""
    checked: str = "-"
    served: str = "-"
    difference: float = 0.0
    notes: list[str] = field(default_factory=list)
    ok: bool = True

    def wrong(self, note: str) -> None:
        self.ok = False
        self.notes.append(note)


class Table:
    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._out = args.out.resolve()
        self._out.mkdir(parents=True, exist_ok=True)
        spec = importlib.util.spec_from_file_location(args.cases.stem, args.cases)
        self._module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self._module)
        self._environment = os.environ | {
            "ABACUS_RUN_DIR": str(self._out / "run"),
            "ABACUS_WORKER": str(args.bin.resolve() / "abacus-worker"),
        }

    # ---- export and check

    def export(self, case: Case) -> Row:
        row = Row(case)
        line = [sys.executable, ROOT / "models" / "export.py", "--module", f"{self._args.cases.stem}:{case.factory}",
                "--name", case.name, *case.arguments.split(), "--device", self._args.device, "--out", self._out,
                "--force", *(["--script"] if case.script else [])]  # fmt: skip
        done = self._run(line, cwd=self._args.cases.resolve().parent)
        said = done.stdout + done.stderr
        expected = case.refused or (case.on_gpu if self._args.device == "cuda" else None)
        if done.returncode == 0:
            row.exported = "yes"
            if expected:
                row.wrong("it had to be refused")
        else:
            row.exported = "refused"
            reason = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message"
            row.notes.append(reason)
            if not expected:
                row.wrong("it had to export")
            elif not re.search(expected, reason):
                row.wrong(f"the reason does not say {expected!r}")
        if case.silent and (found := re.search(case.silent, said)):
            row.wrong(f"the exporter says {found[0]!r}")
        row.notes += [line.strip() for line in said.splitlines() if "note: " in line or "warning: " in line]
        return row

    def check(self, row: Row) -> None:
        worker = self._args.bin / "abacus-worker"
        line = [worker, "check", "--model", self._toml(row.case), "--device", self._args.device]
        done = self._run([*line, "--repetitions", "1", "--json"])
        row.checked = {0: "identical", 1: "DIFFERENT"}.get(done.returncode, f"failed ({done.returncode})")
        if done.returncode != 0:
            lines = [json.loads(text) for text in done.stdout.splitlines() if text.startswith("{")]
            errors = [line["error"] for line in lines if line.get("error")]
            row.wrong((errors or done.stderr.strip().splitlines() or ["no message"])[-1])

    def _run(self, line: list, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        text = [str(part) for part in line]
        return subprocess.run(text, cwd=cwd, env=self._environment, capture_output=True, text=True, check=False)

    def _toml(self, case: Case) -> Path:
        return self._out / f"{case.name}.toml"

    # ---- serving

    @contextlib.contextmanager
    def serving(self, services: dict[str, Case], name: str, more: str = "") -> Iterator[Client]:
        """A client of a controller that serves these cases."""
        text = f'[server]\nname = "{name}"\nlisten = ["tcp://127.0.0.1:*"]\n{more}'
        text += f'[worker]\ndevice = "{self._args.device}"\n'
        for service, case in services.items():
            text += f'[[service]]\nname = "{service}"\nmodel = "{self._toml(case)}"\nqueue_limit = 1000\n'
        config = self._out / f"{name}.toml-config"
        config.write_text(text, encoding="utf-8")
        log = self._out / f"{name}.log"
        with open(log, "w", encoding="utf-8") as file:
            line = [self._args.bin / "abacus-controller", "--config", config]
            process = subprocess.Popen(line, env=self._environment, stderr=file, stdout=file)
        try:
            address = f"ipc://{self._out / 'run' / name / 'controller.ipc'}"
            with self._ready(process, address, log) as client:
                yield client
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _ready(self, process: subprocess.Popen, address: str, log: Path) -> Client:
        end = time.monotonic() + READY_TIMEOUT_S
        client = None
        while time.monotonic() < end and process.poll() is None:
            try:
                client = client or Client(address, connect_timeout_s=1, receive_timeout_s=60)
                if client.health().ready:
                    return client
            except AbacusError:
                pass
            time.sleep(0.2)
        if client is not None and process.poll() is None:
            return client  # the rows of those services that are down will say so
        raise SystemExit(f"the controller is not ready; the end of {log}:\n" + log.read_text(encoding="utf-8")[-3000:])

    def ask(self, client: Client, row: Row) -> None:
        right = 0
        for query in row.case.queries:
            inputs = {name: x.numpy().copy() for name, x in query.inputs.items()}
            try:
                outputs = dict(client.infer(row.case.name, inputs, qos_us=10_000_000).outputs)
            except AbacusError as error:
                if query.refused is None:
                    row.wrong(f"{query.what}: {error.status} {error.message}")
                elif error.status != "INVALID_ARGUMENT" or not re.search(query.refused, error.message):
                    row.wrong(f"{query.what}: refused with {error.status} {error.message}")
                else:
                    right += 1
                continue
            if query.refused is not None:
                row.wrong(f"{query.what}: answered, and had to be refused")
            elif self._equal(row, query, outputs):
                right += 1
        row.served = f"{right}/{len(row.case.queries)} right"

    def _equal(self, row: Row, query: Query, outputs: dict[str, numpy.ndarray]) -> bool:
        spec = tomllib.loads(self._toml(row.case).read_text(encoding="utf-8"))
        module = getattr(self._module, row.case.factory)().eval().to(self._args.device)
        with torch.inference_mode():
            result = module(*(x.to(self._args.device).clone() for x in query.inputs.values()))
        names = [tensor["name"] for tensor in spec["outputs"]]
        values = (
            [result]
            if isinstance(result, torch.Tensor)
            else list(result.values() if isinstance(result, dict) else result)
        )
        for name, expected in zip(names, values, strict=True):
            expected = expected.cpu().double()
            actual = torch.from_numpy(outputs[name].copy()).double()
            finite = expected.isfinite()
            if expected.shape != actual.shape or not torch.equal(finite, actual.isfinite()):
                row.wrong(f"{query.what}: output {name} has another shape, or NaN elsewhere")
                return False
            if finite.any():
                largest = expected[finite].abs().max().clamp(min=1e-30)
                difference = ((expected - actual)[finite].abs().max() / largest).item()
                row.difference = max(row.difference, difference)
                if difference > spec["tolerance"]:
                    row.wrong(
                        f"{query.what}: output {name} differs by {difference:.1e}, tolerance {spec['tolerance']:.1e}"
                    )
                    return False
        if not query.check(outputs):
            row.wrong(f"{query.what}: names or bounds of the outputs are wrong")
            return False
        return True

    def ask_slow(self, case: Case) -> Row:
        """Several services of one slow model, loaded at once: are they predicted as they run?"""
        row = Row(case, exported="yes")
        services = {f"slow-{i}": case for i in range(SLOW_SERVICES)}
        first, last = dict.fromkeys(services, 0.0), dict.fromkeys(services, 0.0)
        refused = asked = 0
        with self.serving(services, "slow") as client:
            for turn in range(SLOW_QUERIES):
                for service in services:
                    asked += 1
                    try:
                        timing = client.infer(service, {"x": _normal(1, 64).numpy()}).timing
                    except AbacusError as error:
                        refused += 1
                        row.wrong(f"{service}: {error.status} {error.message}")
                        continue
                    last[service] = timing.predicted_us / max(1, timing.executed_us)
                    if turn == 0:
                        first[service] = last[service]
        row.served = f"{asked - refused}/{asked} right"
        row.notes.append(
            f"{SLOW_SERVICES} services; predicted {max(first.values()):.1f} times what it took in the beginning, "
            f"{max(last.values()):.1f} times after {SLOW_QUERIES} queries"
        )
        if max(first.values()) > MAX_PREDICTED_AT_FIRST or max(last.values()) > MAX_PREDICTED_LATER:
            row.wrong(f"more than {MAX_PREDICTED_AT_FIRST} and {MAX_PREDICTED_LATER} times")
        return row

    def rows(self) -> list[Row]:
        rows = []
        for case in cases():
            if not hasattr(self._module, case.factory):
                print(f"{case.factory}: not in {self._args.cases}", file=sys.stderr)
                continue
            if self._args.only and case.factory not in self._args.only:
                continue
            print(f"{case.name}: export", file=sys.stderr, flush=True)
            rows.append(self.export(case))
            if rows[-1].exported == "yes":
                print(f"{case.name}: check", file=sys.stderr, flush=True)
                self.check(rows[-1])
        served = [row for row in rows if row.exported == "yes" and row.case.queries]
        if served:
            print(f"serving {len(served)} of them", file=sys.stderr, flush=True)
            with self.serving(
                {row.case.name: row.case for row in served}, "cases", "[scheduler]\nabandon = false\n"
            ) as client:
                for row in served:
                    self.ask(client, row)
        for row in [row for row in served if row.case.factory == "Slow"]:
            rows.append(self.ask_slow(row.case))
        return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=Path, help="Python file with the classes")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for models, logs and the controller's run directory"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--bin", type=Path, default=ROOT / "build" / "bin", help="the built programs")
    parser.add_argument("--csv", type=Path, help="the table as a file")
    parser.add_argument("--only", nargs="+", metavar="CLASS")
    args = parser.parse_args()
    rows = Table(args).rows()
    table = [["class", "arguments", "exported", "check", "served", "difference", "as it must", "notes"]]
    for row in rows:
        arguments = row.case.arguments + (" --script" if row.case.script else "")
        table.append([row.case.factory, arguments, row.exported, row.checked, row.served, f"{row.difference:.1e}",
                      "yes" if row.ok else "NO", "; ".join(dict.fromkeys(row.notes))])  # fmt: skip
    if args.csv:
        with open(args.csv, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(table)
    for line in table:
        print(
            " | ".join([line[0].ljust(20), *(text.ljust(14) for text in line[2:6]), line[6].ljust(10), line[7][:200]])
        )
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
