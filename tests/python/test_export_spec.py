"""NAME.toml and the command line's input declarations."""

from __future__ import annotations

import tomllib

import pytest
from abacus_export.spec import ModelSpec, TensorSpec, UsageError, made_by_of, parse_input, to_toml


def test_the_toml_reads_back():
    spec = ModelSpec(
        name="minilm",
        tolerance=1e-3,
        inputs=(
            TensorSpec("input_ids", "int64", ("batch", "sequence"), (0, 30521), 3),
            TensorSpec("image", "float16", ("batch", 3, 224, 224)),
        ),
        outputs=(TensorSpec("hidden", "float32", ("batch", "sequence", 8)),),
        batch=(1, 2, 4),
        sequence=(16, 32),
    )
    text = to_toml(spec, "models/export.py, arguments 0123")
    assert tomllib.loads(text) == {
        "name": "minilm",
        "file": "minilm.pt",
        "tolerance": 1e-3,
        "buckets": {"batch": [1, 2, 4], "sequence": [16, 32]},
        "inputs": [
            {"name": "input_ids", "dtype": "int64", "shape": ["batch", "sequence"], "range": [0, 30521], "pad": 3},
            {"name": "image", "dtype": "float16", "shape": ["batch", 3, 224, 224]},
        ],
        "outputs": [{"name": "hidden", "dtype": "float32", "shape": ["batch", "sequence", 8]}],
    }
    assert made_by_of(text) == "models/export.py, arguments 0123"
    assert made_by_of('name = "x"') is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x:float32:batch,3,224,224", TensorSpec("x", "float32", ("batch", 3, 224, 224))),
        ("ids:int64:batch,sequence:0..30521", TensorSpec("ids", "int64", ("batch", "sequence"), (0, 30521))),
        ("ids:int32:batch,sequence:-5..-1", TensorSpec("ids", "int32", ("batch", "sequence"), (-5, -1), -1)),
        ("ids:int32:batch,sequence:1..9:pad=4", TensorSpec("ids", "int32", ("batch", "sequence"), (1, 9), 4)),
        ("flag:bool:batch", TensorSpec("flag", "bool", ("batch",))),
    ],
)
def test_inputs_are_parsed(text, expected):
    assert parse_input(text) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x:float32", "expected NAME:DTYPE:SHAPE"),
        ("x:float31:batch", "unknown dtype"),
        ("x y:float32:batch", "letters, digits"),
        ("x:float32:3,batch", "first dimension"),
        ("x:float32:batch,-1", "'-1'"),
        ("x:float32:batch,0", "'0'"),
        ("x:int64:batch,sequence,sequence", "once"),
        ("x:float32:batch,1,1,1,1,1,1,1,1", "at most 8"),
        ("x:float32:batch:0..1", "integer inputs"),
        ("x:uint8:batch:0..256", "within uint8"),
        ("x:int64:batch:5..4", "ascending"),
        ("x:int64:batch,sequence:1..4:pad=0", "outside the range"),
        ("x:int64:batch:low", "neither LOW..HIGH nor pad=N"),
    ],
)
def test_wrong_inputs_are_explained(text, complaint):
    with pytest.raises(UsageError, match=complaint):
        parse_input(text)
