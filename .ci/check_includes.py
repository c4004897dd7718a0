"""Includes point down: prints every #include of a room that its room may not use, and fails when there is one.

Usage: check_includes.py [--root ROOT] FILE...     files relative to ROOT, which defaults to the current folder

A room is a folder of C++. ROOMS names for each one the rooms (or single headers) that it may include beside itself; a
folder that it does not name is an error, too, so a new one must say where it belongs. docs/architecture.md says what
the rooms are for.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path, PurePosixPath

BASE = ("base",)
SHM = ("shm", *BASE)
MODELS = ("models", *SHM)
PREDICTOR = ("predictor", *MODELS)
# The wire format is all that the controller shares with the clients.
CONFIG = ("controller/config", "client/protocol.h", *PREDICTOR)
SCHEDULE = ("controller/schedule", "controller/intake/query_table.h", "controller/workers", "controller/trace", *CONFIG)
CONTROLLER = ("controller/app", "controller/intake", *SCHEDULE)
# serve knows models by the interface in runtime/ only: what links LibTorch stays out of it.
TORCH = ("worker/torch", "worker/runtime", "worker/cuts", *MODELS)
TOP = (*CONTROLLER, "client", "predictor/train")

ROOMS: dict[str, tuple[str, ...]] = {
    "base": (),
    "shm": BASE,
    "models": SHM,
    "predictor": MODELS,
    "predictor/train": PREDICTOR,
    "client": BASE,
    "controller/config": CONFIG,
    "controller/trace": CONFIG,
    "controller/workers": CONFIG,
    "controller/intake": CONFIG,
    "controller/schedule": SCHEDULE,
    "controller/app": CONTROLLER,
    "worker/cuts": BASE,
    "worker/runtime": MODELS,
    "worker/torch": TORCH,
    "worker/cpu": TORCH,
    "worker/cuda": TORCH,
    "worker/serve": ("worker/runtime", *MODELS),
    "worker/app": ("worker/serve", "worker/cpu", "worker/cuda", *TORCH),
    "profiler": CONTROLLER,
    "tools": CONTROLLER,
    "bench": (*TOP, "tests/support"),
}
# Tests, in whatever folder below it, may look at everything.
TESTS = "tests"

INCLUDE = re.compile(r'\s*#\s*include\s*"([^"]+)"')


def complaints(root: Path, name: str) -> list[str]:
    """What is wrong with this file, as FILE:LINE: MESSAGE."""
    room = str(PurePosixPath(name).parent)
    if PurePosixPath(name).parts[0] == TESTS:
        return []
    if room not in ROOMS:
        return [f"{name}:1: the room {room}/ is not known; say in .ci/check_includes.py what it may include"]
    found = []
    for number, line in enumerate((root / name).read_text(encoding="utf-8").splitlines(), 1):
        match = INCLUDE.match(line)
        if match is None:
            continue
        header = match[1]
        target = str(PurePosixPath(header).parent)
        if target not in (room, *ROOMS[room]) and header not in ROOMS[room]:
            found.append(f"{name}:{number}: {room}/ may not include {header}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, default=Path())
    parser.add_argument("files", nargs="+")
    arguments = parser.parse_args()
    found = [line for name in arguments.files for line in complaints(arguments.root, name)]
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
