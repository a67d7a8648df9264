"""Serving over HTTP: answers are those of `predict`; what is malformed is refused, and nothing of the machine told."""

from __future__ import annotations

import asyncio
import base64
import gc
import http.client
import json
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

pytest.importorskip("uvicorn", reason="the extra serve is not installed: serving was not tested")
pytest.importorskip("starlette", reason="the extra serve is not installed: serving was not tested")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed: serving was not tested")

from serving import HEADER, Served, picture_input, served

from edgeopt.boxes import Geometry
from edgeopt.bundle import Bundle
from edgeopt.errors import BundleError, MissingExtraError, StorageError
from edgeopt.runtime import Inferred, load
from edgeopt.serve import serve
from edgeopt.serve.batcher import Batcher, Ran, Row, most_at_once
from edgeopt.serve.health import Health
from edgeopt.serve.limits import Limits, Rate, Refused
from edgeopt.serve.models import results
from edgeopt.serve.protocol import read_request, write_answer
from edgeopt.spec import TensorSpec, replace

NAME = tiny.DETECTOR.name
LARGEST = 200_000


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def scene(name: str, height: int = 32, width: int = 64) -> np.ndarray:
    """A picture with an object of that colour on its right, which the tiny detector finds."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, width // 2 :] = tiny.colour(name, height, width - width // 2)
    return image


def jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels)[1].tobytes()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_golden(tmp_path_factory.mktemp("served") / "tiny.edgeopt", tiny.DETECTOR).path


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Served]:
    with served(bundle, "--largest", str(LARGEST / 1e6), "--threads", "1") as running:
        yield running


def test_a_picture_is_answered_as_predict_answers_it(server: Served, bundle: Path) -> None:
    with load(bundle) as predictor:
        for pixels in (scene("red"), scene("blue", 40, 60)):
            for file in (png(pixels), jpeg(pixels)):
                expected = predictor.predict(file)
                for parameters in ({}, {"binary_data_output": True}):
                    found = server.pictures(NAME, file, parameters=parameters)
                    assert found.status == 200, found.body
                    wanted = [{"name": "boxes"}, {"name": "scores"}, {"name": "classes"}]
                    found = server.pictures(NAME, file, parameters=parameters, outputs=wanted)
                    assert found.outputs["boxes"].shape == (1, len(expected), 4)
                    np.testing.assert_array_equal(found.outputs["boxes"][0].astype(np.float32), expected.boxes)
                    np.testing.assert_array_equal(found.outputs["scores"][0].astype(np.float32), expected.scores)
                    np.testing.assert_array_equal(found.outputs["classes"][0], expected.classes)
                assert len(expected) > 0


def test_a_picture_as_base64_and_a_threshold(server: Served, bundle: Path) -> None:
    file = png(scene("green"))
    entry = {
        "name": "image",
        "shape": [1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(file).decode()],
    }
    with load(bundle) as predictor:
        expected = predictor.predict(file, score=0.2)
    found = server.infer(NAME, {"id": "42", "inputs": [entry], "parameters": {"score": 0.2}})
    assert found.json["id"] == "42"
    assert found.json["model_name"] == NAME
    assert found.outputs["count"].tolist() == [[len(expected)]]
    assert found.outputs["labels"].tolist() == [list(expected.labels)]


def test_several_pictures_of_one_request(server: Served, bundle: Path) -> None:
    pixels = [scene("red"), np.zeros((9, 9, 3), np.uint8), scene("blue", 33, 40)] * 4
    found = server.pictures(NAME, *map(png, pixels))
    with load(bundle) as predictor:
        expected = [predictor.predict(each) for each in pixels]
    assert found.outputs["count"].tolist() == [[len(each)] for each in expected]
    for row, each in enumerate(expected):
        np.testing.assert_allclose(found.outputs["boxes"][row, : len(each)], each.boxes, atol=1e-4)
        assert found.outputs["classes"][row, len(each) :].tolist() == [-1] * (
            found.outputs["classes"].shape[1] - len(each)
        )


def test_the_networks_own_tensors(server: Served, bundle: Path) -> None:
    inputs, recorded = Bundle.open(bundle).golden("ort-fp32")
    rows = inputs["image"]
    given_in_json = {"name": "image", "shape": list(rows.shape), "datatype": "UINT8", "data": rows.tolist()}
    in_binary = {**given_in_json, "parameters": {"binary_data_size": rows.nbytes}}
    del in_binary["data"]
    for entry, data in ((given_in_json, b""), (in_binary, rows.tobytes())):
        found = server.infer(f"{NAME}_network", {"inputs": [entry]}, data)
        assert found.status == 200, found.body
        np.testing.assert_allclose(found.outputs["predictions"], recorded["predictions"], rtol=1e-5)


def test_addresses_of_the_protocol(server: Served) -> None:
    about = server.get("/v2").json
    assert about["name"] == "edgeopt"
    assert about["models"] == [NAME, f"{NAME}_network"]
    assert server.get("/v2/health/live").json == {"live": True}
    assert server.get("/v2/health/ready").json == {"live": True, "ready": True, "golden": True}
    assert server.get(f"/v2/models/{NAME}/ready").json == {"name": NAME, "ready": True}
    assert server.get(f"/v2/models/{NAME}/versions/1/ready").status == 200
    described = server.get(f"/v2/models/{NAME}").json
    assert described["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    network = server.get(f"/v2/models/{NAME}_network").json
    assert network["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 3, 16, 16]}]
    assert network["outputs"] == [{"name": "predictions", "datatype": "FP32", "shape": [-1, 4, 8]}]


GOOD = png(scene("red"))
ONE = {"inputs": [picture_input(1, len(GOOD) + 4)]}


def _network(**changes: Any) -> dict[str, Any]:
    entry = {"name": "image", "shape": [1, 3, 16, 16], "datatype": "UINT8", "data": [0] * 768, **changes}
    return {"inputs": [entry]}


@pytest.mark.parametrize(
    ("request_", "binary", "said"),
    [
        ({}, b"", "inputs"),
        ({"inputs": []}, b"", "takes one input"),
        ({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["no picture"]}]}, b"", "damaged"),
        ({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [17]}]}, b"", "texts"),
        ({"inputs": [{"name": "image", "shape": [-1], "datatype": "BYTES", "data": ["x"]}]}, b"", "shape"),
        ({"inputs": [{"name": "image", "shape": [1 << 40], "datatype": "BYTES", "data": ["x"]}]}, b"", "too large"),
        ({"inputs": [picture_input(1, 10**9)]}, b"1234", "binary data"),
        ({"inputs": [picture_input(2, len(GOOD) + 4)]}, len(GOOD).to_bytes(4, "little") + GOOD, "2 elements"),
        ({"inputs": [picture_input(1, 8)]}, b"\xff\xff\xff\xffabcd", "1 elements"),
        ({"inputs": [picture_input(1, 4)]}, b"\0\0\0\0more", "belong to no input"),
        ({**ONE, "parameters": {"score": 7}}, len(GOOD).to_bytes(4, "little") + GOOD, "score"),
        ({**ONE, "outputs": [{"name": "nothing"}]}, len(GOOD).to_bytes(4, "little") + GOOD, "no output"),
        ({"inputs": [{**picture_input(1, 4), "name": "x" * 9999}]}, b"\0\0\0\0", "takes one input"),
        ({"inputs": [{**picture_input(1, 4), "datatype": "FP99"}]}, b"\0\0\0\0", "FP99"),
        ({"inputs": [{**picture_input(1, 8), "parameters": {"binary_data_size": True}}]}, b"1", "binary data"),
    ],
)
def test_what_is_malformed_is_refused(server: Served, request_: dict[str, Any], binary: bytes, said: str) -> None:
    found = server.infer(NAME, request_, binary)
    assert found.status == 400
    assert said in found.json["error"]
    assert len(found.body) < 500


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": [0] * 5}, "5 values"),
        ({"data": [[0], [0, 1]]}, "different lengths"),
        ({"data": [300] * 768}, "outside UINT8"),
        ({"data": ["0"] * 768}, "not an array of UINT8"),
        ({"data": [0.5] * 768}, "not an array of UINT8"),
        ({"data": None}, "not an array"),
        ({"datatype": "FP32"}, "of UINT8 and shape [N, 3, 16, 16]"),
        ({"shape": [1, 768]}, "of UINT8 and shape"),
        ({"name": "other"}, "takes one input"),
    ],
)
def test_tensors_that_are_not_the_networks(server: Served, changes: dict[str, Any], said: str) -> None:
    found = server.infer(f"{NAME}_network", _network(**changes))
    assert found.status == 400
    assert said in found.json["error"]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"\xff\xfe", {}),
        (b"[" * 100_000, {}),
        (b'{"inputs": [' + b'{"name":"image","shape":[1],"datatype":"BYTES","data":' + b"[" * 50_000, {}),
        (b"{}", {HEADER: "-1"}),
        (b"{}", {HEADER: "999999999999999999999"}),
        (b"{}", {HEADER: "²"}),
    ],
)
def test_what_is_not_json_is_refused(server: Served, body: bytes, headers: dict[str, str]) -> None:
    headers = {name: value.encode("latin-1").decode("latin-1") for name, value in headers.items()}
    found = server.send("POST", f"/v2/models/{NAME}/infer", body, **headers)
    assert found.status == 400
    assert found.json["error"]


def test_sizes_are_limited_before_they_are_read(server: Served) -> None:
    path = f"/v2/models/{NAME}/infer"
    assert server.send("POST", path, bytes(LARGEST + 1)).status == 413
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:  # announces nothing, sends for ever
        raw.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        piece = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        for _ in range(LARGEST // 0x10000 + 1):
            raw.sendall(piece)
        assert b" 413 " in raw.recv(1000)
    huge = GOOD[:16] + struct.pack(">II", 9000, 8000) + GOOD[24:]
    found = server.pictures(NAME, huge)
    assert (found.status, found.json["error"]) == (400, "a picture has 9000 x 8000 pixels; 64000000 are the most")
    assert server.send("POST", path, b"{}", Content_Encoding="gzip").status == 415


def test_nothing_of_the_machine_is_told(server: Served) -> None:
    here = (str(Path.home()), "site-packages", "Traceback", ".py", "edgeopt/", "/opencv", str(Path.cwd()))
    damaged = GOOD[:60] + bytes(30)
    for found in (
        server.pictures(NAME, damaged),
        server.pictures(NAME, jpeg(scene("red"))[:100]),
        server.get("/v2/models/../../etc/passwd"),
        server.get("/etc/passwd"),
        server.send("DELETE", "/v2"),
        server.get("/v2/models/other"),
        server.get(f"/v2/models/{NAME}/versions/9"),
    ):
        assert 400 <= found.status < 500
        assert set(found.json) == {"error"}
        assert [word for word in here if word in found.body.decode()] == []
    assert "server" not in found.headers


def test_many_clients_at_once_get_their_own_answers(server: Served, bundle: Path) -> None:
    files = [png(scene(name, 20 + 3 * number)) for name in tiny.COLOURS for number in range(4)]
    with load(bundle) as predictor:
        expected = [predictor.predict(file) for file in files]
    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda file: server.pictures(NAME, file), files * 4))
    for found, right in zip(answers, expected * 4, strict=True):
        assert found.status == 200
        np.testing.assert_allclose(found.outputs["boxes"][0], right.boxes, atol=1e-4)
        assert found.outputs["labels"][0].tolist() == list(right.labels)


def test_figures_for_prometheus(server: Served) -> None:
    before = server.metric(f'edgeopt_requests_total{{model="{NAME}",status="200"}}')
    assert server.pictures(NAME, GOOD).status == 200
    assert server.pictures("unknown", GOOD).status == 404
    assert server.metric(f'edgeopt_requests_total{{model="{NAME}",status="200"}}') == before + 1
    assert server.metric('edgeopt_requests_total{model="",status="404"}') >= 1
    assert server.metric("edgeopt_ready") == 1
    assert server.metric("edgeopt_waiting_pictures") == 0
    assert server.metric("edgeopt_batch_pictures_count") >= 1


def in_flight(running: Served, clients: ThreadPoolExecutor) -> Any:
    """A request that waits for a batch that never fills."""
    future = clients.submit(running.pictures, NAME, GOOD)
    for _ in range(600):
        if running.metric("edgeopt_waiting_pictures") == 1:
            return future
        time.sleep(0.05)
    raise TimeoutError


def test_killed_or_told_to_end_no_request_hangs(bundle: Path) -> None:
    with ThreadPoolExecutor(1) as clients:
        with served(bundle, "--batch-wait", "1000") as running:
            waiting = in_flight(running, clients)
            running.process.kill()
            with pytest.raises((ConnectionError, http.client.HTTPException)):
                waiting.result(30)
        with served(bundle, "--batch-wait", "1000") as running:  # started again, it answers
            waiting = in_flight(running, clients)
            running.process.send_signal(signal.SIGTERM)
            assert waiting.result(30).status == 200, "a request that was there is answered"
            assert running.process.wait(30) == 143
            with pytest.raises(ConnectionError):
                running.get("/v2")
            assert "Traceback" not in running.process.stderr.read()


class Doubling:
    """A predictor whose network doubles its input, and stops when it is told to."""

    spec = tiny.CLASSIFIER

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.broken = False

    def buffer(self, count: int = 1) -> np.ndarray:
        return np.zeros((count, 2), np.float32)

    def infer(self, prepared: Any, *, copy: bool) -> Inferred:
        assert copy
        self.batches.append(len(prepared.geometries))
        if self.broken:
            raise ValueError("out of order")
        return Inferred({"scores": prepared.tensor * 2}, prepared.geometries)


def row(value: float, seconds: float = 30.0) -> Row:
    geometry = Geometry(1.0, 1.0, 0.0, 0.0, 2, 1)
    return Row(np.full((1, 2), value, np.float32), geometry, time.monotonic() + seconds)


@pytest.fixture
def batcher() -> Iterator[Callable[..., tuple[Batcher, Doubling, list[Ran]]]]:
    opened: list[Batcher] = []

    def make(**limits: Any) -> tuple[Batcher, Doubling, list[Ran]]:
        predictor, ran = Doubling(), []
        opened.append(Batcher(predictor, Limits(**limits), ran.append))
        return opened[-1], predictor, ran

    yield make
    for each in opened:
        each.close()


def test_rows_that_come_together_run_together(batcher: Callable[..., Any]) -> None:
    batches, predictor, ran = batcher(largest_batch=4, batch_wait_s=60.0)
    rows = [row(value) for value in range(8)]
    batches.submit(rows[:3])
    batches.submit(rows[3:])
    found = [each.answer.result(30).outputs["scores"] for each in rows]
    assert [each.tolist() for each in found] == [[[2.0 * value] * 2] for value in range(8)]
    assert predictor.batches == [4, 4]
    batches.close()
    assert [each.rows for each in ran] == [4, 4]


def test_a_row_does_not_wait_longer_than_it_must(batcher: Callable[..., Any]) -> None:
    batches, predictor, _ = batcher(largest_batch=4, batch_wait_s=0.01)
    alone = row(1.0)
    batches.submit([alone])
    assert alone.answer.result(30).outputs["scores"].tolist() == [[2.0, 2.0]]
    assert predictor.batches == [1]


def test_rows_that_nobody_waits_for_are_dropped(batcher: Callable[..., Any]) -> None:
    batches, predictor, _ = batcher(largest_batch=3, batch_wait_s=60.0)
    late, left, wanted = row(1.0, seconds=-1.0), row(2.0), row(3.0)
    left.answer.cancel()
    batches.submit([late, left, wanted])
    assert wanted.answer.result(30).outputs["scores"].tolist() == [[6.0, 6.0]]
    with pytest.raises(Refused, match="took too long"):
        late.answer.result(30)
    assert predictor.batches == [1]


def test_a_full_queue_refuses_and_a_broken_engine_answers(batcher: Callable[..., Any]) -> None:
    batches, predictor, _ = batcher(largest_batch=4, batch_wait_s=60.0, queue=3)
    waiting = [row(1.0), row(1.0)]
    batches.submit(waiting)
    with pytest.raises(Refused) as refused:
        batches.submit([row(1.0), row(1.0)])
    assert (refused.value.status, refused.value.retry_after) == (503, 1.0)
    with pytest.raises(Refused, match="3 are the most"):
        batches.submit([row(1.0)] * 4)
    predictor.broken = True
    batches.close()
    for each in waiting:
        with pytest.raises(ValueError, match="out of order"):
            each.answer.result(30)
    with pytest.raises(Refused, match="ends"):
        batches.submit([row(1.0)])


def test_only_a_network_with_a_batch_takes_several_pictures() -> None:
    assert most_at_once(tiny.CLASSIFIER, 8) == 8
    fixed = replace(tiny.CLASSIFIER, input=replace(tiny.CLASSIFIER.input, shape=(2, 3, 8, 8)))
    fixed = replace(fixed, outputs=(TensorSpec(name="scores", shape=(2, 3)),))
    assert most_at_once(fixed, 8) == 2
    assert most_at_once(replace(tiny.CLASSIFIER, outputs=(TensorSpec(name="rows", shape=("K", 6)),)), 8) == 1


def test_each_address_has_its_own_rate() -> None:
    now = [0.0]
    rate = Rate(2.0, lambda: now[0])
    for _ in range(2):
        rate.take("one")
    with pytest.raises(Refused) as refused:
        rate.take("one")
    assert (refused.value.status, refused.value.retry_after) == (429, 1)
    rate.take("other")
    now[0] = 0.5
    rate.take("one")
    Rate(0.0).take("any")


def test_a_server_is_not_ready_once_its_engine_answers_otherwise(bundle: Path, monkeypatch) -> None:
    with load(bundle) as predictor:
        health = Health(Bundle.open(bundle), predictor)
        health.require()
        assert health.ready
        run = predictor._session.run
        monkeypatch.setattr(
            predictor._session, "run", lambda inputs: {name: 1.5 * each for name, each in run(inputs).items()}
        )
        assert not health.check()
        with pytest.raises(BundleError, match="golden outputs are not reproduced"):
            health.require()
        monkeypatch.undo()
        assert health.check()


def test_a_server_is_not_ready_once_its_engine_breaks(bundle: Path, monkeypatch, caplog) -> None:
    with load(bundle) as predictor:
        health = Health(Bundle.open(bundle), predictor)
        health.require()

        def broken(_: Any) -> Any:
            raise RuntimeError("out of order")

        monkeypatch.setattr(predictor._session, "run", broken)
        assert not health.check()
        assert not health.check()
        assert caplog.text.count("not ready: out of order") == 1
        monkeypatch.undo()
        assert health.check()
        assert "ready again" in caplog.text


def test_that_nothing_can_be_checked_is_said_once(tmp_path: Path, caplog) -> None:
    bundle = tiny.write(tmp_path / "tiny.edgeopt")
    health = Health(bundle, SimpleNamespace(variant=bundle.variant("ort-fp32")))
    health.require()
    assert health.check()
    assert health.check()
    assert caplog.text.count("has no golden inputs") == 1


def test_a_request_that_fails_is_answered_and_counted_with_an_older_starlette(bundle: Path, monkeypatch) -> None:
    from starlette.routing import Route

    from edgeopt.serve.app import Server

    handle = Route.handle

    async def older(self: Route, scope: Any, receive: Any, send: Any) -> None:
        scope.pop("route", None)  # which 0.40 does not set
        await handle(self, scope, receive, send)

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of order")

    monkeypatch.setattr(Route, "handle", older)
    with load(bundle) as predictor:
        health = Health(Bundle.open(bundle), predictor)
        health.require()
        server = Server(predictor, "1", health, Limits())
        monkeypatch.setattr(predictor, "infer", broken)
        assert asyncio.run(posted(server.app(), GOOD)) == 500
        assert f'edgeopt_requests_total{{model="{NAME}",status="500"}} 1.0' in server._metrics.text()[0].decode()


def test_as_many_connections_are_answered_as_are_allowed(bundle: Path) -> None:
    with served(bundle, "--connections", "1") as running:
        only = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
        only.request("GET", "/v2")
        assert only.getresponse().status == 200
        assert running.get("/v2").status == 503, "one more than is allowed"
        only.close()


def test_a_port_that_is_taken_is_named(bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StorageError, match=f"port {port}: .* --port"):
            serve(bundle, port=port)


def test_without_the_extra_it_says_how_to_install_it(bundle: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtraError, match=r"edgeopt\[serve\]"):
        serve(bundle)


numbers = st.sampled_from(["bool", "uint8", "int64", "float16", "float32"]).flatmap(
    lambda kind: arrays.arrays(
        kind,
        arrays.array_shapes(max_dims=3, max_side=4),
        elements={"allow_nan": False, "allow_infinity": False} if kind.startswith("float") else None,
    )
)


@settings(max_examples=40)
@given(numbers, st.booleans())
def test_arrays_survive_the_way_there_and_back(values: np.ndarray, binary: bool) -> None:
    asked = read_request(
        b'{"inputs": [], "parameters": {"binary_data_output": %s}}' % str(binary).lower().encode(), None
    )
    body, length = write_answer("m", "1", asked, {"x": values})
    as_request = body.replace(b'"outputs"', b'"inputs"', 1)
    found = read_request(as_request, None if length is None else str(length - 1)).inputs["x"]
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


def test_a_classifiers_results_as_arrays(tmp_path: Path) -> None:
    bundle = tiny.write_golden(tmp_path / "tiny.edgeopt")
    with load(bundle.path) as predictor:
        found = results([predictor.predict(tiny.colour(name)) for name in tiny.COLOURS])
    assert found["labels"][:, 0].tolist() == [b"red", b"green", b"blue"]
    assert set(found) == {"labels", "classes", "scores"}
    assert found["scores"].shape == (3, 3)


@pytest.mark.parametrize("batch", [1, 8])
def test_of_requests_that_are_answered_nothing_stays(bundle: Path, batch: int) -> None:
    from edgeopt.serve.app import Server

    with load(bundle) as predictor:
        health = Health(Bundle.open(bundle), predictor)
        health.require()
        app = Server(predictor, "1", health, Limits(largest_batch=batch)).app()

        async def alive(requests: int) -> int:
            for number in range(0, requests, 4):
                files = (jpeg(scene("red", 40 + number, 60)), b"no picture", jpeg(scene("blue")), b"")
                assert await asyncio.gather(*(posted(app, file) for file in files)) == [200, 400, 200, 400]
            gc.collect()
            return len(gc.get_objects())

        async def grown() -> int:
            await alive(100)
            return await alive(200) - await alive(100)

        assert abs(asyncio.run(grown())) < 50, "one object of each request would be 100 or 200"


async def posted(app: Any, file: bytes) -> int:
    """Post a picture to the application in this process, and return the status."""
    entry = picture_input(1, len(file) + 4)
    text = json.dumps({"inputs": [{**entry, "name": "image"}]}).encode()
    waiting = [{"type": "http.request", "body": text + struct.pack("<I", len(file)) + file, "more_body": False}]
    told: list[int] = []

    async def receive() -> dict[str, Any]:
        return waiting.pop()

    async def send(message: dict[str, Any]) -> None:
        told.append(message.get("status", 0))

    path = f"/v2/models/{NAME}/infer"
    scope = {"type": "http", "method": "POST", "path": path, "root_path": "", "query_string": b"", "client": None}
    await app({**scope, "headers": [(HEADER.lower().encode(), str(len(text)).encode())]}, receive, send)
    return told[0]
