"""tests/random_models: the models of a seed, what counts as right, and a short run through the exporter."""

from __future__ import annotations

import csv
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "random_models"
sys.path.insert(0, str(FOLDER))

import eager  # noqa: E402
import examine  # noqa: E402
import exporting  # noqa: E402
import run  # noqa: E402
import serving  # noqa: E402
from generator import make_model  # noqa: E402
from queries import NORMAL, Shape, draw, padded, shapes_of  # noqa: E402

WORKER = ROOT / "build" / "bin" / "abacus-worker"
SHORT = (0, 12)  # the run in CI is longer: .ci/run random


@pytest.fixture(autouse=True)
def one_thread() -> None:
    examine.prepare()


def test_a_seed_gives_the_same_model_and_seeds_give_many_kinds() -> None:
    models = [make_model(seed) for seed in range(300)]
    assert [make_model(seed).source for seed in range(300)] == [model.source for model in models]
    assert len({model.source for model in models}) == 300
    assert {model.kind for model in models} == {"image", "signal", "vector", "sequence", "refused"}
    tags = {tag for model in models for tag in model.tags}
    assert tags >= {"bounds", "in-place", "view-write", "residual", "attention", "recurrent", "cell", "value-branch",
                    "size-branch", "loop", "float16", "float64", "outputs", "input-returned",
                    "output-twice"}  # fmt: skip
    assert {model.script for model in models} == {False, True}
    assert any(not model.batchable for model in models) and any(model.padding == "exact" for model in models)


def test_the_reference_is_the_same_model_in_double_precision(tmp_path: Path) -> None:
    for model in (model for model in map(make_model, range(40)) if not model.refused):
        both = eager.Eager(model, tmp_path)
        inputs = draw(model, Shape(model.batches[-1], model.sequences[0] if model.sequences else 0), NORMAL, 1)
        plain, exact = both.run(inputs), both.run(inputs, exact=True)
        assert plain.keys() == exact.keys()
        for name, x in exact.items():
            if x.is_floating_point():
                assert x.dtype == torch.float64, (model.seed, name)
                error, same = eager.distance(plain[name], x)
                finite = x[x.isfinite()].abs()
                assert same and error <= 0.05 * max(1.0, finite.max().item()), model.seed  # bfloat16 inside of some
            else:
                assert torch.equal(x, plain[name]), model.seed


def test_claims_are_found_by_running(tmp_path: Path) -> None:
    found = []
    for model in (model for model in map(make_model, range(60)) if not model.refused):
        rows, padding = eager.Eager(model, tmp_path).claims()
        assert rows is None or not model.batchable or rows, model.seed
        found.append((model.batchable, rows))
    assert (False, False) in found and (True, True) in found


def test_a_claim_that_the_generator_makes_wrongly_is_its_own_fault(tmp_path: Path) -> None:
    model = next(
        model for model in map(make_model, range(200)) if not model.batchable and "value-branch" not in model.tags
    )
    object.__setattr__(model, "batchable", True)
    with pytest.raises(eager.GeneratorFault, match="rows depend"):
        eager.Eager(model, tmp_path).claims()


def test_shapes_are_those_that_a_service_takes() -> None:
    model = next(m for m in map(make_model, range(300)) if m.sequences == (4, 8) and m.batches == (1, 4))
    both = shapes_of(model, batchable=True, padding="harmless")
    assert {shape.rows for shape in both} == {1, 2, 3, 4} and {shape.length for shape in both} == {1, 3, 4, 7, 8}
    neither = shapes_of(model, batchable=False, padding="exact")
    assert {shape.rows for shape in neither} == {1, 4} and {shape.length for shape in neither} == {4, 8}


def test_padding_keeps_the_query_and_fills_the_rest() -> None:
    model = next(m for m in map(make_model, range(300)) if any(t.role == "drop" for t in m.inputs))
    inputs = draw(model, Shape(1, 3), NORMAL, 1)
    for tensor, x, wide in zip(model.inputs, inputs, padded(model, inputs, Shape(2, 5)), strict=True):
        assert torch.equal(wide[tuple(slice(0, size) for size in x.shape)], x)
        if tensor.role == "drop":
            assert wide[1].all() and wide[0, 3:].all()


@pytest.mark.parametrize(
    ("answer", "own_error", "expected"),
    [
        (torch.tensor([1.0, -100.0]), 0.0, eager.FLOOR * 100),
        (torch.tensor([1.0, -100.0]), 1.0, 4.0),
        (torch.tensor([1.0, math.nan]), 0.0, eager.FLOOR),
        (torch.tensor([3, 4]), 1.0, 0.0),
    ],
)  # fmt: skip
def test_the_tolerance_is_four_times_eagers_own_error(answer: torch.Tensor, own_error: float, expected: float) -> None:
    assert eager.tolerance(answer, own_error) == pytest.approx(expected)


def test_nan_elsewhere_and_infinities_of_another_sign_are_differences() -> None:
    nan, inf = math.nan, math.inf
    assert eager.distance(torch.tensor([nan, 1.0]), torch.tensor([nan, 1.5])) == (0.5, True)
    assert not eager.distance(torch.tensor([nan, 1.0]), torch.tensor([1.0, nan]))[1]
    assert not eager.distance(torch.tensor([inf]), torch.tensor([-inf]))[1]
    assert eager.distance(torch.tensor([inf]), torch.tensor([inf])) == (0.0, True)


def test_a_wrong_answer_is_different(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = next(s for s in range(50) if examine.examine(s, examine.How(None)).status == examine.OK)
    right = eager.Eager.cases

    def a_little_wrong(self, *claims):
        cases = right(self, *claims)
        answers = cases[0].outputs
        name = next(name for name, x in answers.items() if x.is_floating_point())
        answers[name] = answers[name] + 2e-3 * (1 + answers[name].abs().max())
        return cases

    monkeypatch.setattr(eager.Eager, "cases", a_little_wrong)
    outcome = examine.examine(seed, examine.How(None))
    assert outcome.status == examine.DIFFERENT and outcome.ratio > 1 and "allowed" in outcome.detail


@pytest.mark.parametrize("claim", ["batchable", "padding"])
def test_a_false_claim_of_the_exporter_is_one(monkeypatch: pytest.MonkeyPatch, claim: str) -> None:
    right = examine.export

    def lies(*arguments):
        exported = right(*arguments)
        changed = {"batchable": not exported.batchable} if claim == "batchable" else {"padding": "exact"}
        return type(exported)(**(vars(exported) | changed))

    monkeypatch.setattr(examine, "export", lies)
    wanted = (m.seed for m in map(make_model, range(300)) if m.padding == "harmless" and m.batchable and not m.script)
    outcome = examine.examine(next(wanted), examine.How(None))
    assert outcome.status == examine.CLAIM, outcome


def test_what_must_be_refused_is_and_for_its_reason() -> None:
    outcomes, kinds = [], set()
    for model in (model for model in map(make_model, range(3000)) if model.refused):
        if model.tags not in kinds:
            kinds.add(model.tags)
            outcomes.append(examine.examine(model.seed, examine.How(None)))
    assert len(kinds) >= 15
    assert [outcome for outcome in outcomes if outcome.status != examine.MUST_REFUSE] == []


def test_each_output_of_a_case_has_a_tolerance_of_its_own(tmp_path: Path) -> None:
    outputs = {
        "output0": torch.tensor([4.0]),
        "output1": torch.tensor([3, 4]),
        "output2": torch.tensor([math.nan, 0.0]),
    }
    case = eager.Case(
        NORMAL, Shape(2, 0), [torch.zeros(2, 6)], outputs, {"output0": 4e-6, "output1": 0.0, "output2": 0.0}
    )
    model = next(model for model in map(make_model, range(300)) if model.refused)
    exported = exporting.Exported(tmp_path, tmp_path, ("y", "n", "z"), True, None, {})
    serving.write_cases([case], model, exported, tmp_path / "cases")
    assert (tmp_path / "cases/000/tolerance").read_text().split() == ["y", "1e-06", "n", "0", "z", "0"]
    assert {path.name for path in (tmp_path / "cases/000").glob("*.npy")} == {"x.npy", "y.npy", "n.npy", "z.npy"}


def test_what_the_worker_says_becomes_a_verdict() -> None:
    case = eager.Case(NORMAL, Shape(2, 0), [], {"y": torch.tensor([4.0])}, {"y": 4e-6})
    line = {"case": "000", "of_tolerance": 0.5, "ok": True}
    assert serving.judge([line], [case]) == serving.Verdict(0.5, "")
    wrong = serving.judge([line | {"ok": False, "error": 'output "y" differs'}], [case])
    assert wrong.ratio == math.inf and "rows 2" in wrong.detail and "differs" in wrong.detail
    assert "ran 0 of 1" in serving.judge([], [case]).detail


def test_a_run_writes_its_results_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    line = [sys.executable, FOLDER / "run.py", "--jobs", "2", "--csv", table]
    first = subprocess.run([*line, "--seeds", "0:4"], capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    with open(table, "a", encoding="utf-8") as file:
        file.write("4,cut off")  # as when it was killed
    again = subprocess.run([*line, "--seeds", "0:6"], capture_output=True, text=True, check=False)
    assert "6 models" in again.stdout and "/2 models" in again.stderr
    with open(table, newline="", encoding="utf-8") as file:
        seeds = [int(row["seed"]) for row in csv.DictReader(file) if row["detail"] is not None]
    assert sorted(seeds) == [0, 1, 2, 3, 4, 5]


def test_ctrl_c_ends_a_run_with_what_there_is(tmp_path: Path) -> None:
    table = tmp_path / "results.csv"
    line = [sys.executable, FOLDER / "run.py", "--jobs", "2", "--csv", table, "--seeds", "0:500"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not table.exists() or len(table.read_text(encoding="utf-8").splitlines()) < 3:
        assert process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert re.search(r"^\d+ models: ", out, re.MULTILINE) and "stopped" in errors and "Traceback" not in errors


def test_a_process_that_dies_is_a_result(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    process = run._Process(examine.How(None))
    try:
        process.give(0)
        os.kill(process._process.pid, 9)
        outcome = process.take()
        assert outcome.status == examine.BROKEN and "-9" in outcome.detail
        process.give(1)
        assert process.take().seed == 1, "another takes over"
    finally:
        process.stop()
    assert not run.summarise([outcome])
    assert re.search(r"differences and faults: 1", capsys.readouterr().out)


@pytest.mark.skipif(not WORKER.exists(), reason="nothing is built in build/; run ./mps.sh test")
def test_a_few_models_are_right_in_the_worker_at_every_cut() -> None:
    outcomes = [examine.examine(seed, examine.How(WORKER)) for seed in range(*SHORT)]
    assert [outcome for outcome in outcomes if outcome.status not in examine.GOOD] == []
    assert sum(outcome.status == examine.OK for outcome in outcomes) >= 10
