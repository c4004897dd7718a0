"""A user's own model: a Python factory or a TorchScript file."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import os
import re
import sys
from pathlib import Path

import torch
from torch import nn

from .file_kind import file_kind
from .publish import file_digest
from .recipe import Built, Options
from .spec import ExportError, TensorSpec, UsageError, last_line

_UNKNOWN_OPERATOR = re.compile(r"Unknown builtin op: ([\w:.]*\w)")


def build_from_module(
    reference: str,
    arguments: dict[str, object],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[str, ...] | None,
    script: bool,
    options: Options,
) -> Built:
    factory = _resolve(reference)
    if arguments and isinstance(factory, nn.Module):
        raise UsageError(f"--arg: {reference} is a module that exists already; name the callable that makes it")
    torch.manual_seed(options.seed)
    try:
        module = factory if isinstance(factory, nn.Module) else factory(**arguments)
    except Exception as error:
        raise ExportError(f"--module {reference}: the factory fails ({last_line(error)})") from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"--module {reference}: gives {type(module).__name__}, not a torch.nn.Module")
    module = module.eval().to(options.device)
    if script and not isinstance(module, torch.jit.ScriptModule):
        try:
            module = torch.jit.script(module)
        except Exception as error:
            raise ExportError(f"cannot be scripted ({last_line(error)})") from error
    return Built(module, inputs, outputs)


def build_from_torchscript(
    path: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[str, ...] | None, options: Options
) -> Built:
    try:
        module = _load_torchscript(path, options)
    except (RuntimeError, ValueError) as error:
        if operator := _UNKNOWN_OPERATOR.search(str(error)):
            raise ExportError(
                f"--torchscript {path}: its operator {operator[1]} is unknown; name the library that registers it with "
                "--library FILE.so"
            ) from error
        found = file_kind(path) or last_line(error)
        raise UsageError(f"--torchscript {path}: not a readable TorchScript file ({found})") from error
    return Built(module.eval(), inputs, outputs)


def _load_torchscript(path: Path, options: Options) -> torch.jit.ScriptModule:
    try:
        return torch.jit.load(path, map_location=options.device)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    with contextlib.suppress(ImportError):  # registers torchvision's operators
        import torchvision  # noqa: F401
    return torch.jit.load(path, map_location=options.device)


def load_library(path: Path) -> None:
    """Registers the operators of a shared library in this process."""
    try:
        torch.ops.load_library(path.resolve())
    except OSError as error:
        raise UsageError(f"--library {path}: cannot be loaded ({last_line(error)})") from error


def source_digest(reference: str | None, torchscript: Path | None) -> str:
    """Identifies the code or file that a model comes from, so that a change of it is noticed."""
    source = torchscript
    if reference is not None:
        factory = _resolve(reference)
        target = factory if inspect.isroutine(factory) or inspect.isclass(factory) else type(factory)
        source = Path(inspect.getsourcefile(target) or "")
    return file_digest(source)


def parse_arguments(texts: list[str]) -> dict[str, object]:
    """NAME=VALUE of --arg. Values are Python literals, true and false; other text is a string."""
    arguments: dict[str, object] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or not name.isidentifier():
            raise UsageError(f"--arg {text!r}: expected NAME=VALUE, such as pretrained=false")
        if name in arguments:
            raise UsageError(f"--arg {text!r}: {name} is given twice")
        try:
            arguments[name] = {"true": True, "false": False}[value]
        except KeyError:
            try:
                arguments[name] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                arguments[name] = value
    return arguments


def _resolve(reference: str) -> object:
    module_name, separator, attribute = reference.partition(":")
    if not separator or not module_name or not attribute:
        raise UsageError(f"--module {reference!r}: expected package.module:factory")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        target: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--module {reference}: cannot import {module_name} (there is no module {error.name!r}). Searched are the "
            f"current directory, PYTHONPATH, --path DIR and what is installed: {sys.executable} -m pip install PACKAGE"
        ) from error
    except Exception as error:  # the module's own code runs here
        raise UsageError(f"--module {reference}: cannot import {module_name} ({last_line(error)})") from error
    for part in attribute.split("."):
        if not hasattr(target, part):
            raise UsageError(f"--module {reference}: {module_name} has no {attribute}")
        target = getattr(target, part)
    return target
