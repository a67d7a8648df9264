"""Let a real Triton Inference Server load what `edgeopt package` writes, and compare its answers with `predict`.

    python3.11 -m venv triton
    triton/bin/pip install nvidia-pytriton 'numpy<2' onnxruntime 'opencv-python-headless<4.12' msgspec click rich
    python -m benchmarks.triton BUNDLE --images FOLDER --environment triton [--count 100]

The server comes from the wheel nvidia-pytriton, in an environment of its own whose Python is the one of its backend. It
has the Python backend alone: in the ensemble a stand-in of that backend takes the place of the network, which Triton
would run by its own backend elsewhere; everything else is as it was written. The bundle's files for onnxruntime are
loaded. Latency is of one client, over HTTP, on the same machine.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.recorded import processor, record
from benchmarks.serving import is_right, request_of
from edgeopt.package import package
from edgeopt.runtime import load
from edgeopt.runtime.predictor import Result

RESULTS = Path(__file__).with_name("results") / "triton.json"
_ROOT = Path(__file__).resolve().parents[1]
_PORT = 18000
_START_S = 300
_STAND_IN = '''\
"""Stand-in for a backend that this server does not have."""
from pathlib import Path

import triton_python_backend_utils as backend
from edgeopt.runtime import open_session


class TritonPythonModel:
    def initialize(self, args):
        folder = Path(args["model_repository"]) / args["model_version"]
        self._session = open_session(folder / "model.onnx", "ort")
        self._session.__enter__()

    def execute(self, requests):
        responses = []
        for request in requests:
            inputs = {each.name(): each.as_numpy() for each in request.inputs()}
            tensors = [backend.Tensor(name, array) for name, array in self._session.run(inputs).items()]
            responses.append(backend.InferenceResponse(output_tensors=tensors))
        return responses
'''


@contextmanager
def server(environment: Path, repository: Path, model: str) -> Iterator[None]:
    """Run tritonserver until the block ends."""
    (packages,) = environment.glob("lib/python3.*/site-packages")
    home = packages / "pytriton" / "tritonserver"
    version = packages.parent.name.removeprefix("python")
    stub = home / "backends" / "python" / "triton_python_backend_stub"
    if not stub.exists():
        shutil.copy(home / "python_backend_stubs" / version / stub.name, stub)
        stub.chmod(0o755)
    environ = {
        **os.environ,
        "PYTHONPATH": f"{_ROOT}:{packages}",
        "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),
    }
    command = [
        home / "bin" / "tritonserver",
        f"--model-repository={repository}",
        f"--backend-directory={home / 'backends'}",
        f"--http-port={_PORT}",
        "--allow-grpc=false",
        "--allow-metrics=false",
        "--exit-on-error=true",
    ]
    with (repository.parent / "server.log").open("w") as log:
        process = subprocess.Popen(list(map(str, command)), env=environ, stdout=log, stderr=log)
    try:
        until = time.monotonic() + _START_S
        while not _is_ready(model):
            if process.poll() is not None or time.monotonic() > until:
                sys.exit(f"tritonserver did not start:\n{(repository.parent / 'server.log').read_text()[:20000]}")
            time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(60)


def _is_ready(model: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", _PORT, timeout=5)
    try:
        connection.request("GET", f"/v2/models/{model}/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def compare(model: str, work: list[tuple[bytes, Result]]) -> dict[str, object]:
    """Send every picture, and one that is none."""
    wrong = different = 0
    seconds = []
    connection = http.client.HTTPConnection("127.0.0.1", _PORT, timeout=60)
    for file, expected in work:
        body, headers = request_of(file, shape=(1, 1))
        started = time.monotonic()
        connection.request("POST", f"/v2/models/{model}/infer", body, headers)
        response = connection.getresponse()
        content = response.read()
        seconds.append(time.monotonic() - started)
        if response.status != 200:
            sys.exit(f"tritonserver answered {response.status}: {content[:500]!r}")
        right, equal = is_right(json.loads(content), expected)
        wrong += not right
        different += right and not equal
    body, headers = request_of(b"no picture", shape=(1, 1))
    connection.request("POST", f"/v2/models/{model}/infer", body, headers)
    response = connection.getresponse()
    refused = response.read()
    return {
        "wrong": wrong,
        "not_equal_in_every_bit": different,
        "p50_ms": round(1e3 * float(np.median(seconds)), 2),
        "not_a_picture": f"{response.status} {json.loads(refused).get('error', '')}"[:120],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--environment", type=Path, required=True, help="virtual environment with nvidia-pytriton")
    parser.add_argument("--variant", default="ort-int8")
    parser.add_argument("--count", type=int, default=100)
    arguments = parser.parse_args()
    files = sorted(each for each in arguments.images.rglob("*") if each.suffix in (".jpg", ".jpeg", ".png"))
    work, alone = [], []
    with load(arguments.bundle, variant=arguments.variant) as predictor:
        model = predictor.spec.name
        for file in files[: arguments.count]:
            content = file.read_bytes()
            started = time.monotonic()
            work.append((content, predictor.predict(content)))
            alone.append(time.monotonic() - started)
    for form in ("triton", "triton-ensemble"):
        with tempfile.TemporaryDirectory() as folder:
            repository = Path(folder) / "models"
            package(arguments.bundle, form, repository, variant=arguments.variant)
            if form == "triton-ensemble":
                network = repository / f"{model}_network"
                config = network / "config.pbtxt"
                config.write_text(re.sub(r'backend: "\w+"', 'backend: "python"', config.read_text()))
                (network / "1" / "model.py").write_text(_STAND_IN)
                text = re.sub(r"default_model_filename.*\n", "", config.read_text())
                config.write_text(text)
            with server(arguments.environment.resolve(), repository, model):
                found = compare(model, work)
        row = {
            "bundle": arguments.bundle.name,
            "format": form,
            "variant": arguments.variant,
            "processor": processor(),
            "pictures": len(work),
            **found,
            "predict_p50_ms": round(1e3 * float(np.median(alone)), 2),
            "load": round(os.getloadavg()[0], 1),
            "cores": os.cpu_count(),
        }
        record(RESULTS, row, ("bundle", "format", "variant"))


if __name__ == "__main__":
    main()
