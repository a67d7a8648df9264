"""Each family's layout is told from its file alone, and what two families share is not guessed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.families import row
from benchmarks.family_graphs import CLASSES, SIDE, Family, families, network
from edgeopt.cli import main
from edgeopt.config import ModelConfig, parse_config
from edgeopt.errors import ModelError
from edgeopt.identify import Identification
from edgeopt.identify.identifying import identify
from edgeopt.identify.metadata import read_metadata
from edgeopt.identify.reading import facts_of
from edgeopt.identify.values import are_corners, are_whole, follows_grid, grid
from edgeopt.pipeline.sources import class_names
from edgeopt.source import resolve
from edgeopt.spec import DetectionDecoding, Letterbox, ModelSpec, Normalization, Preprocessing, Resize

BY_NAME = {family.name: family for family in families()}
DENSE = BY_NAME["YOLOv8, YOLO11, YOLO12 (Ultralytics)"]


def identified(family: Family, labels: tuple[str, ...] = ()) -> Identification:
    return identify(facts_of(ir.from_proto(network(family))), labels)


def changed(family: Family, **changes: object) -> Family:
    return Family(**{**vars(family), **changes})


def preprocessing(found: Identification) -> Preprocessing:
    assert found.settled is not None
    assert found.settled.preprocessing is not None
    return found.settled.preprocessing.value


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_each_family_is_told_or_its_readings_are_named(family: Family) -> None:
    assert row(family).identified == ("asks" if " or " in family.preset else "yes")
    assert sorted(each.name for each in identified(family).candidates) == sorted(family.preset.split(" or "))


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_every_finding_has_its_reason(family: Family) -> None:
    found = identified(family)
    assert all(role.why for role in (*found.inputs, *found.outputs))
    assert all(candidate.why for candidate in found.candidates)
    assert found.input_size is not None
    assert found.input_size.why


def test_ultralytics_metadata_give_names_size_and_preprocessing() -> None:
    found = identified(DENSE)
    assert found.labels is not None
    assert found.labels.value == tuple(f"thing {index}" for index in range(CLASSES))
    assert preprocessing(found).steps == (Letterbox(size=(SIDE, SIDE)),)
    assert found.questions == ()


def test_a_dynamic_size_is_frozen_from_the_metadata() -> None:
    found = identified(changed(DENSE, image=(3, "h", "w")))
    assert found.input_size is not None
    assert found.input_size.value == (SIDE, SIDE)
    assert "imgsz" in found.input_size.why


def test_a_dynamic_size_that_nobody_tells_is_asked_for() -> None:
    found = identified(changed(DENSE, image=(3, "h", "w"), metadata={}))
    assert [question.key for question in found.questions] == ["model.input_size"]


def test_metadata_that_contradict_the_graph_are_said_and_not_believed() -> None:
    wrong = {**DENSE.metadata, "names": "{0: 'only'}", "imgsz": "[640, 640]"}
    found = identified(changed(DENSE, metadata=wrong))
    assert found.input_size is not None
    assert found.input_size.value == (SIDE, SIDE)
    assert found.labels is None
    assert any("640" in note for note in found.notes)
    assert any("its outputs hold 3 classes: the names are not used" in note for note in found.notes)
    assert [question.key for question in found.questions] == ["model.labels"]


def test_a_task_that_is_none_of_ours_is_said() -> None:
    found = identified(changed(DENSE, metadata={**DENSE.metadata, "task": "pose"}))
    assert found.candidates == ()
    assert any("'pose'" in note for note in found.notes)


def test_yolox_is_not_guessed_where_the_numbers_do_not_tell() -> None:
    flat = np.full_like(next(iter(BY_NAME["YOLOX"].outputs.values())), 0.5)
    found = identified(changed(BY_NAME["YOLOX"], outputs={"output": flat}))
    assert [candidate.name for candidate in found.candidates] == ["yolox", "yolox_decoded"]
    assert found.settled is None
    assert "model.decoding" in [question.key for question in found.questions]


def test_final_rows_without_detections_are_not_guessed() -> None:
    empty = changed(BY_NAME["YOLOv10 (THU-MIG), no metadata"], outputs={"output0": np.zeros((1, 300, 6), np.float32)})
    assert [candidate.name for candidate in identified(empty).candidates] == ["yolov10", "ultralytics_rtdetr"]


def test_outputs_that_fit_nothing_ask_for_a_description() -> None:
    odd = changed(DENSE, outputs={"mask": np.zeros((1, 7, 9, 9), np.float32)}, metadata={})
    found = identified(odd)
    assert found.candidates == ()
    assert "'mask' float32 [1, 7, 9, 9]" in found.questions[0].what
    assert "with strides of 8, 16 and 32 there are 336" in found.questions[0].what
    assert 'boxes = { output = "NAME", stop = 4 }' in found.questions[0].example


def test_the_last_network_of_a_cascade_is_no_detector_of_whole_images() -> None:
    """MTCNN's O-Net moves the one box that it is given, with as many columns as RetinaFace has for each prior box."""
    sides = {"loc": 4, "conf": 2, "landms": 10}
    rows = {name: np.full((1, side), 0.5, np.float32) for name, side in sides.items()}
    assert identified(changed(BY_NAME["RetinaFace"], outputs=rows)).candidates == ()


def test_the_images_that_uint8_and_channels_last_inputs_take_are_their_own() -> None:
    uint8 = preprocessing(identified(changed(DENSE, dtype="uint8")))
    assert uint8.normalization is None
    last = preprocessing(identified(changed(DENSE, image=(SIDE, SIDE, 3))))
    assert last.layout == "NHWC"
    grey = preprocessing(identified(changed(DENSE, image=(1, SIDE, SIDE))))
    assert grey.channels == "GRAY"


def test_class_names_of_the_data_are_taken_where_their_number_fits() -> None:
    dense = changed(DENSE, metadata={})
    fitting = identified(dense, ("a", "b", "c")).labels
    assert fitting is not None
    assert fitting.value == ("a", "b", "c")
    assert identified(dense, ("a", "b")).labels is None


def test_a_graph_that_normalizes_itself_takes_pixels() -> None:
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 17]> g (float[1, 3, {SIDE}, {SIDE}] x) => (float[1, 7, 336] y) {{
            a = Div (x, k)
            c = Conv <pads = [1, 1, 1, 1], strides = [4, 4]> (a, w)
            m = ReduceMean <keepdims = 0> (c)
            y = Add (m, o)
        }}"""
    )
    output = next(iter(DENSE.outputs.values()))
    for name, array in {"k": np.float32(255), "w": np.zeros((4, 3, 3, 3), np.float32), "o": output}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    found = preprocessing(identify(facts_of(ir.from_proto(model))))
    assert found.normalization is not None
    assert found.normalization.scale == 1.0


def test_the_model_apis_keys_change_the_preprocessing() -> None:
    info = {
        "model_info labels": "cat dog bird",
        "model_info resize_type": "standard",
        "model_info reverse_input_channels": "False",
        "model_info mean_values": "10 20 30",
        "model_info scale_values": "2 2 2",
    }
    found = identified(changed(DENSE, metadata=info))
    made = preprocessing(found)
    assert made.steps == (Resize(size=(SIDE, SIDE), interpolation="linear"),)
    assert made.channels == "BGR"
    assert made.normalization is not None
    assert (made.normalization.scale, made.normalization.mean) == (1.0, (10.0, 20.0, 30.0))
    assert found.labels is not None
    assert found.labels.value == ("cat", "dog", "bird")


@pytest.mark.parametrize(
    ("metadata", "labels"),
    [
        ({"names": "{0: 'a', 1: 'b'}"}, ("a", "b")),
        ({"names": "['a', 'b']"}, ("a", "b")),
        ({"names": '{"1": "b", "0": "a"}'}, ("a", "b")),
        ({"labels": "a\nb\n"}, ("a", "b")),
        ({"classes": "a,b"}, ("a", "b")),
        ({"rfdetr_notes": json.dumps({"class_names": ["a", "b"]})}, ("a", "b")),
        ({"names": "{0: 'a', 2: 'b'}"}, None),
        ({"names": "['a', 'a']"}, None),
        ({"names": "__import__('os').system('true')"}, None),
        ({"names": "[" * 100_000}, None),
        ({"names": ""}, None),
    ],
)
def test_names_are_read_in_every_usual_form_and_never_run(
    metadata: dict[str, str], labels: tuple[str, ...] | None
) -> None:
    found = read_metadata(metadata).labels
    assert (found and found.value) == labels


def test_columns_that_follow_the_grid_are_positions() -> None:
    centres = grid((SIDE, SIDE), (8, 16, 32))
    rng = np.random.default_rng(0)
    assert follows_grid(centres + rng.normal(0, 4, centres.shape), (SIDE, SIDE), (8, 16, 32)) is True
    assert follows_grid(rng.uniform(0, 1, centres.shape), (SIDE, SIDE), (8, 16, 32)) is False
    assert follows_grid(rng.uniform(0, SIDE, centres.shape), (SIDE, SIDE), (8, 16, 32)) is None
    assert follows_grid(centres[:-1], (SIDE, SIDE), (8, 16, 32)) is None
    assert follows_grid(np.full_like(centres, np.nan), (SIDE, SIDE), (8, 16, 32)) is None


def test_corners_and_whole_numbers_are_told() -> None:
    corners = np.array([[1.0, 1, 2, 2]] * 5)
    assert are_corners(corners) is True
    assert are_corners(corners[:, ::-1]) is False
    assert are_corners(np.zeros((5, 4))) is None
    assert are_whole(np.array([0.0, 3.0])) is True
    assert are_whole(np.array([0.5])) is False
    assert are_whole(np.array([np.inf])) is False


def test_inspect_says_what_a_file_is(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(network(changed(DENSE, metadata={})), path)
    shown = CliRunner().invoke(main, ["inspect", str(path)], catch_exceptions=False).output
    assert 'head     "yolov8": its output' in shown
    assert "letterbox 128 × 128 (centred, grey 114), RGB, pixel × 0.003922" in shown
    assert "missing  model.labels: the file does not name its 3 classes. Give --labels" in shown
    as_json = json.loads(CliRunner().invoke(main, ["inspect", str(path), "--json"], catch_exceptions=False).stdout)
    assert as_json["candidates"][0]["decoding"] == {"preset": "yolov8"}


def test_inspect_says_that_a_file_is_quantized_however_its_integers_are_written(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1, 3, 8, 8] x) => (float[1, 4, 8, 8] y)
              <uint8[4, 3, 1, 1] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}> {
                q, s, z = DynamicQuantizeLinear (x)
                c = ConvInteger (q, w, z)
                f = Cast <to = 1> (c)
                y = Mul (f, s)
              }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "net.onnx")
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "net.onnx")], catch_exceptions=False).output
    assert "quantized already (quantizers in the graph)" in shown


def test_inspect_refuses_what_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"nothing")
    result = CliRunner().invoke(main, ["inspect", str(path)])
    assert result.exit_code == 13
    assert "is not an ONNX model" in result.stderr


def resolved(path: Path, **keys: object) -> ModelSpec:
    return resolve(ModelConfig(source=path.name, **keys), path.parent).spec  # type: ignore[arg-type]


def test_a_recipe_may_leave_out_what_the_file_tells(tmp_path: Path) -> None:
    onnx.save(network(changed(DENSE, image=(3, "h", "w"))), tmp_path / "net.onnx")
    spec = resolved(tmp_path / "net.onnx")
    assert spec.labels == tuple(f"thing {index}" for index in range(CLASSES))
    assert spec.input.shape[2:] == (SIDE, SIDE)
    assert isinstance(spec.decoding, DetectionDecoding)
    assert spec.decoding.preset == "yolov8"
    assert spec.preprocessing.steps == (Letterbox(size=(SIDE, SIDE)),)
    config = parse_config('name = "n"\n[model]\nsource = "net.onnx"\n')
    assert class_names(config, tmp_path) == spec.labels


def test_the_recipe_goes_before_what_the_file_tells(tmp_path: Path) -> None:
    onnx.save(network(DENSE), tmp_path / "net.onnx")
    stretched = Preprocessing(steps=(Resize(size=(SIDE, SIDE)),), normalization=Normalization())
    spec = resolved(tmp_path / "net.onnx", labels=("a", "b", "c"), preprocessing=stretched)
    assert spec.labels == ("a", "b", "c")
    assert spec.preprocessing == stretched


def test_a_recipe_that_leaves_two_readings_open_is_told_both(tmp_path: Path) -> None:
    empty = changed(BY_NAME["YOLOv10 (THU-MIG), no metadata"], outputs={"output0": np.zeros((1, 300, 6), np.float32)})
    onnx.save(network(empty), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=r'"yolov10".* or "ultralytics_rtdetr".*\[model\] decoding'):
        resolved(tmp_path / "net.onnx", labels=("a", "b"))


def test_boxes_as_shares_of_the_image_are_told_by_their_values() -> None:
    found = identified(BY_NAME["the same with boxes as shares of the image"]).settled
    assert found is not None
    assert found.decoding == {"preset": "yolov8", "unit": "unit"}
    pixels = identified(DENSE).settled
    assert pixels is not None
    assert "unit" not in pixels.decoding


def test_an_input_that_nobody_knows_is_asked_for() -> None:
    found = identified(changed(DENSE, extra={"boost": "float[1, 7]"}))
    assert "model.inputs" in [question.key for question in found.questions]
    assert any("'boost' float32 [1, 7]" in question.what for question in found.questions)


def test_operators_of_others_are_named_and_the_file_is_identified_all_the_same(tmp_path: Path) -> None:
    model = network(BY_NAME["EfficientNMS"])
    node = model.graph.node.add()
    node.op_type, node.domain, node.name = "EfficientNMS_TRT", "TRT", "nms"
    node.input.append("r")
    node.output.append("nothing")
    domain = model.opset_import.add()
    domain.domain, domain.version = "TRT", 1
    onnx.save(model, tmp_path / "net.onnx")
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "net.onnx")], catch_exceptions=False).output
    assert '"efficient_nms"' in shown
    assert "TRT::EfficientNMS_TRT" in shown
    with pytest.raises(ModelError, match="EfficientNMS_TRT"):
        resolved(tmp_path / "net.onnx", labels=("a",))
