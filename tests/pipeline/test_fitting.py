"""Building classifiers on frozen features, in stages of their own; and moving the logits of rare classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_recipe import Watch

from edgeopt.bundle import Bundle
from edgeopt.config import parse_config
from edgeopt.errors import ConfigError, DataError, ModelError
from edgeopt.models import create
from edgeopt.pipeline import build, check, export_model
from edgeopt.report import content, to_html, to_terminal
from edgeopt.runtime import availability, enroll, load, pictures_of, verify
from edgeopt.spec import NeighborsDecoding

RECIPE = """
name = "features"
[model]
source = "edgeopt:features"
backbone = "edgeopt:lenet5"
weights = "lenet.safetensors"
[data.train]
format = "digits"
split = "train"
limit = 150
[data.validation]
format = "digits"
split = "validation"
limit = 60
[data.test]
format = "digits"
split = "test"
limit = 60
[data.calibration]
format = "digits"
split = "calibration"
limit = 16
[fit]
classifier = "knn"
[quantize]
repairs = []
[align]
enabled = false
[evaluate]
max_drop = 0.05
[precision]
gpu = "fp32"
[compile.tensorrt.build]
compute_capabilities = ["SM86"]
optimization_level = 0
[benchmark]
warmup_s = 0.0
duration_s = 0.02
minimum_queries = 2
"""
TARGETS = [name for name in ("ort", "ov") if availability(name).ok]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of a network that nobody trained: random filters, whose features tell digits anyway."""
    folder = tmp_path_factory.mktemp("features")
    torch.manual_seed(0)
    save_file(create("lenet5", num_classes=10).state_dict(), folder / "lenet.safetensors")
    return folder


def targets() -> str:
    """The engines that this machine builds for, TensorRT-RTX among them where its parser is here."""
    from edgeopt.targets import find_target

    rtx = ["rtx"] if find_target("rtx").can_compile().ok else []
    return f"compile.targets={[*TARGETS, *rtx]}"


def built(root: Path, watch: Watch, *overrides: str):
    config = parse_config(RECIPE, overrides=(targets(), *overrides))
    return build(config, root, root / "build", root / "work", watch)


@pytest.mark.timeout(900)  # half a minute, of a processor that may be shared
def test_every_classifier_builds_to_int8_within_its_drop_in_stages_of_its_own(root: Path) -> None:
    first = Watch()
    knn = built(root, first).bundle
    second = Watch()
    kernels = built(root, second, 'name="kernels"', 'fit.classifier="rbf_svm"', "fit.support_vectors=1000").bundle
    others = [built(root, Watch(), f'name="{name}"', f'fit.classifier="{name}"').bundle for name in ("svm", "mlp")]
    assert {"backbone", "features", "fit"} <= set(first.made)
    assert {"backbone", "features"} <= set(second.reused), "another classifier costs neither"
    assert "fit" in second.made
    for bundle in (knn, kernels, *others):
        manifest = bundle.manifest
        assert manifest.variant(manifest.baseline).accuracy.value > 0.6
        int8 = [each for each in manifest.variants if each.precision == "int8"]
        assert len(int8) == len(manifest.variants) // 2
        assert [each.name for each in int8 if not each.accepted] == []
        assert all(each.nodes["QuantizeLinear"] for each in int8)
        fit = int8[0].stages.fit
        assert (fit.pictures, fit.features) == (150, 84)
        assert (fit.rows > 0) is (fit.classifier in ("knn", "rbf_svm"))
        verify(bundle.path).require()
        to_terminal(content(manifest))
    assert isinstance(knn.manifest.spec.decoding, NeighborsDecoding)
    assert knn.manifest.spec.labels == kernels.manifest.spec.labels == tuple("0123456789")


def test_a_built_bundle_learns_a_class_and_is_found_unchanged(root: Path, tmp_path: Path) -> None:
    """Stripes are no digit: three engines' embeddings of them are alike."""
    import cv2

    bundle = built(root, Watch()).bundle
    for number in range(8):
        noise = np.random.default_rng(number).integers(0, 40, (28, 28))
        stripes = np.tile(np.repeat([0, 215], 3), 5)[None, :28] + noise
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), stripes.astype(np.uint8))
    record = enroll(bundle.path, "stripes", pictures_of(tmp_path))
    assert set(record.recognized) == {each.name for each in bundle.manifest.variants if each.target in TARGETS}
    with load(bundle.path) as predictor:
        assert predictor.predict(tmp_path / "0.png").label == "stripes"
    verify(bundle.path).require()
    assert "enrolled on" in to_html(content(Bundle.open(bundle.path).manifest), ())
    again = Watch()
    assert built(root, again).unchanged, "a build does not take enrolled classes away"


def test_an_onnx_file_is_a_backbone_too(root: Path, tmp_path: Path) -> None:
    """The same network as a file, whose classes are cut off: the same features, and so the same answers."""
    own = built(root, Watch()).bundle
    trained = RECIPE.replace('source = "edgeopt:features"\nbackbone', "source").replace(
        '[fit]\nclassifier = "knn"\n', ""
    )
    export_model(parse_config(trained), root, root / "work", root / "lenet.onnx", Watch())
    text = RECIPE.replace('weights = "lenet.safetensors"\n', "").replace('"edgeopt:lenet5"', '"lenet.onnx"')
    text = text.replace("[data.train]", '[model.preprocessing]\nsteps = [{ type = "resize", size = [28, 28] }]\n'
                        'channels = "GRAY"\n[data.train]', 1)  # fmt: skip
    config = parse_config(text, overrides=('compile.targets=["ort"]', 'name="file"', "quantize.enabled=false"))
    made = build(config, root, root / "build", root / "work", Watch()).bundle.manifest
    assert made.variant("ort-fp32").accuracy.value == own.manifest.variant("ort-fp32").accuracy.value


def test_rare_classes_are_moved_as_data_without_training(root: Path) -> None:
    quick = ('name="moved"', 'fit.classifier="svm"', 'compile.targets=["ort"]')
    plain = built(root, Watch(), *quick, "quantize.enabled=false")
    watch = Watch()
    moved = built(root, watch, *quick, "balance.prior=1.0", "balance.thresholds=true", "quantize.enabled=false")
    assert "fit" in watch.reused
    assert "balance" in watch.made
    offsets = moved.bundle.manifest.spec.decoding.offsets
    assert len(offsets) == 10
    assert abs(sum(offsets)) < 1e-4
    assert plain.bundle.manifest.spec.decoding.offsets == ()
    verify(moved.bundle.path).require()


# What is refused


def test_a_class_with_one_picture_is_told_before_anything_is_built(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for label, count in (("a", 4), ("b", 1)):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            (folder / label / f"{number}.png").write_bytes(b"not opened yet")
    source = f'[data.train]\nformat = "image_folder"\npath = "{folder}"\n'
    head, _, rest = RECIPE.partition("[data.train]")
    text = head + source + "[data.validation]" + rest.partition("[data.validation]")[2]
    with pytest.raises((DataError, ConfigError), match="a single picture of 'b'"):
        check(parse_config(text, overrides=('fit.classifier="svm"',)), root, root / "build", root / "work")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (('model.source="edgeopt:lenet5"',), "backbone goes with source"),
        (("train.epochs=2",), "leaves the network as it is"),
        (('model.tail="cut"',), "follow from source"),
    ],
)
def test_contradictions_are_refused_where_the_recipe_is_read(changes: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_config(RECIPE, overrides=changes)


def test_a_backbone_without_weights_is_refused(root: Path) -> None:
    text = RECIPE.replace('weights = "lenet.safetensors"\n', "")
    with pytest.raises(ModelError, match="its features mean nothing"):
        check(parse_config(text, overrides=('compile.targets=["ort"]',)), root, root / "build", root / "work")


def test_offsets_of_prototypes_are_refused(root: Path) -> None:
    config = parse_config(RECIPE, overrides=("balance.prior=1.0", 'compile.targets=["ort"]'))
    with pytest.raises(ConfigError, match=r"prototypes .* are balanced by themselves"):
        check(config, root, root / "build", root / "work")
