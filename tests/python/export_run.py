"""Runs models/export.py in this process, on the small models of user_models.py and user_claims.py."""

from __future__ import annotations

import importlib
import os
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from abacus_export import cli
from abacus_export.worker import VARIABLE

HERE = Path(__file__).parent
USER_FILES = ("user_models", "user_claims")


@pytest.fixture(autouse=True)
def user_folder(monkeypatch, tmp_path):
    """--module finds what lies in the current directory."""
    monkeypatch.chdir(tmp_path)
    for name in USER_FILES:
        (tmp_path / f"{name}.py").write_text((HERE / f"{name}.py").read_text())
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)


def run(*args: str) -> int:
    """With the worker program where there is one."""
    worker = () if os.environ.get(VARIABLE) else ("--no-worker",)
    return cli.main([*args, *worker, "--out", "out"])


def description(name: str = "mine") -> dict:
    return tomllib.loads(Path(f"out/{name}.toml").read_text())


def exported(name: str = "mine") -> tuple[dict, torch.jit.ScriptModule]:
    return description(name), torch.jit.load(f"out/{description(name)['file']}")


def user_model(name: str, file: str = "user_models") -> type:
    return getattr(importlib.import_module(file), name)


def user_arguments(module: str, *inputs: str, extra: tuple[str, ...] = (), file: str = "user_models") -> list[str]:
    declared = [part for text in inputs for part in ("--input", text)]
    return ["--module", f"{file}:{module}", "--name", "mine", *declared, *extra]


def line_of(text: str, file: str = "user_models") -> str:
    """FILE:LINE of the only line of the user's models that holds this."""
    lines = Path(f"{file}.py").read_text().splitlines()
    (number,) = [i for i, line in enumerate(lines, start=1) if text in line]
    return f"{file}.py:{number}"
