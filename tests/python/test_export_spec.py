"""NAME.toml and the command line's input declarations."""

from __future__ import annotations

import tomllib

import pytest
from abacus_export.spec import Library, ModelSpec, TensorSpec, UsageError, made_by_of, parse_input, to_toml


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
        file="minilm.0123456789ab.pt",
    )
    text = to_toml(spec, "models/export.py, arguments 0123")
    assert tomllib.loads(text) == {
        "name": "minilm",
        "file": "minilm.0123456789ab.pt",
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


def test_claims_ranges_and_libraries_read_back():
    spec = ModelSpec(
        name="claims",
        tolerance=1e-3,
        inputs=(
            TensorSpec("x", "float32", ("batch", "sequence"), (1e-05, 2000.0)),
            TensorSpec("lengths", "int32", ("batch",), (1, "sequence")),
        ),
        outputs=(TensorSpec("y", "float32", ("batch",)),),
        batch=(4,),
        sequence=(16,),
        file="claims.0123456789ab.pt",
        batchable=False,
        sequence_padding="exact",
        libraries=(Library("claims.ab.so", "ab" * 32), Library("claims.cd.so", "cd" * 32)),
    )
    read = tomllib.loads(to_toml(spec, ""))
    assert read["batchable"] is False
    assert read["buckets"] == {"batch": [4], "sequence": [16], "sequence_padding": "exact"}
    assert [tensor["range"] for tensor in read["inputs"]] == [[1e-05, 2000.0], [1, "sequence"]]
    assert "pad" not in read["inputs"][0]  # of a float it is zero, moved into the range
    assert [library["sha256"] for library in read["libraries"]] == ["ab" * 32, "cd" * 32]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x:float32:batch,3,224,224", TensorSpec("x", "float32", ("batch", 3, 224, 224))),
        ("ids:int64:batch,sequence:0..30521", TensorSpec("ids", "int64", ("batch", "sequence"), (0, 30521))),
        ("ids:int32:batch,sequence:-5..-1", TensorSpec("ids", "int32", ("batch", "sequence"), (-5, -1))),
        ("ids:int32:batch,sequence:1..9:pad=4", TensorSpec("ids", "int32", ("batch", "sequence"), (1, 9), 4)),
        ("flag:bool:batch", TensorSpec("flag", "bool", ("batch",))),
        ("p:float32:batch:0.01..1", TensorSpec("p", "float32", ("batch",), (0.01, 1.0))),
        ("p:float64:batch:-1.5..2e3", TensorSpec("p", "float64", ("batch",), (-1.5, 2000.0))),
        ("p:float16:batch:.5...75", TensorSpec("p", "float16", ("batch",), (0.5, 0.75))),
        ("n:int64:batch:1..SEQUENCE", TensorSpec("n", "int64", ("batch",), (1, "sequence"))),
        ("n:int64:batch:0..sequence", TensorSpec("n", "int64", ("batch",), (0, "sequence"))),
    ],
)
def test_inputs_are_parsed(text, expected):
    assert parse_input(text) == expected


@pytest.mark.parametrize(
    ("text", "padding"),
    [
        ("ids:int64:batch,sequence", 0),
        ("ids:int64:batch,sequence:-5..-1", -1),
        ("ids:int64:batch,sequence:3..9", 3),
        ("ids:int64:batch,sequence:3..9:pad=4", 4),
        ("ids:int64:batch,sequence:1..SEQUENCE", 1),
        ("p:float32:batch,sequence:0.01..1", 0.01),
        ("p:float32:batch,sequence:-2..-1", -1.0),
    ],
)
def test_padding_is_zero_moved_into_the_range(text, padding):
    assert parse_input(text).padding == padding


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x:float32", "expected NAME:DTYPE:SHAPE"),
        ("x:float31:batch", "unknown dtype"),
        ("x y:float32:batch", "letters, digits"),
        ("x:float32:3,batch", "first dimension"),
        ("x:float32:batch,-1", "'-1'"),
        ("x:float32:batch,0", "'0'"),
        ("x:float32:batch,9999999999", "'9999999999'"),
        ("x:int64:batch,sequence,sequence", "once"),
        ("x:float32:batch,1,1,1,1,1,1,1,1", "at most 8"),
        ("x:float32:batch:1..0.5", "ascending and within float32"),
        ("x:float16:batch:0..1e6", "ascending and within float16"),
        ("x:float32:batch:0..inf", "neither LOW..HIGH nor pad=N"),
        ("x:float32:batch,sequence:0..1:pad=1", "floats are padded with zero"),
        ("x:float32:batch:1..SEQUENCE", "for integer inputs"),
        ("x:int64:batch:2..SEQUENCE", "at most 1"),
        ("x:int64:batch:0.5..3", "takes integers"),
        ("x:uint8:batch:0..256", "within uint8"),
        ("x:int64:batch:5..4", "ascending"),
        ("x:int64:batch,sequence:1..4:pad=0", "outside the range"),
        ("x:int64:batch,sequence:1..SEQUENCE:pad=2", "outside the range"),
        ("x:int64:batch:1..4:pad=1", "with a 'sequence' dimension"),
        ("x:int64:batch:low", "neither LOW..HIGH nor pad=N"),
    ],
)
def test_wrong_inputs_are_explained(text, complaint):
    with pytest.raises(UsageError, match=complaint):
        parse_input(text)
