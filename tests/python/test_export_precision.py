"""What rounding explains, and how far an optimised form may differ."""

from __future__ import annotations

import pytest
import torch
from abacus_export.precision import Precise
from export_run import description, exported, run, user_arguments, user_folder  # noqa: F401
from torch import nn


def test_the_tolerance_follows_from_how_much_the_module_rounds(capsys):
    tolerances = []
    for size in ("1.0", "1e5", "1e6"):
        extra = ("--arg", f"size={size}")
        assert run(*user_arguments("sharp", "x:float32:batch,4:0.5..1", extra=extra, file="user_claims")) == 0
        tolerances.append(description()["tolerance"])
    usual, measured, loose = tolerances
    # Half a unit in the last place of 1e5 is 0.004, of 1e6 0.03; the largest input is nearly 1.
    assert usual == 1e-3 and 0.008 < measured < 0.02 and 0.06 < loose < 0.2
    assert capsys.readouterr().out.count("warning: the module rounds so much") == 1


def test_the_tolerance_is_measured_at_the_largest_batch_too():
    arguments = user_arguments("SharperInLargeBatches", "x:float32:batch,4:0.5..1", file="user_claims")
    assert run(*arguments, "--batch", "1,4") == 0
    # Half a unit in the last place of 3e5 is 0.016.
    assert 0.03 < description()["tolerance"] < 0.1


def test_half_precision_inside_of_a_float_interface_is_exported():
    assert run(*user_arguments("HalfInside", "x:float32:batch,4")) == 0
    spec, module = exported()
    assert spec["tolerance"] == 2e-2 and module(torch.randn(2, 4)).dtype == torch.float32


class Fixed(nn.Module):
    def __init__(self, inside: torch.dtype) -> None:
        super().__init__()
        self.linear, self.inside = nn.Linear(4, 4), inside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).to(self.inside).to(x.dtype)


@pytest.mark.parametrize(("inside", "rounding"), [(torch.float64, 1e-9), (torch.float32, 1e-5), (torch.float16, 2e-2)])
def test_the_least_exact_type_inside_decides_what_rounding_explains(inside, rounding):
    with torch.inference_mode():
        outputs, found = Precise(Fixed(inside)).run_and_look([torch.randn(2, 4)])
    assert outputs[0].dtype == torch.float64 and found == rounding


def test_a_module_that_does_not_run_in_double_precision_is_compared_with_single_or_nothing():
    class HalfOnly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4).half()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.dtype != torch.float64
            return self.linear(x)

    with torch.inference_mode():
        assert Precise(HalfOnly()).run([torch.randn(2, 4).half()])[0].dtype == torch.float32

        class SingleOnly(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x @ torch.eye(4)

        assert Precise(SingleOnly()).run([torch.randn(2, 4)]) is None
