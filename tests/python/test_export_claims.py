"""What the exporter finds out about rows, padding and ranges, and what the description then says."""

from __future__ import annotations

import pytest
from export_run import description, exported, run, user_arguments, user_folder  # noqa: F401

X = "x:float32:batch,4"


def claims(module: str, *inputs: str, extra: tuple[str, ...] = ()) -> dict:
    assert run(*user_arguments(module, *inputs, extra=extra, file="user_claims")) == 0
    return description()


@pytest.mark.parametrize(
    "module", ["Centred", "QuantisedTogether", "LeaksNan", "ScaledBySize", "ScaledBySizeInsideOfBounds"]
)
def test_rows_that_depend_on_each_other_are_never_padded_nor_batched(module, capsys):
    assert claims(module, X, extra=("--batch", "1,2,4"))["batchable"] is False
    assert "a query must have exactly 1 or 2 or 4 rows" in capsys.readouterr().out


def test_a_dependence_below_the_tolerance_counts(capsys):
    extra = ("--arg", "strength=1e-5", "--batch", "2,4")
    assert claims("Centred", X, extra=extra)["batchable"] is False
    assert "the rows of a batch depend on each other" in capsys.readouterr().out


def test_a_dependence_that_double_precision_cannot_show_counts(capsys):
    assert claims("CentredInSingle", X, extra=("--batch", "2,4"))["batchable"] is False
    assert "the rows of a batch depend on each other" in capsys.readouterr().out


def test_a_question_to_all_rows_that_only_rows_of_one_sign_answer_counts(capsys):
    assert claims("HalvedWherePositive", X, extra=("--script", "--batch", "2,4"))["batchable"] is False
    assert "the rows of a batch depend on each other" in capsys.readouterr().out


def test_a_query_whose_size_is_a_bucket_may_be_part_of_a_larger_job(capsys):
    assert claims("TwiceInCompany", X, extra=("--script", "--batch", "1,2,4"))["batchable"] is False
    assert "is another when 1 rows are padded to 2" in capsys.readouterr().out


def test_an_effect_of_the_batch_size_below_the_tolerance_counts(capsys):
    assert claims("SizeBeforeNorm", X, extra=("--batch", "2,4"))["batchable"] is False
    assert "in double precision) is another when 1 rows are padded to 2" in capsys.readouterr().out


def test_a_size_between_buckets_that_the_module_does_not_take_is_not_served(capsys):
    assert claims("NeedsEvenBatch", X, extra=("--batch", "2,4"))["batchable"] is False
    assert "the module itself fails at batch 1" in capsys.readouterr().out


@pytest.mark.parametrize("module", ["Sorted", "first_position"])
def test_independent_rows_need_no_word(module, capsys):
    inputs, extra = ((X,), ()) if module == "Sorted" else (("ids:int64:batch,sequence:0..99",), ("--sequence", "4,8"))
    assert "batchable" not in claims(module, *inputs, extra=extra)
    assert "note" not in capsys.readouterr().out


def test_dependence_does_not_matter_where_there_is_one_row_only():
    assert "batchable" not in claims("Centred", X, extra=("--batch", "1"))


@pytest.mark.parametrize("sequence", ["8", "4,8"])
@pytest.mark.parametrize(
    ("module", "padding"),
    [("first_position", None), ("skips_zeros", None), ("mean_pool", "exact"), ("faint_pool", "exact")],
)
def test_padding_along_the_sequence_is_measured(module, padding, sequence, capsys):
    spec = claims(module, "ids:int64:batch,sequence:0..99", extra=("--sequence", sequence))
    assert spec["buckets"].get("sequence_padding") == padding
    output = capsys.readouterr().out
    assert (f"only queries of length {sequence.replace(',', ', ')} are served" in output) == (padding == "exact")
    assert "warning" not in output


def test_padding_that_changes_answers_can_be_allowed(capsys):
    ids, extra = "ids:int64:batch,sequence:0..99", ("--sequence", "8", "--allow-padding")
    assert claims("mean_pool", ids, extra=extra)["buckets"]["sequence_padding"] == "allowed"
    assert "padding a query of length 1 to 8 changes its answer" in capsys.readouterr().out
    assert "sequence_padding" not in claims("skips_zeros", ids, extra=extra)["buckets"]


def test_a_length_that_the_module_does_not_take_is_not_served(capsys):
    spec = claims("NeedsFour", "x:float32:batch,sequence", extra=("--sequence", "6"))
    assert spec["buckets"]["sequence_padding"] == "exact"
    assert "the module itself fails at that length" in capsys.readouterr().out


def test_a_length_is_bounded_by_the_sequence_of_its_query(capsys):
    inputs = ("ids:int64:batch,sequence:0..99", "lengths:int64:batch:1..SEQUENCE")
    spec = claims("LastStep", *inputs, extra=("--sequence", "4,8"))
    assert spec["inputs"][1]["range"] == [1, "sequence"]
    assert "sequence_padding" not in spec["buckets"] and "batchable" not in spec
    assert "note" not in capsys.readouterr().out


def test_a_query_that_masks_nothing_counts(capsys):
    inputs = ("x:float32:batch,sequence", "keep:int64:batch,sequence:0..1:pad=0")
    assert claims("AsksForAllKept", *inputs, extra=("--sequence", "8"))["buckets"]["sequence_padding"] == "exact"
    assert "padding a query of length 2 to 8 changes its answer" in capsys.readouterr().out


def test_the_pad_values_of_two_masks_are_found_by_measuring(capsys):
    inputs = ("skip:bool:batch,sequence", "keep:int64:batch,sequence:0..1")
    spec = claims("TwoMasks", *inputs, extra=("--sequence", "4,8"))
    assert "sequence_padding" not in spec["buckets"]
    assert [tensor["pad"] for tensor in spec["inputs"]] == [1, 0]
    assert "padding positions of input 'skip' hold 1" in capsys.readouterr().out


@pytest.mark.parametrize(("factory", "harmless_pad"), [("mask_of_padding", 1), ("mask_of_tokens", 0)])
@pytest.mark.parametrize("declared", ["padding_mask:bool", "mask:int64", "attention:bool"])
def test_what_a_mask_means_is_not_guessed_from_its_name(factory, harmless_pad, declared, capsys):
    ids, mask, extra = "ids:int64:batch,sequence:0..9", f"{declared}:batch,sequence:0..1", ("--sequence", "2,4,8")
    for pad in (0, 1):
        assert run(*user_arguments(factory, ids, f"{mask}:pad={pad}", extra=extra)) == 0
        assert description()["buckets"].get("sequence_padding") == (None if pad == harmless_pad else "exact")
    assert run(*user_arguments(factory, ids, mask, extra=extra)) == 0
    assert "sequence_padding" not in description()["buckets"]
    assert description()["inputs"][1]["pad"] == harmless_pad


def test_float_inputs_are_drawn_from_their_range():
    assert claims("Logarithm", "p:float32:batch,4:0.01..1")["inputs"][0]["range"] == [0.01, 1.0]
    assert run(*user_arguments("Logarithm", "p:float32:batch,4", file="user_claims")) == 1


def test_a_model_without_a_batch_dimension_serves_one_at_a_time(capsys):
    arguments = user_arguments("OneAtATime", "x:float32:1,3,8")
    assert run(*arguments, "--batch", "1") == 0
    spec = exported()[0]
    assert spec["outputs"][0]["shape"] == [1] and spec["buckets"] == {"batch": [1]} and spec["batchable"] is False
    assert run(*arguments, "--batch", "1,2") == 2
    assert "no input has a 'batch' dimension" in capsys.readouterr().err
