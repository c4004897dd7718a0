"""One seed: generate, export, look at the claims, serve, compare."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from eager import Eager, GeneratorFault
from exporting import Refused, export
from generator import make_model
from model import RandomModel
from serving import WorkerRefused, run_frozen, run_in_worker

OK = "ok"
MUST_REFUSE = "refused as it must be"
REFUSED = "refused"
DIFFERENT = "DIFFERENT"
CLAIM = "FALSE CLAIM"
ACCEPTED = "WRONGLY ACCEPTED"
WRONG_REASON = "WRONG REASON"
FAULT = "FAULT OF THE TEST"
BROKEN = "BROKEN"  # crashed, hung, or raised what is no refusal
GOOD = (OK, MUST_REFUSE, REFUSED)


@dataclass
class Outcome:
    seed: int
    summary: str
    status: str
    ratio: float = 0.0  # the worst difference over its tolerance
    seconds: float = 0.0
    detail: str = ""


@dataclass(frozen=True)
class How:
    worker: Path | None  # None: frozen in this process, not cut
    device: str = "cpu"
    keep: Path | None = None  # where the files of bad models stay


def examine(seed: int, how: How) -> Outcome:
    start = time.monotonic()
    model = make_model(seed)
    outcome = Outcome(seed, model.summary, BROKEN)
    folder = Path(tempfile.mkdtemp(prefix=f"{model.name}."))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _examine(model, folder, how, outcome)
    except GeneratorFault as fault:
        outcome.status, outcome.detail = FAULT, str(fault)
    except Exception as error:  # noqa: BLE001 - one bad model must not end the run
        place = traceback.extract_tb(error.__traceback__)[-1]
        outcome.detail = (
            f"{type(error).__name__}: {' '.join(str(error).split())[-300:]} ({place.filename}:{place.lineno})"
        )
    if how.keep is not None and outcome.status not in GOOD:
        shutil.copytree(folder, how.keep / model.name, dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    outcome.seconds = time.monotonic() - start
    return outcome


def _examine(model: RandomModel, folder: Path, how: How, outcome: Outcome) -> None:
    try:
        eager = Eager(model, folder, how.device)
    except Exception as error:
        raise GeneratorFault(f"does not build: {error}") from error
    batchable, padding = (None, None) if model.refused else eager.claims()
    try:
        exported = export(model, eager.plain, folder, how.device)
    except Refused as refused:
        outcome.detail = str(refused)
        outcome.status = REFUSED
        if model.refused:
            outcome.status = MUST_REFUSE if re.search(model.refused, str(refused)) else WRONG_REASON
        return
    if model.refused:
        outcome.status, outcome.detail = ACCEPTED, f"expected a refusal that says {model.refused!r}"
        return
    # An effect that is built in but did not show may be claimed either way.
    claims = []
    if batchable is not None and batchable == model.batchable and exported.batchable != batchable:
        claims.append(f"batchable = {str(exported.batchable).lower()}")
    if padding is not None and padding == model.padding and exported.padding != padding:
        claims.append(f"sequence_padding = {exported.padding!r}, it is {padding!r}")
    eager_again = Eager(model, folder, how.device)  # whatever the exporter did to the module
    cases = eager_again.cases(exported.batchable, exported.padding, exported.pads)
    if not cases:
        raise GeneratorFault("no query has an answer")
    try:
        if how.worker is None:
            verdict = run_frozen(cases, model, exported)
        else:
            verdict = run_in_worker(how.worker, cases, model, exported, folder, how.device)
    except WorkerRefused as refused:
        outcome.status, outcome.detail = REFUSED, f"worker: {refused}"
        return
    outcome.ratio, outcome.detail = verdict.ratio, verdict.detail
    outcome.status = DIFFERENT if verdict.detail else OK
    if claims:  # the cause, where something differs, too
        outcome.status, outcome.detail = CLAIM, "; ".join([*claims, verdict.detail] if verdict.detail else claims)


def prepare() -> None:
    """Once for each process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
