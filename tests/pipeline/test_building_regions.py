"""R-CNN from a recipe to a bundle: what OpenCV proposes of a picture, and a classifier on it, in every engine."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from tiny_recipe import Watch

from edgeopt.config import parse_config
from edgeopt.errors import DataError
from edgeopt.metrics import DetectionMetrics
from edgeopt.pipeline import build
from edgeopt.report import content, to_terminal
from edgeopt.runtime import availability, load, verify

SIDE = 96
COLOURS = ((40, 40, 230), (230, 60, 40))
"""Of the two classes, BGR."""
BACKBONE = """<ir_version: 8, opset_import: ["" : 18]> colours (float[N,3,32,32] x) => (float[N,16] y)
<float[16,3,1,1] v = {{{first}}}, float[16,16,1,1] w = {{{second}}}> {{
  [conv] c = Conv (x, v)
  [relu] r = Relu (c)
  [mix] d = Conv (r, w)
  [hidden] map = Relu (d)
  [pool] p = GlobalAveragePool (map)
  [flat] y = Flatten (p)
}}"""
"""Random mixtures of the colours of each pixel."""
RECIPE = """
name = "regions"
[model]
source = "edgeopt:features"
backbone = "backbone.onnx"
[model.preprocessing]
steps = [{{ type = "resize", size = [32, 32] }}]
normalization = {{ scale = 0.00392156862745098 }}
{data}
[fit]
classifier = "svm"
features = "map"
grid = 2
folds = 2
[fit.regions]
count = 20
picture_size = [96, 96]
[quantize]
repairs = []
[align]
enabled = false
[precision]
gpu = "fp32"
[compile]
targets = {targets}
[benchmark]
warmup_s = 0.0
duration_s = 0.02
minimum_queries = 2
"""


def written(folder: Path, pictures: int, seed: int, *, drawn: bool = False) -> str:
    """Write pictures of two squares, and one of nothing at all; return their table of a recipe.

    Without `drawn`, they have a disc, which is no object, and the noise of a camera.
    """
    folder.mkdir()
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    for number in range(pictures + 1):
        image = np.full((SIDE, SIDE, 3), 90 + number + 2 * seed, np.uint8)
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
        if number < pictures and not drawn:
            cv2.circle(image, (48, 48), 9, (60, 200, 60), thickness=-1)  # stands out, and is no object
        for kind, colour in enumerate(COLOURS if number < pictures else ()):
            width, height = (int(each) for each in rng.integers(18, 34, 2))
            x = int(rng.integers(2, 37 - width)) + kind * 59
            y = int(rng.integers(2, SIDE - height - 2))
            cv2.rectangle(image, (x, y), (x + width - 1, y + height - 1), colour, thickness=-1)
            box = {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
            annotations.append({"id": len(annotations), "image_id": number, "category_id": kind + 1, **box})
        if number < pictures and not drawn:
            image = (image + rng.integers(-3, 4, image.shape)).clip(0, 255).astype(np.uint8)
        assert cv2.imwrite(str(folder / f"{number}.png"), image)
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
    table = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(table))
    return f'format = "coco"\npath = "{folder}"\nannotations = "{folder / "boxes.json"}"\n'


def recipe(root: Path, train: str, targets: list[str]) -> str:
    rng = np.random.default_rng(0)
    first, second = (", ".join(f"{value:.3f}" for value in rng.normal(size=size) * 0.5) for size in (48, 256))
    onnx.save(onnx.parser.parse_model(BACKBONE.format(first=first, second=second)), root / "backbone.onnx")
    sets = {"train": train, "test": written(root / "test", 8, 1), "calibration": written(root / "calibration", 15, 2)}
    data = "".join(f"[data.{name}]\n{source}" for name, source in sets.items())
    return RECIPE.format(data=data, targets=targets)


@pytest.mark.timeout(900)  # a quarter of a minute, of a processor that may be shared
def test_regions_become_a_bundle_that_finds_objects_in_every_engine(tmp_path: Path) -> None:
    from edgeopt.targets import find_target

    targets = [name for name in ("ort", "ov") if availability(name).ok]
    rtx = ["rtx"] if find_target("rtx").can_compile().ok else []
    text = recipe(tmp_path, written(tmp_path / "train", 8, 0), [*targets, *rtx])
    built = build(parse_config(text), tmp_path, tmp_path / "build", tmp_path / "work", Watch()).bundle
    manifest = built.manifest
    assert {each.target for each in manifest.variants} == {*targets, *rtx}
    for variant in manifest.variants:
        if variant.target in targets:
            assert isinstance(variant.accuracy.metrics, DetectionMetrics)
            assert variant.accuracy.metrics.ap50 > 0.9
    assert manifest.variants[0].stages.fit.features == 64
    assert manifest.variants[0].stages.fit.of_regions
    verify(built.path).require()
    to_terminal(content(manifest))
    with load(built.path) as predictor:
        assert sorted(predictor.predict(tmp_path / "test" / "0.png").labels) == ["blue", "red"]
        assert len(predictor.predict(tmp_path / "test" / "8.png")) == 0


def test_pictures_in_which_nothing_is_proposed_are_told_of(tmp_path: Path) -> None:
    text = recipe(tmp_path, written(tmp_path / "train", 8, 0, drawn=True), ["ort"])
    words = r"none of the regions that are proposed in the 8 pictures of .* shows background.* Take photographs"
    with pytest.raises(DataError, match=words):
        build(parse_config(text), tmp_path, tmp_path / "build", tmp_path / "work", Watch())
