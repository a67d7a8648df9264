"""The search on real engines of a tiny network: what it returns is what it measured."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from fake_clock import FakeClock
from tiny_recipe import RECIPE, Watch

from edgeopt.bundle import Bundle, EngineSettings
from edgeopt.config import BenchmarkConfig, BudgetConfig, DataSource, EvaluateConfig, parse_config
from edgeopt.dataset import load
from edgeopt.errors import AccuracyError, ConfigError
from edgeopt.pipeline import build
from edgeopt.pipeline.budget import budget_of
from edgeopt.pipeline.graphs import MODEL
from edgeopt.pipeline.plans import FLOAT, Plans, SearchedModel, search_plan
from edgeopt.runtime.choice import choose
from edgeopt.runtime.session import availability
from edgeopt.search import Budget, Point, SearchResult, Settings
from edgeopt.spec import ModelSpec

EMPTY = '<ir_version: 10, opset_import: ["" : 18]> g (float[1] x) => (float[1] y) { y = Identity(x) }'
QUICK = BenchmarkConfig(warmup_s=0.0, duration_s=0.02, minimum_queries=8)


@pytest.fixture(scope="module")
def subject(built) -> SearchedModel:
    folder, _ = built
    exact, quantized = (next((folder / "work").glob(f"{stage}-*")) for stage in ("optimize", "quantize"))
    spec = msgspec.json.decode((exact / "spec.json").read_bytes(), type=ModelSpec)
    source = DataSource(format="digits", split="validation", limit=40)
    dataset = load(source, Path.cwd(), labels=spec.labels)
    return SearchedModel(
        ir.load(exact / MODEL), ir.load(quantized / MODEL), spec, "ort", dataset, EvaluateConfig(), QUICK
    )


def each_quantizer_saves(quantizers: int, _: EngineSettings) -> float:
    return 2.0 - 0.1 * quantizers


def each_quantizer_costs(quantizers: int, _: EngineSettings) -> float:
    return 2.0 + 0.1 * quantizers


def test_a_budget_that_all_groups_keep_ships_them_all(
    subject: SearchedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeClock(monkeypatch, each_quantizer_saves)
    result, graph = search_plan(subject, Budget(0.5), tmp_path, Settings(worst_items=8, resamples=50))
    quantizers = sum(node.op_type == "QuantizeLinear" for node in subject.quantized.graph)
    assert result.status == "met"
    assert set(result.best.quantized) == set(result.gain_ms)
    assert result.best.ratio is not None
    assert result.best.ratio.estimate == pytest.approx(1.0 - 0.05 * quantizers)
    assert all(gain.estimate > 0.0 for gain in result.gain_ms.values())
    assert sum(node.op_type == "QuantizeLinear" for node in graph.graph) == quantizers


def test_int8_that_is_slower_is_refused_and_float_is_what_ships(
    subject: SearchedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeClock(monkeypatch, each_quantizer_costs)
    result, graph = search_plan(subject, Budget(0.5), tmp_path, Settings(worst_items=8, resamples=50))
    assert (result.status, result.validations) == ("refused", 0)
    assert "slower in INT8" in result.reason
    assert not any(node.op_type == "QuantizeLinear" for node in graph.graph)


def test_a_budget_of_latency_ships_no_more_int8_than_it_needs(
    subject: SearchedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeClock(monkeypatch, each_quantizer_saves)
    result, graph = search_plan(subject, Budget(None, latency_ms=1.9), tmp_path, Settings(worst_items=8, resamples=50))
    assert result.status == "met"
    assert 0 < len(result.best.quantized) < len(result.gain_ms)
    assert sum(node.op_type == "QuantizeLinear" for node in graph.graph) >= 1
    assert result.best.ratio is not None
    assert 2.0 * result.best.ratio.estimate <= 1.9 + 1e-9


def test_plans_between_all_and_none_are_measured_as_what_they_are(subject: SearchedModel, tmp_path: Path) -> None:
    plans = Plans(subject, tmp_path)
    exact = plans.validate(FLOAT)
    np.testing.assert_array_equal(exact.errors, 0.0)
    groups = plans.problem().groups
    everything = plans.validate(frozenset(groups))
    assert everything.count == len(subject.dataset)
    assert everything.errors.max() > 0.0
    items = np.argsort(-everything.errors)[:8]
    assert plans.discrepancy(frozenset(groups), items) == pytest.approx(everything.errors[items].mean(), rel=1e-3)
    assert plans.discrepancy(FLOAT, items) == pytest.approx(0.0, abs=1e-9)
    assert len(groups) >= 3
    one = plans.graph(frozenset(groups[:1]))
    assert 0 < sum(node.op_type == "QuantizeLinear" for node in one.graph) < 3


def test_whether_int8_pays_is_asked_of_graphs_as_they_ship(subject: SearchedModel, tmp_path: Path) -> None:
    shipped: list[int] = []

    def ship(model: ir.Model) -> ir.Model:
        shipped.append(sum(node.op_type == "QuantizeLinear" for node in model.graph))
        return model

    with Plans(dataclasses.replace(subject, ship=ship), tmp_path) as plans:
        groups = plans.problem().groups
        plans.validate(frozenset(groups))
        plans.gain_ms(groups[0])
        assert shipped == [0]
        assert plans.ratio(frozenset(groups)).estimate > 0.0
    assert shipped[0] == 0 < shipped[1]
    assert len(shipped) == 2


def test_outputs_that_do_not_fit_into_memory_are_made_again(
    subject: SearchedModel, tmp_path: Path, monkeypatch
) -> None:
    def discrepancies() -> tuple[float, list[float]]:
        with Plans(subject, tmp_path) as plans:
            everything = frozenset(plans.problem().groups)
            errors = plans.validate(everything).errors
            return plans.discrepancy(everything, np.arange(8)), errors.tolist()

    kept = discrepancies()
    monkeypatch.setattr("edgeopt.pipeline.plans.KEPT_BYTES", 0)
    again = discrepancies()
    assert again[0] == pytest.approx(kept[0], rel=1e-4)
    np.testing.assert_allclose(again[1], kept[1], rtol=1e-4, atol=1e-9)


def build_with_budget(built, tmp_path: Path, budget: str) -> tuple[Bundle, Watch]:
    copy, watch = Path(shutil.copytree(built[0], tmp_path / "copy")), Watch()
    config = parse_config(RECIPE, overrides=(budget, "benchmark.duration_s=0.0"))
    return build(config, Path.cwd(), copy, copy / "work", watch).bundle, watch


def test_a_build_that_meets_its_budget_ships_the_plan(built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeClock(monkeypatch, each_quantizer_saves)
    bundle, watch = build_with_budget(built, tmp_path, "budget.max_drop='60%'")
    assert "search" in watch.made
    assert "quantize" in watch.reused
    int8 = bundle.variant("ort-int8")
    found = int8.stages.search
    assert found is not None
    assert found.status == "met"
    assert found.best.drop is not None
    assert found.best.drop.estimate <= found.allowed_drop
    assert int8.accepted
    assert int8.nodes["QuantizeLinear"] > 0
    assert choose(bundle.manifest, availability).name == "ort-int8"


def test_a_build_refuses_int8_that_is_slower(built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FakeClock(monkeypatch, each_quantizer_costs)
    bundle, _ = build_with_budget(built, tmp_path, "budget.max_drop='60%'")
    int8 = bundle.variant("ort-int8")
    assert int8.stages.search is not None
    assert int8.stages.search.status == "refused"
    assert not int8.accepted
    assert int8.verdict == int8.stages.search.reason
    assert choose(bundle.manifest, availability).name == "ort-fp32"


def test_a_search_without_a_plan_is_kept_and_ends_the_build_each_time(built, tmp_path: Path, monkeypatch) -> None:
    copy = Path(shutil.copytree(built[0], tmp_path / "copy"))
    nothing = Point(quantized=(), predicted_ms=1.0, predicted_discrepancy=0.0)
    found = SearchResult(
        status="no_plan",
        reason="the closest loses 0.2",
        best=nothing,
        allowed_drop=0.0,
        certain=False,
        curve=(nothing,),
        sensitivity={},
        gain_ms={},
        validations=3,
    )
    monkeypatch.setattr("edgeopt.pipeline.budget.search_plan", lambda *_, **__: (found, ir.from_onnx_text(EMPTY)))
    for watch in (Watch(), again := Watch()):
        with pytest.raises(AccuracyError, match=r"ort: the closest loses 0\.2.*stage\.json"):
            build(parse_config(RECIPE, overrides=("budget.max_drop=0.0",)), Path.cwd(), copy, copy / "work", watch)
    assert "search" in again.reused


@pytest.mark.parametrize(
    ("table", "limits"),
    [
        ({}, Budget(0.005, relative=True)),
        ({"max_drop": 0.01}, Budget(0.01)),
        ({"max_drop": "1%", "latency_ms": 5.0}, Budget(0.01, relative=True, latency_ms=5.0)),
        ({"latency_ms": 5.0}, Budget(None, latency_ms=5.0)),
    ],
)
def test_the_recipes_budget_limits_drop_latency_or_both(table: dict[str, object], limits: Budget) -> None:
    assert budget_of(msgspec.convert(table, BudgetConfig)) == limits


@pytest.mark.parametrize("wrong", ["'half'", "'-1%'", "2.0", "'0.5'"])
def test_a_budget_that_is_none_is_refused_by_the_recipe(wrong: str) -> None:
    with pytest.raises(ConfigError, match="max_drop"):
        parse_config(RECIPE, overrides=(f"budget.max_drop={wrong}",))
