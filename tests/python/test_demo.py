"""What the demo checks, on made-up answers."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import demo
import numpy as np
import pytest
from abacus_client import Result, Timing


def answered(what: str, output: str, values: np.ndarray) -> demo.Query:
    result = Result({output: values}, {output: str(values.dtype)}, Timing(rounds=1), "m")
    return demo.Query(what, {"x": np.zeros(1, np.float32)}, Future(), result=result)


def test_a_wrong_label_is_noticed(capsys):
    logits = np.zeros((1, 2), np.float16)
    logits[0, 1] = 9
    demo.check_labels([answered("coffee.png", "logits", logits)], ["tripod", "espresso"])
    assert "espresso" in capsys.readouterr().out
    with pytest.raises(demo.DemoError, match=r"coffee.png was taken for 'tripod'"):
        demo.check_labels([answered("coffee.png", "logits", -logits)], ["tripod", "espresso"])


def test_a_wrong_similarity_is_noticed():
    axes = np.eye(3, dtype=np.float32)
    right = [answered(s, "embedding", axes[i : i + 1]) for i, pair in enumerate(demo.PARAPHRASES) for s in pair]
    demo.check_similarities(right)
    swapped = [answered(query.what, "embedding", axes[i % 3][np.newaxis]) for i, query in enumerate(right)]
    with pytest.raises(demo.DemoError, match="no more than an unrelated pair"):
        demo.check_similarities(swapped)


def test_a_failed_query_is_noticed():
    query = answered("x", "y", np.zeros(1))
    query.future.set_exception(demo.AbacusError("OVERLOADED", "queue is full"))
    query.done.set()
    with pytest.raises(demo.DemoError, match=r"1 of 1 queries failed.*queue is full"):
        demo.wait_for([query])


def test_the_cpp_client_must_give_the_same_answer_up_to_rounding(tmp_path: Path):
    query = answered("a photograph", "y", np.arange(3, dtype=np.float32))
    np.save(tmp_path / "y.npy", query.result.outputs["y"])
    client = tmp_path / "client"
    # The folder for the outputs is the argument after --output-dir, the seventh.
    client.write_text(f'#!/bin/sh\ncp {tmp_path}/y.npy "$7"\n')
    client.chmod(0o755)
    demo.compare_with_cpp(client, "tcp://nowhere:1", "m", query)

    np.save(tmp_path / "y.npy", np.nextafter(query.result.outputs["y"], np.float32(9)))
    demo.compare_with_cpp(client, "tcp://nowhere:1", "m", query)
    np.save(tmp_path / "y.npy", query.result.outputs["y"] * np.float32(1.01))
    with pytest.raises(demo.DemoError, match="differs"):
        demo.compare_with_cpp(client, "tcp://nowhere:1", "m", query)
    client.write_text("#!/bin/sh\necho no such server >&2; exit 3\n")
    with pytest.raises(demo.DemoError, match="no such server"):
        demo.compare_with_cpp(client, "tcp://nowhere:1", "m", query)
    with pytest.raises(demo.DemoError, match="cannot be run"):
        demo.compare_with_cpp(tmp_path / "none", "tcp://nowhere:1", "m", query)
