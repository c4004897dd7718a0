"""--image uint8: pixels in, the preparation inside."""

from __future__ import annotations

import pytest
import torch
from abacus_export import catalogue
from abacus_export.image import IMAGENET, Prepare
from export_run import description, exported, run, user_arguments, user_folder, user_model  # noqa: F401

MEAN, STD = "0.485,0.456,0.406", "0.229,0.224,0.225"
PREPARATION = ("--image", "uint8", "--mean", MEAN, "--std", STD)


def usual_preparation(pixels: torch.Tensor) -> torch.Tensor:
    """torchvision's ToTensor() and Normalize(), written out."""
    x = pixels.permute(0, 3, 1, 2).to(torch.float32) / 255
    mean, std = (torch.tensor([float(x) for x in text.split(",")]).view(3, 1, 1) for text in (MEAN, STD))
    return (x - mean) / std


def test_a_user_model_takes_pixels_and_answers_as_it_would_to_the_prepared_picture(capsys):
    arguments = user_arguments("Pictures", "photo:float32:batch,3,12,16", "gain:float32:batch,1", extra=PREPARATION)
    assert run(*arguments) == 0
    spec, served = exported()
    assert spec["inputs"] == [
        {"name": "photo", "dtype": "uint8", "shape": ["batch", 12, 16, 3], "range": [0, 255]},
        {"name": "gain", "dtype": "float32", "shape": ["batch", 1]},
    ]
    assert "warning" not in capsys.readouterr().out
    torch.manual_seed(0)
    module = user_model("Pictures")().eval()
    pixels = torch.randint(0, 256, (3, 12, 16, 3), dtype=torch.uint8)
    pixels[1], pixels[2] = 0, 255
    gain = torch.rand(3, 1)
    torch.testing.assert_close(served(pixels, gain), module(usual_preparation(pixels), gain), rtol=1e-4, atol=1e-4)


def test_a_script_takes_pixels_too():
    extra = (*PREPARATION, "--script")
    assert run(*user_arguments("Pictures", "photo:float32:batch,3,12,16", "gain:float32:batch,1", extra=extra)) == 0
    spec, served = exported()
    assert spec["inputs"][0]["dtype"] == "uint8"
    assert served(torch.zeros(2, 12, 16, 3, dtype=torch.uint8), torch.ones(2, 1)).shape == (2, 5)


def test_other_preparations_are_another_model(capsys):
    arguments = user_arguments("Pictures", "photo:float32:batch,3,12,16", "gain:float32:batch,1")
    assert run(*arguments) == 0
    for extra in (PREPARATION, ("--image", "uint8", "--mean", "0", "--std", "1")):
        assert run(*arguments, *extra) == 0 and "wrote" in capsys.readouterr().out
        assert run(*arguments, *extra) == 0 and "up to date" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("inputs", "extra", "message"),
    [
        ("x:float32:batch,3,4,4", ("--image", "uint8"), "needs --mean and --std"),
        ("x:float32:batch,3,4,4", ("--mean", "0", "--std", "1"), "only with --image uint8"),
        ("x:float32:batch,3,4,4", (*PREPARATION[:-1], "0.1,0,0.1"), "0 is not more than 0"),
        ("x:float32:batch,1,4,4", PREPARATION, "--mean: 3 numbers for the 1 channels of input 'x'"),
        ("x:float32:batch,3,4,4:0..1", PREPARATION, "sets the range"),
        ("x:float32:batch,5,4,4", PREPARATION, "no input is an image"),
        ("x:int32:batch,3,4,4", PREPARATION, "no input is an image"),
        ("x:float32:batch,3,4", PREPARATION, "no input is an image"),
    ],
)
def test_what_makes_no_sense_is_refused(inputs, extra, message, capsys):
    assert run(*user_arguments("Pictures", inputs, extra=extra)) == 2
    assert message in capsys.readouterr().err


def test_names_that_take_no_images_are_refused_and_in_groups_left_as_they_are(capsys):
    assert run("test-multi", "--image", "uint8") == 2
    assert "none of these models takes images" in capsys.readouterr().err
    assert run("resnet50", "--mean", "1") == 2
    assert "--mean: only with --module" in capsys.readouterr().err
    taking = [recipe.name for recipe in catalogue.expand(["seven", "default", "testing"]) if recipe.normalization]
    assert len(taking) == 7 and "bert" not in taking and "efficientnet-lite0" in taking


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_the_preparation_is_the_usual_one_and_stays_channels_last(dtype):
    pixels = torch.arange(256, dtype=torch.uint8).repeat_interleave(3).view(1, 16, 16, 3)
    prepared = Prepare(IMAGENET, dtype)(pixels)
    assert prepared.dtype == dtype
    assert prepared.is_contiguous(memory_format=torch.channels_last)
    error = (prepared.double() - usual_preparation(pixels).double()).abs().max()
    assert error < (4e-3 if dtype == torch.float16 else 1e-5)


def test_lite0_takes_what_its_own_preparation_makes():
    (recipe,) = catalogue.expand(["efficientnet-lite0"])
    pixels = torch.randint(0, 256, (1, 4, 4, 3), dtype=torch.uint8)
    expected = (pixels.permute(0, 3, 1, 2).float() - 127) / 128
    torch.testing.assert_close(Prepare(recipe.normalization, torch.float32)(pixels), expected, rtol=0, atol=1e-5)
