#!/usr/bin/env python3
"""Serves real inputs: photographs to efficientnet-lite0 and sentences to minilm, both at the same time.

Checks what comes back (labels, similarities, and that the C++ client gets the same) and exits with 1 when anything is
wrong or missing. Needs a running controller with both models; `./mps.sh demo` starts one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from abacus_client import AbacusError, Client, ModelDescription, Result
from abacus_client.durations import parse_duration

CLASSIFIER = "efficientnet-lite0"
EMBEDDER = "minilm"

# Photographs that scikit-image brings along, with the ImageNet labels that are right for what they show.
PHOTOGRAPHS = {
    "coffee.png": ("espresso", "cup", "coffee mug"),
    "chelsea.png": ("tabby", "tiger cat", "Egyptian cat"),
    "camera.png": ("tripod",),  # a man behind a film camera on its tripod
    "rocket.jpg": ("missile", "projectile"),  # ImageNet has no rocket of its own
    "motorcycle_left.png": ("moped", "motor scooter"),  # nor a motorcycle
}

# Each pair says the same in other words; sentences of different pairs have nothing to do with each other.
PARAPHRASES = (
    ("A man is playing the guitar on a stage.", "Someone performs music with a guitar in front of an audience."),
    (
        "Share prices fell sharply today.",
        "The stock market dropped steeply this afternoon, and investors lost a lot of money.",
    ),
    ("How can I reset my password?", "I forgot my password and need to recover my account."),
)


class DemoError(Exception):
    """Something is wrong; the message says what."""


@dataclass
class Query:
    what: str
    inputs: dict[str, np.ndarray]
    future: Future[Result]
    done: threading.Event = field(default_factory=threading.Event)
    latency_ms: float = 0.0  # as the client sees it; set before `done`
    result: Result | None = None


def same_answer(actual, expected):
    """Integers are equal; floats up to rounding, which depends on the batch that a query ran in."""
    if not np.issubdtype(expected.dtype, np.floating):
        return np.array_equal(actual, expected)
    actual, expected = actual.astype(np.float64), expected.astype(np.float64)
    scale = np.abs(expected).max(initial=0.0)
    return np.allclose(actual, expected, rtol=0, atol=1e-3 * scale, equal_nan=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--address", default="tcp://127.0.0.1:5570", help="of the controller (default: %(default)s)")
    parser.add_argument("--models", type=Path, default=Path("models/store"), help="where export.py wrote the models")
    parser.add_argument(
        "--client", type=Path, help="abacus-client, the C++ client; without it that comparison is left out"
    )
    parser.add_argument(
        "--wait", type=seconds, default="3min", help="longest wait for both models to be ready (default: %(default)s)"
    )
    parser.add_argument("--wait-s", dest="wait", type=float, help="the same as a number of seconds")
    args = parser.parse_args()
    try:
        with Client(args.address, connect_timeout_s=30, receive_timeout_s=60) as client:
            run(client, args)
    except (DemoError, AbacusError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print("demo: all labels, similarities and outputs are right; no query was lost")
    return 0


def seconds(text: str) -> float:
    return parse_duration(text) / 1e9


def run(client: Client, args: argparse.Namespace) -> None:
    models = wait_until_ready(client, args.wait)
    labels = (args.models / f"{CLASSIFIER}.labels.txt").read_text(encoding="utf-8").splitlines()
    image_dtype = models[CLASSIFIER].inputs[0].dtype
    tokenize = load_tokenizer(args.models / f"{EMBEDDER}.tokenizer")

    # All inputs are ready before the first query leaves, so that both models really work at the same time.
    images = {name: photograph(name).astype(image_dtype) for name in PHOTOGRAPHS}
    sentences = {sentence: tokenize(sentence) for pair in PARAPHRASES for sentence in pair}
    photo_queries = [submit(client, CLASSIFIER, name, {"image": image}) for name, image in images.items()]
    text_queries = [submit(client, EMBEDDER, sentence, inputs) for sentence, inputs in sentences.items()]
    wait_for(photo_queries + text_queries)

    check_labels(photo_queries, labels)
    check_similarities(text_queries)
    print_timings(photo_queries + text_queries)
    if args.client is not None:
        compare_with_cpp(args.client, args.address, CLASSIFIER, photo_queries[0])
        compare_with_cpp(args.client, args.address, EMBEDDER, text_queries[0])


def wait_until_ready(client: Client, wait_s: float) -> dict[str, ModelDescription]:
    deadline = time.monotonic() + wait_s
    while True:
        services = {service.name: service for service in client.health().services}
        for name in (CLASSIFIER, EMBEDDER):
            if name not in services:
                raise DemoError(f"the controller does not serve {name}; it serves {', '.join(services) or 'nothing'}")
            if services[name].state == "failed":
                raise DemoError(f"{name} failed to start: {services[name].message}")
        if all(services[name].state == "ready" for name in (CLASSIFIER, EMBEDDER)):
            return {model.name: model for model in client.models()}
        if time.monotonic() > deadline:
            states = ", ".join(f"{name} is {services[name].state}" for name in (CLASSIFIER, EMBEDDER))
            raise DemoError(f"not ready after {wait_s:g} s: {states}")
        time.sleep(0.2)


def photograph(name: str) -> np.ndarray:
    """Preprocessing of EfficientNet-Lite: centre crop, 224 x 224 bicubic, (x - 127) / 128, channels first."""
    import skimage

    image = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
    side = round(min(image.size) * 224 / (224 + 32))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.resize((224, 224), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    pixels = (np.asarray(image, dtype=np.float32) - 127.0) / 128.0
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[np.newaxis])


def load_tokenizer(directory: Path):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_padding()  # Abacus pads to its bucket

    def tokenize(sentence: str) -> dict[str, np.ndarray]:
        encoding = tokenizer.encode(sentence)
        return {
            "input_ids": np.array([encoding.ids], dtype=np.int64),
            "attention_mask": np.array([encoding.attention_mask], dtype=np.int64),
        }

    return tokenize


def submit(client: Client, model: str, what: str, inputs: dict[str, np.ndarray]) -> Query:
    sent = time.monotonic()
    query = Query(what, inputs, client.submit(model, inputs))

    def note_latency(_: Future[Result]) -> None:
        query.latency_ms = (time.monotonic() - sent) * 1e3
        query.done.set()

    query.future.add_done_callback(note_latency)
    return query


def wait_for(queries: list[Query]) -> None:
    errors = []
    for query in queries:
        query.done.wait()
        try:
            query.result = query.future.result()
        except AbacusError as error:
            errors.append(f"{query.what}: {error}")
    if errors:
        raise DemoError(f"{len(errors)} of {len(queries)} queries failed: " + "; ".join(errors))


def check_labels(queries: list[Query], labels: list[str]) -> None:
    print(f"\n{'Photograph':<22} {'Label':<16} {'Probability':>11}")
    wrong = []
    for query in queries:
        logits = query.result.outputs["logits"][0].astype(np.float32)
        probabilities = np.exp(logits - logits.max())
        probabilities /= probabilities.sum()
        label = labels[int(probabilities.argmax())]
        print(f"{query.what:<22} {label:<16} {probabilities.max():>11.3f}")
        if label not in PHOTOGRAPHS[query.what]:
            wrong.append(f"{query.what} was taken for {label!r}, expected one of {PHOTOGRAPHS[query.what]}")
    if wrong:
        raise DemoError("wrong label: " + "; ".join(wrong))


def check_similarities(queries: list[Query]) -> None:
    embeddings = {query.what: query.result.outputs["embedding"][0].astype(np.float32) for query in queries}
    scores = {(a, b): float(embeddings[a] @ embeddings[b]) for a, b in combinations(embeddings, 2)}
    print(f"\n{'Similarity':>10}  {'Pair':<11} Sentences")
    for pair, score in sorted(scores.items(), key=lambda item: -item[1]):
        kind = "paraphrase" if pair in PARAPHRASES else "unrelated"
        print(f"{score:>10.3f}  {kind:<11} {shorten(pair[0], 42)} | {shorten(pair[1], 42)}")
    lowest = min(scores[pair] for pair in PARAPHRASES)
    highest = max(score for pair, score in scores.items() if pair not in PARAPHRASES)
    if lowest <= highest:
        raise DemoError(f"a paraphrase scores {lowest:.3f}, no more than an unrelated pair with {highest:.3f}")


def print_timings(queries: list[Query]) -> None:
    print(
        f"\n{'Milliseconds':<32} {'latency':>8} {'queued':>8} {'executed':>9} {'total':>8} "
        f"{'predicted':>10} {'rounds':>7}"
    )
    for query in queries:
        timing = query.result.timing
        predicted = f"{timing.predicted_us / 1e3:.2f}" if timing.predicted_us else "-"
        print(
            f"{shorten(query.what, 32):<32} {query.latency_ms:>8.2f} {timing.queued_us / 1e3:>8.2f} "
            f"{timing.executed_us / 1e3:>9.2f} {timing.total_us / 1e3:>8.2f} {predicted:>10} {timing.rounds:>7}"
        )
    print()


def shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def compare_with_cpp(binary: Path, address: str, model: str, query: Query) -> None:
    """The same query through the C++ client must give the same bytes."""
    with tempfile.TemporaryDirectory() as directory:
        command = [str(binary), "infer", "--address", address, "--model", model, "--output-dir", directory, "--json"]
        for name, array in query.inputs.items():
            path = Path(directory) / f"input-{name}.npy"
            np.save(path, array)
            command += ["--input", f"{name}={path}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DemoError(f"the C++ client cannot be run: {error}") from error
        if done.returncode != 0:
            raise DemoError(
                f"the C++ client failed on {model} ({done.returncode}): {done.stderr.strip() or done.stdout.strip()}"
            )
        for name, expected in query.result.outputs.items():
            path = Path(directory) / f"{name}.npy"
            if not path.exists():
                raise DemoError(f"the C++ client wrote no {name}.npy for {model}")
            actual = np.load(path)
            if actual.dtype != expected.dtype or actual.shape != expected.shape or not same_answer(actual, expected):
                raise DemoError(f"output {name} of {model} differs between the C++ and the Python client")
    print(f"C++ client, {model} ({shorten(query.what, 32)}): the same output, up to rounding")


if __name__ == "__main__":
    sys.exit(main())
