"""Load a server from another process, with malformed requests among the others, and compare every answer.

    python -m benchmarks.serving BUNDLE --images FOLDER [--minutes 10] [--clients 4] [--variant NAME]

`edgeopt serve` runs in a process of its own. Each client keeps one connection, and sends pictures in random order; one
request in ten is malformed and must be refused. Every answer is compared with what `predict` gives for the picture in
this process. Latency is what a client sees. Memory is the server's resident set, which Prometheus reads. In the end the
server is killed while requests run, and none may hang.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recorded import processor, record
from edgeopt.errors import DataError
from edgeopt.runtime import load
from edgeopt.runtime.predictor import Result

RESULTS = Path(__file__).with_name("results") / "serving.json"
_HEADER = "Inference-Header-Content-Length"
_PIXELS = 1.0
"""A box that is further off is another box: batches round otherwise than single pictures."""
_SCORE = 0.01
_REFUSED = range(400, 500)
_HANG_S = 60.0


@dataclass
class Seen:
    """What the clients saw."""

    seconds: list[float] = field(default_factory=list)
    wrong: int = 0
    different: int = 0
    """Answers that are right, and not equal to the last bit."""
    refused: int = 0
    accepted: int = 0
    """Malformed requests that were answered."""
    errors: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def request_of(file: bytes, name: str = "image", shape: tuple[int, ...] = (1,)) -> tuple[bytes, dict[str, str]]:
    entry = {"name": name, "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(file) + 4}}
    text = json.dumps({"inputs": [entry]}).encode()
    return text + len(file).to_bytes(4, "little") + file, {_HEADER: str(len(text))}


def malformed(file: bytes, number: int) -> tuple[bytes, dict[str, str]]:
    """One of several kinds."""
    body, headers = request_of(file)
    return (
        (b"", {}),
        (body, {}),
        (body[:-10], headers),
        (body + b"more", headers),
        (b"[" * 1000, {}),
        request_of(file[:100]),
        request_of(b"no picture"),
        request_of(file, "other"),
        (body, {_HEADER: "99999999999"}),
        (bytes(200_000), headers),
    )[number % 10]


def is_right(answer: dict[str, Any], expected: Result) -> tuple[bool, bool]:
    """Tell if an answer is the expected one, and if it equals it in every bit."""
    outputs = {each["name"]: np.array(each["data"]).reshape(each["shape"])[0] for each in answer["outputs"]}
    classes, scores = outputs["classes"], outputs["scores"].astype(np.float32)
    if len(scores) != len(expected.scores) or (classes != expected.classes).any():
        return False, False
    boxes = getattr(expected, "boxes", np.zeros((0, 4), np.float32))
    found = outputs.get("boxes", boxes).astype(np.float32)
    near = (np.abs(found - boxes) <= _PIXELS).all() and (np.abs(scores - expected.scores) <= _SCORE).all()
    return bool(near), bool(near and (found == boxes).all() and (scores == expected.scores).all())


def start(bundle: Path, options: list[str]) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "edgeopt", "serve", str(bundle), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.readline()
    found = re.search(r":(\d+)$", said.strip())
    if found is None:
        sys.exit("the server did not start")
    return process, int(found[1])


def get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_HANG_S)
    connection.request("GET", path)
    return connection.getresponse().read()


def resident_mib(port: int) -> float:
    found = re.search(rb"^process_resident_memory_bytes (\S+)$", get(port, "/metrics"), re.MULTILINE)
    assert found is not None
    return float(found[1]) / 2**20


def client(port: int, model: str, work: list[tuple[bytes, Result]], until: float, seed: int, seen: Seen) -> None:
    """Send until the time is over."""
    rng = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_HANG_S)
    while time.monotonic() < until:
        file, expected = rng.choice(work)
        bad = rng.random() < 0.1
        body, headers = malformed(file, rng.randrange(10)) if bad else request_of(file)
        started = time.monotonic()
        try:
            connection.request("POST", f"/v2/models/{model}/infer", body, headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            with seen.lock:
                seen.errors += 1
            continue
        took = time.monotonic() - started
        with seen.lock:
            if bad:
                seen.refused += response.status in _REFUSED
                seen.accepted += response.status not in _REFUSED
            elif response.status != 200:
                seen.errors += 1
            else:
                right, equal = is_right(json.loads(content), expected)
                seen.seconds.append(took)
                seen.wrong += not right
                seen.different += right and not equal
    connection.close()


def killed(bundle: Path, model: str, work: list[tuple[bytes, Result]]) -> tuple[int, int]:
    """Kill a server while 8 requests wait; how many ended with an error, and how many hung."""
    process, port = start(bundle, ["--batch-wait", "1000", "--batch", "1024", "--timeout", "120"])
    ended: list[bool] = []

    def send(file: bytes) -> None:
        body, headers = request_of(file)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_HANG_S)
        try:
            connection.request("POST", f"/v2/models/{model}/infer", body, headers)
            connection.getresponse().read()
        except TimeoutError:
            return
        except (OSError, http.client.HTTPException):
            ended.append(True)

    threads = [threading.Thread(target=send, args=(file,)) for file, _ in (work * 8)[:8]]
    for each in threads:
        each.start()
    while f"edgeopt_waiting_pictures {len(threads)}.0".encode() not in get(port, "/metrics"):
        time.sleep(0.01)
    process.kill()
    for each in threads:
        each.join()
    process.wait()
    return len(ended), len(threads) - len(ended)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--variant")
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    work: list[tuple[bytes, Result]] = []
    alone: list[float] = []
    with load(arguments.bundle, variant=arguments.variant) as predictor:
        model, variant = predictor.spec.name, predictor.variant.name
        for path in sorted(each for each in arguments.images.rglob("*") if each.is_file()):
            file = path.read_bytes()
            try:
                started = time.monotonic()
                work.append((file, predictor.predict(file)))
                alone.append(time.monotonic() - started)
            except DataError:
                continue
    if not work:
        sys.exit(f"{arguments.images} holds no picture. Give another folder")
    process, port = start(arguments.bundle, ["--variant", variant, "--batch", str(arguments.batch)])
    seen, begun = Seen(), time.monotonic()
    until = begun + 60.0 * arguments.minutes
    threads = [
        threading.Thread(target=client, args=(port, model, work, until, seed, seen))
        for seed in range(arguments.clients)
    ]
    for each in threads:
        each.start()
    memory = []
    while time.monotonic() < until:
        memory.append(resident_mib(port))
        time.sleep(min(5.0, max(0.0, until - time.monotonic())))
    for each in threads:
        each.join()
    seconds = time.monotonic() - begun
    memory.append(resident_mib(port))
    process.terminate()
    status = process.wait()
    ended, hung = killed(arguments.bundle, model, work)
    tenth = max(1, len(memory) // 10)
    load_average = os.getloadavg()[1]
    row = {
        "bundle": arguments.bundle.name,
        "variant": variant,
        "processor": processor(),
        "clients": arguments.clients,
        "batch": arguments.batch,
        "minutes": round(seconds / 60, 2),
        "pictures": len(work),
        "answered": len(seen.seconds),
        "wrong": seen.wrong,
        "not_equal_in_every_bit": seen.different,
        "malformed_refused": seen.refused,
        "malformed_answered": seen.accepted,
        "errors": seen.errors,
        "per_s": round(len(seen.seconds) / seconds, 1),
        "p50_ms": round(1e3 * float(np.percentile(seen.seconds, 50)), 2),
        "p99_ms": round(1e3 * float(np.percentile(seen.seconds, 99)), 2),
        "predict_p50_ms": round(1e3 * float(np.median(alone)), 2),
        "memory_mib": [
            round(float(np.median(part)), 1) for part in (memory[tenth : 2 * tenth] or memory, memory[-tenth:])
        ],
        "exit_status": status,
        "killed": {"ended_with_an_error": ended, "hung": hung},
        "load": round(load_average, 1),
        "cores": os.cpu_count(),
    }
    record(RESULTS, row, ("bundle", "variant", "clients", "batch"))


if __name__ == "__main__":
    main()
