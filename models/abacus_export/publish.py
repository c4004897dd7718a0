"""The files of an export: made in a directory of their own, then put in place one by one by renaming.

A model file is named by its content, so that no export ever changes one that a description names or a program holds
open. The description follows, which makes the new files count all at once. The files of the description before stay
until the next export: a controller that starts meanwhile may have read it and not opened them yet.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

from .spec import Library, ModelSpec, UsageError, made_by_of, to_toml

_DIGITS = 12


class Files:
    """What is to be published, under its final names in a temporary directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._added: list[str] = []
        self.companions = directory / "companions"
        self.companions.mkdir()

    def path(self, file: str) -> Path:
        return self._directory / file

    def add(self, suffix: str, write: Callable[[Path], None]) -> str:
        """Name of the file that `write` makes."""
        temporary = self._directory / f"model.{suffix}"
        write(temporary)
        file = f"{self._name}.{file_digest(temporary)[:_DIGITS]}.{suffix}"
        os.replace(temporary, self.path(file))
        self._added.append(file)
        return file

    def add_library(self, path: Path) -> Library:
        file = self.add("so", lambda target: shutil.copyfile(path, target))
        return Library(file, file_digest(self.path(file)))

    def describe(self, spec: ModelSpec, made_by: str) -> Path:
        description = self.path(f"{self._name}.toml")
        description.write_text(to_toml(spec, made_by), encoding="utf-8")
        return description

    def move_to(self, out: Path) -> None:
        for path in sorted(self.companions.rglob("*")):
            target = out / path.relative_to(self.companions)
            if path.is_dir():
                target.mkdir(exist_ok=True)
            else:
                os.replace(path, target)
        for file in self._added:
            os.replace(self.path(file), out / file)
        os.replace(self.path(f"{self._name}.toml"), out / f"{self._name}.toml")


def publish(files: Files, spec: ModelSpec, out: Path) -> None:
    with _locked(out):
        named = {spec.file, *(library.file for library in spec.libraries)}
        with contextlib.suppress(OSError, ValueError, KeyError):
            named.update(_files_of((out / f"{spec.name}.toml").read_text(encoding="utf-8")))
        files.move_to(out)
        pattern = re.compile(rf"{re.escape(spec.name)}\.[0-9a-f]{{{_DIGITS}}}\.(pt|so)")
        for path in out.iterdir():
            if pattern.fullmatch(path.name) and path.name not in named:
                path.unlink(missing_ok=True)


def _files_of(description: str) -> list[str]:
    """The files that a description names. Raises ValueError or KeyError for what is none."""
    fields = tomllib.loads(description)
    return [fields["file"], *(library["file"] for library in fields.get("libraries", []))]


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keeps out another export of the same model, whose files would count as left over."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_current(out: Path, name: str, companions: tuple[str, ...], made_by: str) -> bool:
    """Whether these arguments made what is there, and all of it is."""
    try:
        text = (out / f"{name}.toml").read_text(encoding="utf-8")
        if made_by_of(text) != made_by:
            return False
        files = _files_of(text)
    except (OSError, ValueError, KeyError):
        return False
    return all((out / file).exists() for file in (*files, *companions))


def file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
