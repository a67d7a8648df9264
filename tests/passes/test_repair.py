"""Repairs are judged by images that none of them was fitted on, and what helped alone but not together is undone."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from types import ModuleType

import numpy as np
import onnx_ir as ir
import pytest
from graphs import model_of
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.calibrate import CalibrationTable, calibrate
from edgeopt.calibrate.spool import ReadOnDemand
from edgeopt.config import CalibrateConfig
from edgeopt.errors import ModelError
from edgeopt.metrics import Discrepancy
from edgeopt.metrics.discrepancy import RawReading
from edgeopt.passes.quantize.insert import quantize
from edgeopt.passes.quantize.scheme import OPENVINO
from edgeopt.passes.repair import activations, judge, ranges, trials
from edgeopt.passes.repair.allowance import Allowance
from edgeopt.passes.repair.split import Split, spread
from edgeopt.passes.repair.trials import repair
from edgeopt.passes.rewrite.optimize import optimize
from edgeopt.references import importable

RAW = Discrepancy([RawReading()])
X = np.random.default_rng(0).normal(size=(200, 4, 6, 6)).astype(np.float32)
IMAGES = [(str(index), {"x": X[index : index + 1]}) for index in range(len(X))]
NETWORK = """
g (float[1,4,6,6] x, float[16,4,1,1] w1, float[16,16,3,3] w2) => (float[1,16,4,4] y)
{ a = Conv(x, w1)  r = Relu(a)  y = Conv(r, w2) }
"""


def network() -> ir.Model:
    """Two layers; one channel between them is large and goes nowhere, so that a narrower range is better."""
    random = np.random.default_rng(1)
    first, second = random.normal(size=(16, 4, 1, 1)), random.normal(size=(16, 16, 3, 3))
    first[0] *= 16.0
    second[:, 0] = 0.0
    return optimize(model_of(NETWORK, w1=first.astype(np.float32), w2=second.astype(np.float32)))


def table(model: ir.Model, count: int = 16) -> CalibrationTable:
    return calibrate(model, IMAGES[:count], CalibrateConfig(minimum_images=1))


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the judge will say, in order."""
    said: list[float] = []
    following: Iterator[float] = (said.pop(0) for _ in range(99))
    monkeypatch.setattr(judge.Judge, "measure", lambda *_: np.array([next(following)]))
    return said


@given(st.integers(1, 300), st.integers(1, 40))
def test_a_split_loses_nothing_and_shares_nothing(count, judges):
    split = Split.of(range(count), judges)
    assert sorted({*split.fit, *split.judge}) == list(range(count))
    assert split.judge
    assert split.fit
    assert count == 1 or not {*split.fit} & {*split.judge}
    assert count < 2 or len(split.judge) >= min(judges, count // 2)
    assert count < 4 * judges or count < 4 or len(split.judge) == count // 4


@given(st.integers(0, 300), st.integers(1, 130))
def test_items_are_spread_over_all(count, most):
    chosen = list(spread(range(count), most))
    assert len(chosen) == min(count, most)
    assert chosen == sorted(set(chosen))
    assert not chosen or chosen[-1] >= count - 1 - -(-count // most)


def feeds_among(arguments: tuple[object, ...]) -> list[object]:
    """The one argument that is a sequence of network inputs."""
    (found,) = (
        list(each) for each in arguments if isinstance(each, Sequence) and isinstance(next(iter(each), 0), dict)
    )
    return found


@pytest.mark.parametrize("count", [13, 128, 200])
def test_the_judge_sees_no_image_that_a_repair_was_fitted_on(count, monkeypatch):
    fitted: dict[str, list[object]] = {}
    judged: list[object] = []

    def watch(module: ModuleType, name: str) -> None:
        run = getattr(module, name)

        def watched(*arguments, **options):
            fitted.setdefault(name, feeds_among(arguments))  # the last refit is of all images, and is not judged
            return run(*arguments, **options)

        monkeypatch.setattr(module, name, watched)

    def measured(model, feeds):
        judged.extend(feeds)
        return outputs(model, feeds)

    outputs = judge.each_as_written
    watch(activations, "measure_ranges")
    watch(trials, "reconstruct")
    monkeypatch.setattr(judge, "each_as_written", measured)
    model = network()
    repair(model, table(model), OPENVINO, IMAGES[:count], RAW, trials.REPAIRS)
    assert set(fitted) == {"measure_ranges", "reconstruct"}
    judges = {id(feeds) for feeds in judged}
    assert len(judges) == (count // 2 if count < 24 else count // 4)
    for name, images in fitted.items():
        assert images, name
        assert not judges & {id(feeds) for feeds in images}, name


@pytest.mark.parametrize(
    ("count", "repairs", "fitted"),
    [(16, trials.REPAIRS, [8, 16]), (200, trials.REPAIRS, [128]), (16, (*trials.REPAIRS, "shop:nothing"), [8])],
)
def test_kept_layers_are_refitted_on_all_images_when_nothing_is_left_to_judge(count, repairs, fitted, monkeypatch):
    seen, run = [], trials.reconstruct

    def watched(*arguments, **options):
        seen.append(arguments)
        return run(*arguments, **options)

    monkeypatch.setattr(trials, "reconstruct", watched)
    monkeypatch.setattr(trials, "_repaired_by", lambda name, now, *_: now.quantized.clone())
    model = network()
    repaired = repair(model, table(model), OPENVINO, IMAGES[:count], RAW, repairs)
    assert repaired.trials[-1 if len(fitted) == 2 or count == 200 else -2].is_kept
    assert [len(feeds_among(each)) for each in seen] == fitted
    assert all(each[1] is seen[0][1] for each in seen), "from the network as it was before, not from the refitted one"
    if len(fitted) == 2:
        expected, _ = run(*seen[-1])
        assert ir.to_proto(repaired.model).SerializeToString() == ir.to_proto(expected).SerializeToString()


def test_layers_are_not_left_half_refitted_when_the_time_is_up(monkeypatch):
    made, run, clock = [], trials.reconstruct, [0.0]

    def watched(*arguments, **options):
        made.append(run(*arguments, **options)[0])
        clock[0] += 40.0
        return made[-1], []

    monkeypatch.setattr(trials, "reconstruct", watched)
    model = network()
    allowance = Allowance(minutes=1.0, clock=lambda: clock[0])
    repaired = repair(model, table(model), OPENVINO, IMAGES[:16], RAW, allowance=allowance)
    assert len(made) == 2
    assert ir.to_proto(repaired.model).SerializeToString() == ir.to_proto(made[0]).SerializeToString()


def test_images_in_memory_do_not_grow_with_their_number():
    alive, most = 0, 0

    def read(index: int) -> tuple[str, dict[str, np.ndarray]]:
        nonlocal alive, most
        array = X[index : index + 1].copy()
        alive += 1
        most = max(most, alive)
        weakref.finalize(array, forget)
        return str(index), {"x": array}

    def forget() -> None:
        nonlocal alive
        alive -= 1

    model = network()
    repair(model, table(model), OPENVINO, ReadOnDemand(read, range(160)), RAW)
    assert most <= 2 * ranges._IMAGES + 2


def test_what_helped_one_by_one_and_not_together_is_undone(verdicts):
    model = network()
    plain, from_fewer, before, better, together = 1.0, 1.1, 0.8, 0.4, 1.5
    verdicts += [plain, from_fewer, before, better, together]
    repaired = repair(model, table(model), OPENVINO, IMAGES[:16], RAW, ("ranges",))
    (trial,) = repaired.trials
    assert (trial.before, trial.after) == (before, better)
    assert trial.declined == "the repairs that helped one by one did not together"
    assert not trial.is_kept
    assert repaired.discrepancy == plain
    expected = quantize(model, table(model), OPENVINO)
    assert ir.to_proto(repaired.model).SerializeToString() == ir.to_proto(expected).SerializeToString()


def test_a_repair_that_was_declined_keeps_its_own_reason_when_all_is_undone(verdicts):
    model = network()
    verdicts += [1.0, 1.1, 0.8, 0.9, 1.5]
    (trial,) = repair(model, table(model), OPENVINO, IMAGES[:16], RAW, ("ranges",)).trials
    assert trial.after > trial.before
    assert not trial.is_kept


@pytest.mark.parametrize(("after", "kept"), [(0.4, True), (0.9, False)])
def test_exempt_layers_are_chosen_by_the_harm_of_the_ranges_in_use(after, kept, verdicts, monkeypatch):
    seen: dict[str, object] = {}
    measure = activations.measure_ranges

    def measured(*arguments, **options):
        seen["measured"] = measure(*arguments, **options)
        return seen["measured"]

    def dominated(model, scheme, harm, exclude):
        seen["harm"] = harm
        return ()

    monkeypatch.setattr(activations, "measure_ranges", measured)
    monkeypatch.setattr(activations, "harmed_layers", dominated)
    verdicts += [1.0, 1.1, 0.8, after, 0.7]
    model = network()
    first, _ = repair(model, table(model), OPENVINO, IMAGES[:16], RAW, ("ranges", "exemption")).trials
    assert first.is_kept == kept
    found = seen["measured"]
    assert found.harm[("r",)] < 0.9 * found.known_harm[("r",)], "the two differ"
    assert seen["harm"] == (found.harm if kept else found.known_harm)


OWN_REPAIRS = """
import onnx_ir as ir

def perfect(base, quantized, scheme, fit):
    assert scheme.name == "openvino" and fit[0]["x"].shape == (1, 4, 6, 6)
    for node in list(quantized.graph):
        node.name = "spoilt"
    return base

def useless(base, quantized, scheme, fit):
    (bias,) = [value for value in base.graph.initializers.values() if value.name == "w1"]
    bias.const_value = ir.tensor(bias.const_value.numpy() * 0)
    return base

def wrong(base, quantized, scheme, fit):
    return fit
"""


@pytest.fixture
def own_repairs(tmp_path) -> Iterator[None]:
    (tmp_path / "own_repairs.py").write_text(OWN_REPAIRS)
    with importable(tmp_path, "own_repairs:perfect"):
        yield


def test_repairs_of_the_users_own_are_kept_only_where_they_help(own_repairs):
    model = network()
    names = ("own_repairs:useless", "own_repairs:perfect")
    repaired = repair(model, table(model), OPENVINO, IMAGES[:16], RAW, names)
    assert [(trial.name, trial.is_kept) for trial in repaired.trials] == [(names[0], False), (names[1], True)]
    assert repaired.discrepancy < 1e-9
    assert "spoilt" not in [node.name for node in model.graph]


@pytest.mark.parametrize(
    ("name", "message"), [("wrong", "must give an onnx_ir.Model"), ("wrnog", "Did you mean 'wrong'")]
)
def test_a_repair_that_makes_no_network_is_named(own_repairs, name, message):
    model = network()
    with pytest.raises(ModelError, match=message):
        repair(model, table(model), OPENVINO, IMAGES[:16], RAW, (f"own_repairs:{name}",))
