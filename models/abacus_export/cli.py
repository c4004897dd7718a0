"""The command line of models/export.py."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import time
from functools import partial
from pathlib import Path

import torch

from . import catalogue, user
from .image import Normalization, of_pixels
from .pipeline import export
from .publish import file_digest, is_current
from .recipe import Options, Order, Recipe
from .spec import (
    MAX_MODEL_NAME_BYTES,
    ExportError,
    UsageError,
    check_name,
    last_line,
    parse_input,
)
from .worker import VARIABLE, find_worker

# Part of the digest in NAME.toml: raise it when the same arguments should give other files than before.
EXPORT_VERSION = 4


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        if args.list:
            _list_models()
            return 0
        for path in args.path:
            sys.path.append(os.path.abspath(path))
        for library in args.library:
            user.load_library(library)
        jobs = _jobs(args)
        worker = None if args.no_worker else find_worker(args.worker)
        for recipe, weights, identity in jobs:
            _export(recipe, weights, identity, worker, args)
        return 0
    except UsageError as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    except ExportError as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    except (OSError, RuntimeError) as error:  # disk full, out of GPU memory and the like
        print(f"export: {last_line(error)}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="export.py",
        description="Export models for Abacus into a directory: NAME.toml, and the TorchScript that it names.",
        epilog="Examples:  export.py default        export.py seven --device cuda        "
        'export.py --module my_models:make --name mine --input "x:float32:batch,3,64,64"',
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="model or group (see --list)")
    parser.add_argument("--list", action="store_true", help="list the models and groups known by name")
    parser.add_argument("--out", type=Path, default=Path("models/store"), help="directory (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: fp16, channels-last")
    parser.add_argument("--weights", choices=("auto", "random", "pretrained"), default="auto")
    parser.add_argument("--batch", type=_sizes, help="batch sizes of the buckets, e.g. 1,2,4")
    parser.add_argument("--sequence", type=_sizes, help="sequence lengths of the buckets, e.g. 16,32")
    parser.add_argument("--seed", type=int, default=0, help="of random weights and of the verification's inputs")
    parser.add_argument(
        "--image",
        choices=("uint8",),
        help="image inputs take pixels, uint8 [batch, height, width, channels]; the normalisation moves into the model",
    )
    parser.add_argument(
        "--allow-padding",
        action="store_true",
        help="serve sequences of all lengths, though padding changes the answers",
    )
    worker = parser.add_mutually_exclusive_group()
    worker.add_argument(
        "--worker",
        type=Path,
        metavar="PATH",
        help=f"program that loads the files before they count (default: ${VARIABLE}, else build/bin/abacus-worker)",
    )
    worker.add_argument("--no-worker", action="store_true", help="do without: what the worker refuses is written, too")
    parser.add_argument("--force", action="store_true", help="export even when the files are current")
    own = parser.add_argument_group("your own model")
    source = own.add_mutually_exclusive_group()
    source.add_argument("--module", metavar="PACKAGE.MODULE:FACTORY", help="callable that returns a torch.nn.Module")
    source.add_argument("--torchscript", type=Path, metavar="FILE", help="TorchScript file")
    own.add_argument("--name", help="name of the model")
    own.add_argument(
        "--input",
        action="append",
        metavar="NAME:DTYPE:SHAPE[:LOW..HIGH][:pad=N]",
        help="one per input, in order, e.g. ids:int64:batch,sequence:0..30521",
    )
    own.add_argument("--output", nargs="+", metavar="NAME", help="names of the outputs, in order")
    own.add_argument(
        "--arg",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="argument of the factory, e.g. pretrained=false; a Python literal, else a string",
    )
    own.add_argument(
        "--depends",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="file that the model is made from, e.g. its weights: exported again when it changes",
    )
    own.add_argument(
        "--library",
        action="append",
        default=[],
        type=Path,
        metavar="FILE.so",
        help="shared library with operators that the model needs; copied beside it (torchvision's are there)",
    )
    own.add_argument(
        "--path", action="append", default=[], type=Path, metavar="DIR", help="where else to look for --module"
    )
    for option in ("--mean", "--std"):
        own.add_argument(
            option,
            type=_floats,
            metavar="X,X,X",
            help=f"of --image uint8: {option[2:]} of the channels, as for torchvision's Normalize()",
        )
    own.add_argument("--script", action="store_true", help="script instead of trace (modules with control flow)")
    return parser


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        sizes = ()
    if not sizes or sizes[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of positive numbers such as 1,2,4")
    return sizes


def _floats(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or not all(map(math.isfinite, numbers)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 0.485,0.456,0.406")
    return numbers


def _jobs(args: argparse.Namespace) -> list[tuple[Recipe, str, dict[str, object]]]:
    """What to export: recipe, weights, and what identifies the result beside the common arguments."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ExportError("--device cuda: PyTorch finds no GPU here; use --device cpu, or a CUDA build of PyTorch")
    if args.module is None and args.torchscript is None:
        options = ("name", "input", "output", "arg", "depends", "library", "path", "mean", "std", "script")
        own = [f"--{name}" for name in options if getattr(args, name)]
        if own:
            raise UsageError(f"{', '.join(own)}: only with --module or --torchscript")
        if not args.names:
            raise UsageError("nothing to export: name a model or a group, or use --list, --module or --torchscript")
        recipes = catalogue.expand(args.names)
        if args.image and not any(recipe.normalization for recipe in recipes):
            raise UsageError(f"--image {args.image}: takes pixels, and none of these models takes images")
        return [(r, r.auto_weights if args.weights == "auto" else args.weights, {}) for r in recipes]
    if args.names:
        raise UsageError(f"{args.names[0]}: names and --module/--torchscript do not go together; use --name")
    if args.weights != "auto":
        raise UsageError("--weights: only for models known by name; your own model brings its weights")
    if not args.name or not args.input:
        raise UsageError("--module and --torchscript need --name and one --input per input")
    check_name(args.name, "model name", MAX_MODEL_NAME_BYTES)
    inputs = tuple(parse_input(text) for text in args.input)
    if len({tensor.name for tensor in inputs}) < len(inputs):
        raise UsageError("--input: two inputs have the same name")
    normalization = _normalization(args)
    outputs = tuple(args.output) if args.output else None
    arguments = user.parse_arguments(args.arg)
    if arguments and not args.module:
        raise UsageError("--arg: only with --module, whose factory gets it")
    if args.module:
        build = partial(user.build_from_module, args.module, arguments, inputs, outputs, args.script)
    else:
        build = partial(user.build_from_torchscript, args.torchscript, inputs, outputs)
    identity = {
        "source": user.source_digest(args.module, args.torchscript),
        "factory": args.module,
        "arguments": args.arg,
        "depends": [(str(path), file_digest(path)) for path in args.depends],
        "libraries": [file_digest(path) for path in args.library],
        "inputs": args.input,
        "outputs": args.output,
        "script": args.script,
    }
    return [(Recipe(args.name, "", build, normalization=normalization), "own", identity)]


def _normalization(args: argparse.Namespace) -> Normalization | None:
    if not args.image:
        if args.mean or args.std:
            raise UsageError("--mean and --std: only with --image uint8")
        return None
    if not args.mean or not args.std:
        raise UsageError(
            "--image uint8 needs --mean and --std, which the model was trained with, such as --mean 0.485,0.456,0.406 "
            "--std 0.229,0.224,0.225; --mean 0 --std 1 is ToTensor() alone"
        )
    if min(args.std) <= 0:
        raise UsageError(f"--std: {min(args.std):g} is not more than 0")
    return Normalization(args.mean, args.std)


def _export(
    recipe: Recipe, weights: str, identity: dict[str, object], worker: Path | None, args: argparse.Namespace
) -> None:
    batch = args.batch or recipe.batch[args.device]
    # --sequence given for a group concerns those of its models that have a sequence dimension.
    sequence = (args.sequence or recipe.sequence) if recipe.sequence or weights == "own" else ()
    normalization = recipe.normalization if args.image else None
    if normalization is not None:
        identity = identity | {"image": [args.image, normalization.mean, normalization.std]}
    made_by = _made_by(
        identity
        | {
            "version": EXPORT_VERSION,
            "torch": torch.__version__,
            "name": recipe.name,
            "device": args.device,
            "weights": weights,
            "batch": batch,
            "sequence": sequence,
            "seed": args.seed,
            "allow_padding": args.allow_padding,
            "worker": worker is not None,
        }
    )
    companions = recipe.companions if weights == "pretrained" else ()
    if not args.force and is_current(args.out, recipe.name, companions, made_by):
        print(f"{recipe.name}: up to date in {args.out} (--force exports it again)", flush=True)
        return

    def progress(line: str) -> None:
        print(f"{recipe.name}: {line}", flush=True)

    start = time.monotonic()
    progress(f"building on {args.device}" + ("" if weights == "own" else f", {weights} weights"))
    device = torch.device(args.device)
    order = Order(
        recipe.name, batch, sequence, device, args.seed, args.out, made_by, worker, tuple(args.library),
        args.allow_padding,
    )  # fmt: skip
    try:
        built = recipe.build(Options(device, weights, args.seed))
        if normalization is not None:
            built = of_pixels(built, normalization, device)
        spec = export(built, order, progress)
    except ExportError as error:
        raise type(error)(f"{recipe.name}: {error}") from error
    megabytes = (args.out / spec.file).stat().st_size / 1e6
    progress(
        f"wrote {args.out}/{recipe.name}.toml and {spec.file} ({megabytes:.1f} MB) in {time.monotonic() - start:.1f} s"
    )


def _made_by(identity: dict[str, object]) -> str:
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return f"models/export.py, arguments {digest}"


def _list_models() -> None:
    for recipe in catalogue.RECIPES.values():
        print(f"{recipe.name:20} {recipe.summary}")
    for name, members in catalogue.GROUPS.items():
        print(f"{name + ' (group)':20} {' '.join(members)}")
