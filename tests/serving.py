"""A server in a process of its own, and requests to it by hand, so that malformed ones can be sent too."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HEADER = "Inference-Header-Content-Length"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        length = self.headers.get(HEADER.lower())
        return json.loads(self.body if length is None else self.body[: int(length)])

    @property
    def outputs(self) -> dict[str, np.ndarray]:
        """Arrays of an answer in JSON or binary."""
        found = self.json
        place = int(self.headers.get(HEADER.lower(), len(self.body)))
        arrays = {}
        for each in found["outputs"]:
            if "data" in each:
                values = each["data"]
            else:
                size = each["parameters"]["binary_data_size"]
                piece, place = self.body[place : place + size], place + size
                values = np.frombuffer(piece, {"FP32": "f4", "INT64": "i8"}[each["datatype"]])
            arrays[each["name"]] = np.array(values).reshape(each["shape"])
        return arrays


@dataclass
class Served:
    process: subprocess.Popen[str]
    port: int
    bundle: Path

    def send(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            found = connection.getresponse()
            return Answer(found.status, {name.lower(): value for name, value in found.getheaders()}, found.read())
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.send("GET", path)

    def infer(self, model: str, request: dict[str, Any], binary: bytes = b"") -> Answer:
        text = json.dumps(request).encode()
        headers = {HEADER: str(len(text))} if binary else {}
        return self.send("POST", f"/v2/models/{model}/infer", text + binary, **headers)

    def pictures(self, model: str, *files: bytes, **request: Any) -> Answer:
        data = b"".join(len(file).to_bytes(4, "little") + file for file in files)
        return self.infer(model, {"inputs": [picture_input(len(files), len(data))], **request}, data)

    def metric(self, name: str) -> float:
        text = self.get("/metrics").body.decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return 0.0 if found is None else float(found[1])


def picture_input(count: int, size: int) -> dict[str, Any]:
    return {"name": "image", "shape": [count], "datatype": "BYTES", "parameters": {"binary_data_size": size}}


@contextmanager
def served(bundle: Path, *options: str) -> Iterator[Served]:
    """Start `edgeopt serve` on a free port, and kill it in the end."""
    command = [sys.executable, "-m", "edgeopt", "serve", str(bundle), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        said = process.stdout.readline()
        found = re.search(r"on http://127\.0\.0\.1:(\d+)$", said.strip())
        assert found, said + process.stderr.read()
        yield Served(process, int(found[1]), bundle)
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()
        process.stderr.close()
