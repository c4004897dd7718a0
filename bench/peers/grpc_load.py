"""Open-loop load over gRPC on a server of the Open Inference Protocol, such as Triton, for comparisons by saturate.py.

    bench/peers/grpc_load.py RATE SECONDS QOS_MS MODEL... [--seed N] [--url HOST:PORT] [--processes N]

Sends queries of one row at Poisson times, of all models with equal shares, from several processes, and prints JSON with
the keys of `abacus-client --json load`. Requests are encoded once and replies are not decoded, so that the sender is
not what is measured. A latency runs from the time at which the query was to be sent: a process that is late makes the
server look worse, never better. Needs the package grpcio; nothing of Abacus does.
"""

import argparse
import functools
import json
import multiprocessing
import random
import sys
import threading
import time

import grpc

ELEMENT_BYTES = {"BOOL": 1, "UINT8": 1, "INT8": 1, "FP16": 2, "BF16": 2, "FP32": 4, "INT32": 4, "FP64": 8, "INT64": 8}
METHOD = "/inference.GRPCInferenceService/ModelInfer"
SPIN_S = 1e-4  # a sleep is not more exact than this


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number, content):
    """A protobuf field that is a text, bytes or a message."""
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(content)) + content


def infer_request(model, name, kind, shape):
    """A ModelInferRequest (grpc_service.proto of the protocol) whose one input is zeros."""
    size = ELEMENT_BYTES[kind]
    for dim in shape:
        size *= dim
    tensor = field(1, name) + field(2, kind) + field(3, b"".join(map(varint, shape)))
    return field(1, model) + field(5, tensor) + field(7, bytes(size))


def plan(rate, seconds, models, seed):
    """[(seconds from the start, model)], Poisson."""
    generator = random.Random(seed)
    arrivals, at = [], generator.expovariate(rate)
    while at < seconds:
        arrivals.append((at, generator.choice(models)))
        at += generator.expovariate(rate)
    return arrivals


class Waiting:
    """What became of the queries of one process. The callbacks run on a thread of gRPC."""

    def __init__(self):
        self.outcomes = []  # (model, seconds, or None for an error)
        self._changed = threading.Condition()

    def done(self, model, due, call):
        latency = time.perf_counter() - due
        self.outcomes.append((model, latency if call.code() == grpc.StatusCode.OK else None))
        with self._changed:
            self._changed.notify()

    def wait(self, sent, longest_s):
        with self._changed:
            self._changed.wait_for(lambda: len(self.outcomes) >= sent, longest_s)
        return list(self.outcomes)


def sender(options, share, ready, begin, out):
    """One process: (queries sent by model, outcomes, lateness of sending)."""
    channel = grpc.insecure_channel(options.url, [("grpc.use_local_subchannel_pool", 1)])
    infer = channel.unary_unary(METHOD)  # bytes as they are
    name, kind, *dims = options.input.split(":")
    requests = {model: infer_request(model, name, kind, [1, *map(int, dims)]) for model in options.models}
    for request in requests.values():
        infer(request, timeout=60)
    arrivals = plan(options.rate / options.processes, options.seconds, options.models, options.seed * 1000 + share)
    waiting, lateness, sent = Waiting(), [], dict.fromkeys(options.models, 0)
    ready.wait()
    ready.wait()  # `begin` is set
    for at, model in arrivals:
        due = begin.value + at
        while (left := due - time.perf_counter()) > 0:
            if left > SPIN_S:
                time.sleep(left - SPIN_S)
        lateness.append(-left)
        sent[model] += 1
        infer.future(requests[model]).add_done_callback(functools.partial(waiting.done, model, due))
    out.put((sent, waiting.wait(len(arrivals), options.drain_s), lateness))


def percentile(ascending, share):
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))] if ascending else 0.0


def report(models, qos_ms, parts):
    """What the processes saw, as a JSON object."""
    services = []
    for model in models:
        sent = sum(part[0][model] for part in parts)
        seen = [latency for part in parts for name, latency in part[1] if name == model]
        good = sorted(latency for latency in seen if latency is not None)
        services.append(
            {
                "name": model,
                "sent": sent,
                "replies": {"OK": len(good)},
                "lost": sent - len(seen),
                "violations": {"late": sum(x > qos_ms / 1e3 for x in good), "rejected": len(seen) - len(good)},
                "latency_us": {f"p{p}": 1e6 * percentile(good, p / 100) for p in (50, 90, 99)},
            }
        )
    lateness = sorted(x for part in parts for x in part[2])
    return {"services": services, "send_lateness_us": {"p99": 1e6 * percentile(lateness, 0.99)}}


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rate", type=float, help="queries a second, all models together")
    parser.add_argument("seconds", type=float)
    parser.add_argument("qos_ms", type=float, help="latency target")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--url", default="127.0.0.1:8001")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--input", default="x:FP32:1", help="NAME:TYPE[:DIM...] of the one input, without its batch")
    parser.add_argument("--drain-s", type=float, default=3, help="longest wait for answers at the end")
    options = parser.parse_args(arguments)
    context = multiprocessing.get_context("fork")  # nothing of gRPC has been started here
    ready, begin, out = context.Barrier(options.processes + 1), context.Value("d", 0.0), context.SimpleQueue()
    senders = [
        context.Process(target=sender, args=(options, i, ready, begin, out), daemon=True)
        for i in range(options.processes)
    ]
    for process in senders:
        process.start()
    try:
        ready.wait(90)
        begin.value = time.perf_counter() + 0.02
        ready.wait(10)
        parts = [out.get() for _ in senders]
    except threading.BrokenBarrierError:
        sys.exit(f"grpc_load: no server of the models {', '.join(options.models)} at {options.url}")
    finally:
        for process in senders:
            process.kill()
    print(json.dumps(report(options.models, options.qos_ms, parts)))


if __name__ == "__main__":
    main(sys.argv[1:])
