"""The command line of models/export.py, run in this process on small models."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from export_run import description, exported, run, user_arguments, user_folder  # noqa: F401


def test_files_that_are_current_are_left_alone(capsys):
    def files() -> list[str]:
        return sorted(path.name for path in Path("out").iterdir())

    assert run("test-multi") == 0
    written = files()
    assert run("test-multi") == 0
    assert "up to date" in capsys.readouterr().out and files() == written
    for change in (["--force"], ["--batch", "1,8"], ["--seed", "3"], ["--allow-padding"]):
        assert run("test-multi", *change) == 0
        assert "wrote" in capsys.readouterr().out
    Path("out", description("test-multi")["file"]).unlink()
    assert run("test-multi", "--allow-padding") == 0
    assert files() == sorted([description("test-multi")["file"], "test-multi.toml"])


def test_a_user_module_is_traced_and_its_outputs_are_found(capsys):
    inputs = ("ids:int64:batch,sequence:0..9", "scale:float32:batch,1")
    arguments = user_arguments("TwoHeads", *inputs, extra=("--batch", "1,3", "--sequence", "5,9"))
    assert run(*arguments) == 0
    spec, module = exported()
    assert [(t["name"], t["dtype"], t["shape"]) for t in spec["outputs"]] == [
        ("tokens", "float32", ["batch", "sequence", 4]),
        ("longest", "int64", ["batch"]),
    ]
    assert spec["buckets"] == {"batch": [1, 3], "sequence": [5, 9]}
    ids = torch.randint(0, 10, (7, 11))
    tokens, longest = module(ids, torch.ones(7, 1))
    assert tokens.shape == (7, 11, 4) and torch.equal(longest, ids.max(1).values)

    capsys.readouterr()
    assert run(*arguments) == 0 and "up to date" in capsys.readouterr().out
    with open("user_models.py", "a") as source:
        source.write("\n# changed\n")
    assert run(*arguments) == 0 and "wrote" in capsys.readouterr().out
    assert run(*arguments, "--output", "a", "b") == 0
    assert [t["name"] for t in description()["outputs"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("declared", "warning"),
    [
        ("int64:batch,sequence", "'ids' (int64) has no range"),
        ("uint8:batch,sequence", "Only 0..100 is verified"),
        ("int64:batch,sequence:0..9", None),
    ],
)
def test_an_integer_input_without_a_range_is_warned_of(declared, warning, capsys):
    arguments = user_arguments("Doubled", f"ids:{declared}", extra=("--sequence", "4"))
    assert run(*arguments) == 0
    output = capsys.readouterr().out
    assert warning in output if warning else "warning" not in output


def test_a_factory_takes_arguments(capsys):
    arguments = user_arguments("configured", "x:float32:batch,4", extra=("--arg", "scale=0.5", "--arg", "kind=linear"))
    assert run(*arguments, "--arg", "width=3", "--arg", "bias=false") == 0
    spec, module = exported()
    assert spec["outputs"][0]["shape"] == ["batch", 3]
    assert [name.rpartition(".")[2] for name, _ in module.named_parameters()] == ["weight"]
    assert run(*arguments, "--arg", "width=5") == 0  # another argument, another model
    assert description()["outputs"][0]["shape"] == ["batch", 5]
    capsys.readouterr()
    assert run(*arguments, "--arg", "depth=5") == 1
    assert "unexpected keyword argument 'depth'" in capsys.readouterr().err


def test_a_file_that_a_factory_depends_on_counts_for_up_to_date(capsys):
    Path("weights.pt").write_bytes(b"first")
    arguments = user_arguments("TrainingOnly", "x:float32:batch,4", extra=("--depends", "weights.pt"))
    assert run(*arguments) == 0 and "wrote" in capsys.readouterr().out
    assert run(*arguments) == 0 and "up to date" in capsys.readouterr().out
    Path("weights.pt").write_bytes(b"other")
    assert run(*arguments) == 0 and "wrote" in capsys.readouterr().out
    Path("weights.pt").unlink()
    assert run(*arguments) == 2 and "cannot read weights.pt" in capsys.readouterr().err


def test_a_package_of_the_users_own_is_found(tmp_path, capsys):
    package = tmp_path / "elsewhere" / "their_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text("import torch\n\ndef make():\n    return torch.nn.Linear(4, 2)\n")
    arguments = ["--module", "their_package.nets:make", "--name", "mine", "--input", "x:float32:batch,4"]
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert "there is no module 'their_package'" in error and "--path DIR" in error and "-m pip install" in error
    try:
        assert run(*arguments, "--path", "elsewhere") == 0
    finally:
        sys.path.remove(str(tmp_path / "elsewhere"))


X = ("--input", "x:float32:batch,4")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "nothing to export"),
        (["resnet51"], "unknown model 'resnet51'"),
        (["resnet50", "--name", "x"], "--name: only with"),
        (["--module", "a:b"], "need --name"),
        (["--module", "ab", "--name", "x", *X], "package.module:factory"),
        (["--module", "no_such:thing", "--name", "x", *X], "cannot import"),
        (["--torchscript", "none.pt", "--name", "x", *X], "none.pt"),
        (["--module", "user_models:Branch", "--name", "a/b", *X], "model name"),
        (["--module", "user_models:Branch", "--name", "x", *X, *X], "same name"),
        (["--module", "user_models:Branch", "--name", "x", *X, "--sequence", "4"], "leave --sequence out"),
        (["--module", "user_models:Branch", "--name", "x", "--input", "x:int8:batch,sequence"], "--sequence"),
        (["--module", "user_models:Branch", "--name", "x", "--input", "x:int8:4"], "no input has a 'batch'"),
        (["--module", "user_models:Branch", "--name", "x", *X, "--output", "a", "b"], "2 output names for 1"),
        (["--module", "user_models:Branch", "--name", "x", *X, "--weights", "random"], "--weights"),
        (["resnet50", "--arg", "a=1"], "--arg: only with"),
        (["--torchscript", "none.pt", "--name", "x", *X, "--arg", "a=1"], "--arg: only with --module"),
        (["--module", "user_models:Branch", "--name", "x", *X, "--arg", "a"], "expected NAME=VALUE"),
        (["--module", "user_models:Branch", "--name", "x", *X, "--arg", "a=1", "--arg", "a=2"], "given twice"),
        (["--module", "user_models:Branch", "--name", "x", *X, "--batch", "65537"], "--batch 65537: at most 65536"),
        (["test-multi", "--sequence", "2000000"], "--sequence 2000000: at most 1048576"),
        (["test-multi", "--batch", "65536", "--sequence", "1048576"], "of memory: use a smaller --batch"),
        (["--module", "user_models:Branch", "--name", "x", "--input", "n:int64:batch:1..SEQUENCE"], "LOW..SEQUENCE"),
        (["resnet50", "--library", "none.so"], "--library none.so: cannot be loaded"),
        (["resnet50", "--path", "."], "--path: only with"),
        (["test-multi", "--batch", ",".join(map(str, range(1, 40)))], "64 buckets"),
    ],
)
def test_usage_errors_are_one_line(arguments, complaint, capsys):
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1


def test_bucket_lists_are_checked():
    with pytest.raises(SystemExit) as caught:
        run("test-multi", "--batch", "1,x")
    assert caught.value.code == 2
