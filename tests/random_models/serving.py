"""Runs the cases of an exported model: in the worker, whole and at every cut, or frozen in this process."""

from __future__ import annotations

import json
import math
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from eager import Case, distance
from exporting import Exported
from model import RandomModel
from queries import bucket_of, padded
from torch import Tensor

WORKER_TIMEOUT_S = 120


class WorkerRefused(Exception):
    """With the worker's reason."""


@dataclass
class Verdict:
    ratio: float  # the worst difference over its tolerance
    detail: str  # of what is wrong; empty: nothing


def relative_tolerance(case: Case, name: str) -> float:
    """What the worker compares this output by: relative to its largest value."""
    answer = case.outputs[name]
    finite = answer[answer.isfinite()].double().abs()
    largest = finite.max().item() if finite.numel() else 0.0
    return min(case.tolerance[name] / largest, 1e6) if largest > 0 else 0.0


def write_cases(cases: list[Case], model: RandomModel, exported: Exported, folder: Path) -> None:
    for i, case in enumerate(cases):
        target = folder / f"{i:03}"
        target.mkdir(parents=True)
        for tensor, x in zip(model.inputs, case.inputs, strict=True):
            numpy.save(target / f"{tensor.name}.npy", x.numpy())
        for name, x in zip(exported.outputs, case.outputs.values(), strict=True):
            if name not in {tensor.name for tensor in model.inputs}:
                numpy.save(target / f"{name}.npy", x.contiguous().numpy())
        lines = [
            f"{name} {relative_tolerance(case, own):.9g}\n"
            for name, own in zip(exported.outputs, case.outputs, strict=True)
        ]
        (target / "tolerance").write_text("".join(lines), encoding="utf-8")


def run_in_worker(
    worker: Path, cases: list[Case], model: RandomModel, exported: Exported, folder: Path, device: str
) -> Verdict:
    """Every cut of every bucket against the whole, bit by bit; and the cases, whole and cut, against eager."""
    write_cases(cases, model, exported, folder / "cases")
    command = [str(worker), "check", "--model", str(exported.toml), "--json", "--repetitions", "1"]
    command += ["--cpu-threads", "1", "--device", device]
    lines = []
    for more in ([], ["--cases", str(folder / "cases")]):
        done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=WORKER_TIMEOUT_S, check=False)
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if done.returncode == 2:
            raise WorkerRefused(said)
        if done.returncode not in (0, 1):
            return Verdict(math.inf, f"the worker ended with {done.returncode}: {said}")
        lines += [json.loads(text) for text in done.stdout.splitlines()]
    return judge(lines, cases)


def judge(lines: list[dict], cases: list[Case]) -> Verdict:
    verdict, seen = Verdict(0.0, ""), 0
    for line in lines:
        if "case" in line:
            seen += 1
            case = cases[int(line["case"])]
            ratio = line["of_tolerance"] if line["ok"] else math.inf
            verdict.ratio = max(verdict.ratio, ratio)
            if (ratio > 1 or not line["ok"]) and not verdict.detail:
                at = f"rows {case.shape.rows}" + (f", length {case.shape.length}" if case.shape.length else "")
                what = line.get("error") or f"{ratio:.3g} times the tolerance"
                verdict.detail = f"case {line['case']} ({case.scale}, {at}): {what}"
        elif not line.get("ok", True):  # a note has none
            verdict.ratio = math.inf
            verdict.detail = verdict.detail or f"bucket {line['bucket']}: {line.get('error') or 'cuts differ'}"
    if seen != len(cases):
        return Verdict(math.inf, f"the worker ran {seen} of {len(cases)} cases")
    return verdict


def run_frozen(cases: list[Case], model: RandomModel, exported: Exported) -> Verdict:
    """As the worker runs it on the CPU, but not cut."""
    program = torch.jit.freeze(torch.jit.load(exported.file).eval(), optimize_numerics=False)
    for fold in ("bn", "add_or_sub", "mul_or_div"):
        getattr(torch._C, f"_jit_pass_fold_frozen_conv_{fold}")(program.graph)
    verdict = Verdict(0.0, "")
    for case in cases:
        bucket = bucket_of(model, case.shape)
        with torch.inference_mode():
            result = program(*padded(model, case.inputs, bucket, exported.pads))
        result = (result,) if isinstance(result, Tensor) else result
        for (name, answer), x in zip(case.outputs.items(), result, strict=True):
            difference, same = distance(answer, x[tuple(slice(0, size) for size in answer.shape)])
            allowed = case.tolerance[name]
            ratio = math.inf if not same else difference / allowed if difference else 0.0
            verdict.ratio = max(verdict.ratio, ratio)
            if ratio > 1 and not verdict.detail:
                where = f"rows {case.shape.rows}" + (f", length {case.shape.length}" if case.shape.length else "")
                verdict.detail = f"{name} ({case.scale}, {where}): {difference:.2e}, allowed {allowed:.2e}" + (
                    "" if same else ", NaN or infinity elsewhere"
                )
    return verdict
