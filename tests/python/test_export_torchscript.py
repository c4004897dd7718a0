"""A TorchScript file as the source, and files that are none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from abacus_export import cli
from export_run import description, run, user_folder, user_model  # noqa: F401
from torch import nn

EXPORTER = Path(cli.__file__).parents[1] / "export.py"


def test_a_torchscript_file(capsys):
    torch.jit.script(nn.Sequential(nn.Linear(4, 2), nn.ReLU())).save("given.pt")
    arguments = ["--torchscript", "given.pt", "--name", "mine", "--input", "x:float32:batch,4"]
    assert run(*arguments) == 0
    assert description()["outputs"] == [{"name": "output", "dtype": "float32", "shape": ["batch", 2]}]
    Path("given.pt").write_bytes(b"nothing")
    assert run(*arguments) == 2
    assert "not a readable TorchScript file" in capsys.readouterr().err


def save_onnx(path: Path) -> None:
    path.write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x062.11.0:\x00")


def save_safetensors(path: Path) -> None:
    header = b'{"weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


def save_module(path: Path) -> None:
    torch.save(user_model("Constant")(), path)


def save_exported_program(path: Path) -> None:
    torch.export.save(torch.export.export(nn.Linear(4, 2), (torch.randn(2, 4),)), path.with_suffix(".pt2"))
    path.with_suffix(".pt2").rename(path)


@pytest.mark.parametrize(
    ("save", "complaint"),
    [
        (save_onnx, "it is an ONNX model"),
        (save_safetensors, "it is a safetensors file"),
        (save_exported_program, "it is an archive of torch.export"),
        (lambda path: torch.save(nn.Linear(4, 2).state_dict(), path), "it holds a state dict"),
        (save_module, "it is a pickled Python object of user_models.Constant"),
        (lambda path: path.write_bytes(b"nothing"), "RuntimeError"),
    ],
)
def test_a_file_that_is_no_torchscript_is_named(save, complaint, capsys):
    save(Path("given"))
    assert run("--torchscript", "given", "--name", "mine", "--input", "x:float32:batch,4") == 2
    error = capsys.readouterr().err
    assert f"not a readable TorchScript file ({complaint}" in error and error.count("\n") == 1
    assert ("--module" in error) == (complaint != "RuntimeError")


class Suppressed(nn.Module):
    """The best box of each image, and how many others it leaves."""

    def forward(self, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        kept = torch.ops.torchvision.nms(boxes, scores, 0.5)
        return torch.stack([kept[0].to(boxes.dtype), torch.tensor(float(kept.numel()))]) + boxes.sum() * 0


def test_operators_of_torchvision_are_known_to_a_file_that_needs_them():
    pytest.importorskip("torchvision")
    torch.jit.script(Suppressed()).save("given.pt")
    inputs = ["--input", "boxes:float32:5,4:0..1", "--input", "scores:float32:5:0..1"]
    command = [sys.executable, EXPORTER, "--torchscript", "given.pt", "--name", "mine", *inputs, "--batch", "1"]
    done = subprocess.run([*command, "--no-worker", "--out", "out"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert description()["outputs"][0]["shape"] == [2]


def test_an_unknown_operator_is_named_with_what_to_do(capsys):
    library = torch.library.Library("abacus_test", "DEF")
    library.define("unknown(Tensor x) -> Tensor")

    class Calls(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.abacus_test.unknown(x)

    torch.jit.script(Calls()).save("given.pt")
    library._destroy()
    assert run("--torchscript", "given.pt", "--name", "mine", "--input", "x:float32:batch,4") == 1
    assert "its operator abacus_test::unknown is unknown; name the library" in capsys.readouterr().err
