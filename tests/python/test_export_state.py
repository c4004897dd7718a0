"""A model answers every query by its inputs alone, or is refused with what it remembers or draws."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from export_run import exported, line_of, run, user_arguments, user_folder, user_model  # noqa: F401

X = "x:float32:batch,4"


@pytest.mark.parametrize(
    ("module", "holder"),
    [
        ("keeps_largest_plain", "its attribute 'plain'"),
        ("keeps_largest_listed", "its attribute \"listed[0]['largest']\""),
        ("keeps_largest_buffer", "its attribute 'buffer'"),
        ("keeps_largest_global", "the global \"user_models.RECENT['largest'][0]\""),
        ("keeps_largest_number", "its attribute 'number'"),
        ("keeps_largest_rebound", "its attribute 'plain'"),
        ("RunningStatistics", "its attribute 'norm.running_mean'"),
    ],
)
def test_a_model_that_remembers_queries_is_refused_with_where_it_does(module, holder, capsys):
    assert run(*user_arguments(module, "x:float32:batch,4")) == 1
    error = capsys.readouterr().err
    assert f"writes to {holder}" in error and "must not remember queries" in error
    assert not list(Path("out").iterdir())


def test_what_a_graph_writes_is_found_though_no_run_does_it(capsys):
    assert run(*user_arguments("CountsCalls", "x:float32:batch,4", extra=("--script",))) == 1
    assert "writes to its attribute 'calls' (aten::add_ at " + line_of("self.calls.add_(1)") in capsys.readouterr().err


def test_a_torchscript_file_that_remembers_is_refused(capsys):
    remembering = torch.jit.trace(user_model("KeepsLargest")("plain"), torch.randn(2, 4), check_trace=False)
    remembering.save("given.pt")
    assert run("--torchscript", "given.pt", "--name", "mine", "--input", "x:float32:batch,4") == 1
    error = capsys.readouterr().err
    assert f"writes to a tensor that is a constant of its graph (aten::copy_ at {line_of('largest.copy_(')})" in error


def test_a_random_layer_is_refused_with_its_place(capsys):
    assert run(*user_arguments("AlwaysDrops", "x:float32:batch,4")) == 1
    error = capsys.readouterr().err
    assert "random layer" in error and line_of("dropout(x, 0.5, training=True)") in error
    assert run(*user_arguments("AlwaysDrops", "x:float32:batch,4", extra=("--script",))) == 1
    assert "random layer" in capsys.readouterr().err


def test_what_a_script_does_in_training_only_is_no_state():
    assert run(*user_arguments("TrainingOnly", "x:float32:batch,4", extra=("--script",))) == 0


@pytest.mark.parametrize("module", ["KeepsLastActivation", "DrawsForTraining", "WritesToInput"])
def test_what_changes_no_answer_is_exported(module):
    assert run(*user_arguments(module, "x:float32:batch,4")) == 0
    x = torch.randn(2, 4)
    expected = user_model(module)()
    if isinstance(expected, user_model("WritesToInput")):
        expected.linear.load_state_dict(exported()[1].module.linear.state_dict())
    assert torch.allclose(exported()[1](x.clone()), expected.eval()(x.clone()))


@pytest.mark.parametrize("held", ["attribute", "class", "global", "default", "closure"])
def test_a_model_that_keeps_its_first_query_is_refused(held, capsys):
    assert run(*user_arguments(f"first_by_{held}", X, file="user_claims")) == 1
    assert "keeps something of its first query" in capsys.readouterr().err
    assert not list(Path("out").iterdir())


def test_a_script_that_keeps_its_first_query_is_refused(capsys):
    assert run(*user_arguments("ScriptedFirstQuery", X, extra=("--script",), file="user_claims")) == 1
    assert "writes to its attribute 'kept' (prim::SetAttr" in capsys.readouterr().err


def test_a_table_that_is_made_on_first_use_is_no_memory():
    assert run(*user_arguments("CachedTable", X, file="user_claims")) == 0
