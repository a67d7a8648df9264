"""Repairs are compared by what they do to most images, and by ranges that were not taken from the images that judge."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from four_channels import IMAGES, RAW, typed
from graphs import model_of
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.calibrate import calibrate
from edgeopt.calibrate.spool import feeds_of
from edgeopt.config import CalibrateConfig
from edgeopt.passes.quantize.insert import choose_ranges, quantize
from edgeopt.passes.quantize.placement import place
from edgeopt.passes.quantize.scheme import OPENVINO
from edgeopt.passes.repair import activations
from edgeopt.passes.repair.activations import METHOD, ActivationTrials
from edgeopt.passes.repair.allowance import Allowance
from edgeopt.passes.repair.judge import Judge, typical
from edgeopt.passes.repair.observed import observed_tensors
from edgeopt.passes.repair.ranges import by
from edgeopt.passes.repair.split import Split
from edgeopt.passes.repair.standing import Standing, compared
from edgeopt.passes.repair.trials import repair

LAYERS = """
g (float[N,4,8,8] x, float[8,4,1,1] w1, float[8,1,3,3] w2, float[8,8,1,1] w3, float[8,8,1,1] w4) => (y)
{ a = Conv(x, w1)  r = Relu(a)  b = Conv<group=8, pads=[1,1,1,1]>(r, w2)  c = Relu(b)
  m = MaxPool<kernel_shape=[1,1]>(c)  d = Conv(m, w3)  s = Add(d, m)  y = Conv(s, w4) }
"""


def layers() -> ir.Model:
    """The first channel between the first two layers is much larger than the others: something to equalize."""
    random = np.random.default_rng(4)
    shapes = {"w1": (8, 4, 1, 1), "w2": (8, 1, 3, 3), "w3": (8, 8, 1, 1), "w4": (8, 8, 1, 1)}
    weights = {name: random.normal(size=shape) for name, shape in shapes.items()}
    weights["w1"][0] *= 50.0
    return typed(model_of(LAYERS, **weights))


def test_one_odd_image_decides_nothing():
    before, after = np.full(20, 1.0), np.full(20, 0.5)
    after[3] = 1000.0
    assert typical(after) < typical(before)
    assert typical(np.array([1.0, 3.0])) == 2.0, "of so few none is left out"


def test_what_ruins_more_images_than_chance_is_declined_though_most_come_nearer():
    before, after = np.full(50, 1.0), np.full(50, 0.5)
    after[0] = 100.0
    assert compared("one", before, after).is_kept
    after[:4] = 100.0
    trial = compared("four", before, after)
    assert trial.after < trial.before
    assert not trial.is_kept
    assert trial.declined == "a few images become so much worse that the mean rises from 1 to 8.46"


def test_outputs_that_cease_to_be_finite_ruin_an_image():
    before, after = np.full(20, 1.0), np.full(20, 0.5)
    after[3] = np.nan
    assert not compared("broken", before, after).is_kept
    before[3] = np.inf
    assert compared("broken before", before, after).is_kept


@given(st.lists(st.floats(0.0, 1e6), min_size=1, max_size=60))
def test_the_typical_distance_lies_between_the_least_and_the_mean(distances):
    values = np.array(distances)
    assert values.min() * (1 - 1e-9) <= typical(values) <= values.mean() * (1 + 1e-9)


def test_ranges_are_compared_on_images_that_they_were_not_taken_from(monkeypatch):
    calibrated: list[set[str]] = []
    judged: list[set[str]] = []
    measure = activations.Judge.measure

    def watched(model, images, *arguments):
        images = list(images)
        calibrated.append({name for name, _ in images})
        return calibrate(model, images, *arguments)

    def measured(judge, model):
        inputs = {id(feeds) for feeds in judge._feeds}
        judged.append({name for name, feeds in IMAGES if id(feeds) in inputs})
        return measure(judge, model)

    monkeypatch.setattr(activations, "calibrate", watched)
    monkeypatch.setattr(activations.Judge, "measure", measured)
    model = layers()
    table = calibrate(model, IMAGES, CalibrateConfig(minimum_images=1), tensors=observed_tensors(model))
    trials = repair(model, table, OPENVINO, IMAGES, RAW, ("equalization", "ranges")).trials
    assert trials[0].name == "equalization"
    assert trials[0].is_kept
    everything = {name for name, _ in IMAGES}
    assert all(names == judged[0] for names in judged)
    assert [names & judged[0] for names in calibrated[:-1]] == [set()] * (len(calibrated) - 1)
    assert len(calibrated) == 3, "the network as it is, equalized, and what was kept of that"
    assert calibrated[-1] == everything, "what was found is quantized with the statistics of all"


def test_a_range_with_room_for_all_that_was_seen_has_it_for_the_judges_images_too():
    """Ranges are chosen on images of which none is loud; one that judges is."""
    model = layers()
    images = [(name, {"x": feeds["x"] * np.float32(3 if name == "5" else 1)}) for name, feeds in IMAGES]
    split = Split.of(images, 8)
    config = CalibrateConfig(minimum_images=1)
    every, fitted = (calibrate(model, each, config, None, observed_tensors(model)) for each in (images, split.fit))
    judge = Judge(model, feeds_of(split.judge), RAW)
    plain = quantize(model, every, OPENVINO)
    trials = ActivationTrials(OPENVINO, split.fit, judge, None, Allowance(), None)
    whole = Standing(model, every, (), plain, judge.measure(plain))
    chosen = {"r": (0.0, fitted["r"].maximum), "c": (0.0, 0.5 * fitted["c"].maximum)}
    now = Standing(model, fitted, (), plain, whole.distances, ranges=chosen)
    done = trials.completed(now, whole, images)
    assert fitted["r"].maximum < 0.7 * every["r"].maximum
    assert done.ranges["r"] == (0.0, every["r"].maximum)
    assert done.ranges["c"] == chosen["c"]
    assert done.ranges["x"] == choose_ranges(place(model.clone(), OPENVINO), every, OPENVINO)["x"]


def test_another_method_of_choosing_all_ranges_is_taken_where_it_is_clearly_nearer():
    loud = [(name, {"x": feeds["x"] * (12.0 if index % 3 == 0 else 1.0)}) for index, (name, feeds) in enumerate(IMAGES)]
    model = layers()
    table = calibrate(model, loud, CalibrateConfig(images=16, minimum_images=1))
    repaired = repair(model, table, OPENVINO, loud, RAW, (METHOD,))
    (trial,) = repaired.trials
    assert (trial.name, trial.is_kept) == (f"{METHOD} mse", True)
    expected = quantize(model, by(table, "mse"), OPENVINO)
    assert ir.to_proto(repaired.model).SerializeToString() == ir.to_proto(expected).SerializeToString()


def test_the_method_stays_where_others_are_hardly_nearer():
    model = layers()
    table = calibrate(model, IMAGES, CalibrateConfig(images=16, minimum_images=1, method="minmax"))
    (trial,) = repair(model, table, OPENVINO, IMAGES, RAW, (METHOD,)).trials
    assert (trial.name, trial.is_kept, trial.declined) == (METHOD, False, "no other method is clearly nearer")
