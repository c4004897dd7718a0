"""The models that can be exported by name."""

from __future__ import annotations

from functools import partial

from . import testing, text, vision
from .image import IMAGENET, Normalization
from .recipe import Recipe
from .spec import UsageError

_IMAGENET = "random weights, or torchvision's with --weights pretrained"
_SEVEN_VISION = ("resnet50", "resnet101", "resnet152", "inception_v3", "vgg16", "vgg19")
_SMALL = {"cuda": (1, 2, 4), "cpu": (1, 2, 4)}

_RECIPES = (
    Recipe(
        "efficientnet-lite0",
        "image classifier, ImageNet weights from a package",
        vision.build_efficientnet_lite0,
        auto_weights="pretrained",
        companions=(vision.LABELS_FILE,),
        normalization=Normalization((127 / 255,), (128 / 255,)),
    ),
    Recipe(
        "minilm",
        "sentence embeddings (all-MiniLM-L6-v2), weights from a package",
        text.build_minilm,
        auto_weights="pretrained",
        sequence=(16, 32, 64, 128),
        companions=(text.TOKENIZER_DIRECTORY,),
    ),
    *(
        Recipe(
            name,
            f"image classifier, {_IMAGENET}",
            partial(vision.build_torchvision, name),
            normalization=IMAGENET,
        )
        for name in _SEVEN_VISION
    ),
    Recipe(
        "bert",
        "BERT-base encoder, random weights, or bert-base-uncased with --weights pretrained",
        text.build_bert,
        sequence=(8, 16, 32, 64),
    ),
    Recipe("test-control-flow", "for tests: branch and loop", testing.build_control_flow, batch=_SMALL),
    Recipe(
        "test-multi", "for tests: several inputs and outputs", testing.build_multi, batch=_SMALL, sequence=(4, 8, 16)
    ),
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _RECIPES}
GROUPS: dict[str, tuple[str, ...]] = {
    "default": ("efficientnet-lite0", "minilm"),
    "seven": (*_SEVEN_VISION, "bert"),
    "testing": ("test-control-flow", "test-multi"),
}


def expand(names: list[str]) -> list[Recipe]:
    """Names and group names to recipes, each once, in the order given."""
    expanded: dict[str, Recipe] = {}
    for name in names:
        for member in GROUPS.get(name, (name,)):
            if member not in RECIPES:
                known = ", ".join((*RECIPES, *GROUPS))
                raise UsageError(f"unknown model {member!r}; known: {known}; for your own model see --module")
            expanded[member] = RECIPES[member]
    return list(expanded.values())
