"""What forward() takes and returns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from export_run import exported, run, user_arguments, user_folder  # noqa: F401

X = "x:float32:batch,4"


@pytest.mark.parametrize("extra", [(), ("--script",)])
def test_a_dict_becomes_named_outputs(extra):
    assert run(*user_arguments("Named", "x:float32:batch,4", extra=extra)) == 0
    spec, module = exported()
    assert [(t["name"], t["shape"]) for t in spec["outputs"]] == [("sum", ["batch"]), ("doubled", ["batch", 4])]
    x = torch.randn(3, 4)
    returned = module(x)  # the worker takes a tensor, or a flat tuple or list of tensors
    assert isinstance(returned, tuple) and torch.equal(returned[0], x.sum(1)) and torch.equal(returned[1], x * 2)


def test_a_scripted_dict_without_names_is_refused(capsys):
    assert run(*user_arguments("Numbered", "x:float32:batch,4", extra=("--script",))) == 1
    error = capsys.readouterr().err
    assert "returns Dict[int, Tensor]" in error and "--output" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("module", "code", "complaint"),
    [
        ("Overflow", 1, "not finite"),
        ("Constant", 1, "constant"),
        ("BatchInside", 1, "neither fixed nor the batch"),
        ("BakedSize", 1, "differs from the module's"),
        ("Text", 1, "forward() returns a str; forward() must return a tensor"),
        ("Complex", 1, "output 'spectrum' is complex64; the types of outputs are float32"),
        ("Nested", 1, "output 'output1' is a tuple inside of what forward() returns"),
        ("Missing", 1, "output 'output1' is None"),
        ("Sparse", 1, "layout torch.sparse_coo"),
        ("broken", 1, "no such weights"),
        ("not_a_module", 2, "not a torch.nn.Module"),
        ("missing", 2, "has no missing"),
    ],
)
def test_unfit_models_are_refused_and_leave_nothing(module, code, complaint, capsys):
    assert run(*user_arguments(module, "x:float32:batch,4")) == code
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1
    assert not Path("out").exists() or not list(Path("out").iterdir())


@pytest.mark.parametrize("extra", [(), ("--script",)])
def test_a_model_that_computes_nothing_is_refused(extra, capsys):
    assert run(*user_arguments("Unchanged", X, extra=extra, file="user_claims")) == 1
    assert "forward() computes nothing" in capsys.readouterr().err


@pytest.mark.parametrize(("module", "expected"), [("WithNumber", 3), ("MaybeMasked", 2)])
def test_a_scripted_argument_keeps_its_default(module, expected):
    assert run(*user_arguments(module, X, extra=("--script",), file="user_claims")) == 0
    script = exported()[1]
    assert [str(a.type) for a in script.forward.schema.arguments[1:]] == ["Tensor"]
    assert torch.equal(script(torch.ones(2, 4)), torch.full((2, 4), float(expected)))


def test_an_optional_tensor_may_be_declared():
    arguments = user_arguments("MaybeMasked", X, "mask:float32:batch,4", extra=("--script",), file="user_claims")
    assert run(*arguments) == 0
    assert torch.equal(exported()[1](torch.ones(2, 4), torch.zeros(2, 4)), torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("module", "inputs", "code", "complaint"),
    [
        ("NeedsNumber", (X,), 2, "forward() also takes 'factor' (int), which has no default"),
        ("NeedsNumber", (X, "factor:int64:batch:1..3"), 1, "is argument 'factor' of forward(), a int"),
        ("WithNumber", (X, "n:int64:1:1..3", "m:int64:1:1..3"), 2, "3 inputs are declared, forward() takes 2"),
    ],
)
def test_scripted_arguments_that_are_no_tensors_are_refused(module, inputs, code, complaint, capsys):
    assert run(*user_arguments(module, *inputs, extra=("--script",), file="user_claims")) == code
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1
