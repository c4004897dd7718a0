"""Has the worker program load what was exported: what it refuses is not written."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import torch

from .recipe import Progress
from .spec import ExportError, UsageError

VARIABLE = "ABACUS_WORKER"
_ROOT = Path(__file__).resolve().parents[2]
_TIMEOUT_S = 1800
_SHOWN_CHARACTERS = 1000


def find_worker(given: Path | None) -> Path:
    """The program that the user named, or that of this clone's build."""
    named = given or Path(os.environ.get(VARIABLE) or _ROOT / "build" / "bin" / "abacus-worker")
    if not os.access(named, os.X_OK) or named.is_dir():
        raise UsageError(
            f"there is no worker program {named}, which verifies what is exported: build it with ./mps.sh setup, name "
            f"one with --worker PATH or ${VARIABLE}, or say --no-worker to export without it"
        )
    return named.absolute()


def verify_in_worker(worker: Path, description: Path, device: torch.device, progress: Progress) -> None:
    command = [str(worker), "verify", "--model", str(description), "--device", device.type, "--json"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S
        )
    except OSError as error:
        raise ExportError(f"cannot run the worker program {worker}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"the worker program {worker} did not load the model within {_TIMEOUT_S} s") from error
    if done.returncode == 0:
        for line in filter(None, done.stderr.splitlines()):
            progress(line)
        return
    said = " ".join((done.stderr.strip() or done.stdout.strip()).split()).replace(f"{description.parent}{os.sep}", "")
    if len(said) > _SHOWN_CHARACTERS:
        said = "... " + said[-_SHOWN_CHARACTERS:]  # what was refused stands last
    if done.returncode == 2:
        raise ExportError(f"the worker refuses it: {said}")
    ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    said = said or "no message"
    raise ExportError(f"the worker program {worker} ended with {ended} when it loaded the model: {said}")
