"""Our networks: shapes, keys of published weights, and what their specifications say."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgeopt import models
from edgeopt.errors import ModelError
from edgeopt.models.class_names import COCO


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("mobilenet_v2", 3_504_872),
        ("mobilenet_v3_small", 2_542_856),
        ("vit_tiny", 5_717_416),
        ("mobilevit_xxs", 1_272_024),
        ("lenet5", 61_706),
        ("yolox_tiny", 5_055_855),
        ("yolox_s", 8_968_255),
    ],
)
def test_has_the_published_number_of_parameters(name: str, count: int) -> None:
    assert parameters(models.create(name)) == count


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("resnet18", ["conv1.weight", "layer2.0.downsample.1.running_var", "layer4.1.bn2.bias", "fc.bias"]),
        ("resnet50", ["bn1.weight", "layer1.0.downsample.0.weight", "layer4.2.conv3.weight", "fc.weight"]),
        ("mobilenet_v2", ["features.0.1.running_mean", "features.1.conv.2.weight", "features.17.conv.3.bias"]),
        ("mobilenet_v3_small", ["features.1.block.1.fc2.bias", "features.11.block.3.1.bias", "classifier.3.weight"]),
    ],
)
def test_classifiers_have_torchvisions_keys(name: str, keys: list[str]) -> None:
    assert set(keys) <= set(models.create(name).state_dict())


def test_transformers_have_timms_keys() -> None:
    assert {"cls_token", "pos_embed", "blocks.11.attn.qkv.bias", "norm.weight", "head.weight"} <= set(
        models.create("vit_tiny").state_dict()
    )
    assert {"stem.bn.bias", "stages.3.1.transformer.3.mlp.fc2.weight", "stages.4.1.conv_fusion.conv.weight"} <= set(
        models.create("mobilevit_xxs").state_dict()
    )


def test_a_transformer_takes_other_sizes_by_interpolating_its_positions() -> None:
    module = models.create("vit_tiny", patch_size=4, width=24, depth=1, heads=3, num_classes=2).eval()
    with torch.inference_mode():
        assert module(torch.zeros(1, 3, 32, 48)).shape == (1, 2)
    with pytest.raises(ModelError, match="25 cannot be split among 3 heads"):
        models.create("vit_tiny", width=25)


@pytest.mark.parametrize("name", models.NETWORKS)
def test_output_is_what_the_specification_says(name: str) -> None:
    size = {"lenet5": (28, 28), "mobilevit_xxs": (64, 128)}.get(name, (64, 96))
    spec = models.default_spec(name, ("a", "b", "c"), size)
    module = models.create(name, num_classes=3).eval()
    with torch.inference_mode():
        output = module(torch.zeros(2, *(int(side) for side in spec.input.shape[1:])))
    assert output.shape == (2, *spec.outputs[0].shape[1:])
    assert spec.preprocessing.normalization is not None


def test_yolox_in_training_gives_logits_by_level() -> None:
    torch.manual_seed(0)
    module = models.create("yolox_nano", num_classes=2)
    images = torch.rand(2, 3, 64, 96) * 255
    for batchnorm in (layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)):
        batchnorm.eval()  # so that both modes see the same statistics
    with torch.no_grad():
        levels = module(images)
        flat = module.eval()(images)
    assert [tuple(level.shape) for level in levels] == [(2, 7, 8, 12), (2, 7, 4, 6), (2, 7, 2, 3)]
    joined = torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2)
    torch.testing.assert_close(flat[..., :4], joined[..., :4])
    torch.testing.assert_close(flat[..., 4:], joined[..., 4:].sigmoid())


def test_untrained_yolox_expects_few_objects() -> None:
    head = models.create("yolox_nano", num_classes=2).head
    for layer in (*head.cls_preds, *head.obj_preds):
        torch.testing.assert_close(layer.bias.sigmoid(), torch.full_like(layer.bias, 0.01))


def test_folded_batchnorm_stays_an_identity() -> None:
    module = models.create("yolox_nano").eval()
    state = module.state_dict()
    for key in state:
        if key.endswith("bn.weight"):
            state[key] = torch.full_like(state[key], math.sqrt(1 + 1e-5))
    module.load_state_dict(state)
    x = torch.randn(1, 16, 4, 4)
    torch.testing.assert_close(module.backbone.backbone.stem.conv.bn(x), x)


def test_trained_batchnorm_is_loaded_as_it_is() -> None:
    state = models.create("yolox_nano").state_dict()
    key = "backbone.backbone.stem.conv.bn."
    state[key + "running_var"] = torch.full_like(state[key + "running_var"], 0.5)
    module = models.create("yolox_nano")
    module.load_state_dict(state)
    assert module.state_dict()[key + "weight"].eq(1).all()


def test_takes_the_published_yolox_nano(shared: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    cv2 = pytest.importorskip("cv2")
    folder = shared / "model_yolox_nano"
    module = models.create("yolox_nano").eval()
    module.load_state_dict(torch.load(folder / "yolox_nano_from_onnx_bnidentity.pth", weights_only=True))
    session = ort.InferenceSession(folder / "yolox_nano.onnx")
    image = cv2.imread(str(min((shared / "coco_val128" / "images").iterdir())))
    pixels = cv2.resize(image, (416, 416)).transpose(2, 0, 1)[None].astype(np.float32)
    (expected,) = session.run(None, {"images": pixels})
    with torch.inference_mode():
        actual = module(torch.from_numpy(pixels)).numpy()
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("mobilenet_v3", {}, "Did you mean 'mobilenet_v2'"),
        ("resnet18", {"num_clases": 3}, "Did you mean 'num_classes'"),
        ("resnet18", {"num_classes": 0}, "num_classes = 0"),
        ("lenet5", {"num_classes": "ten"}, "'ten'"),
    ],
)
def test_create_says_what_is_wrong(name: str, arguments: dict[str, object], expected: str) -> None:
    with pytest.raises(ModelError, match=expected):
        models.create(name, **arguments)


@pytest.mark.parametrize(
    ("name", "labels", "size", "expected"),
    [
        ("yolox_nano", ("a",), (416, 400), "multiples of 32, not 416 x 400"),
        ("lenet5", ("a",), (32, 32), "28 x 28 pixels only, not 32 x 32"),
        ("resnet18", (), (224, 224), "at least one class name"),
        ("resnet", ("a",), None, "Did you mean 'resnet"),
    ],
)
def test_default_spec_says_what_is_wrong(
    name: str, labels: tuple[str, ...], size: tuple[int, int] | None, expected: str
) -> None:
    with pytest.raises(ModelError, match=expected):
        models.default_spec(name, labels, size)


def test_coco_has_80_different_names() -> None:
    assert len(set(COCO)) == 80
