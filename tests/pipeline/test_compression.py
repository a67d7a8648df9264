"""[compress]: goals that are met or not, what the bundle says of it, and what is made again."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir as ir
import pytest
from tiny import CLASSIFIER
from tiny_recipe import RECIPE, Watch

from edgeopt.benchmark import LatencyResult, compare
from edgeopt.bundle import Bundle
from edgeopt.bundle.records import Ratio
from edgeopt.config import BenchmarkConfig, CompressConfig, Config, parse_config
from edgeopt.errors import ConfigError, ModelError
from edgeopt.pipeline import build, check, compression, export_model
from edgeopt.pipeline.compression import require_prunable
from edgeopt.pipeline.held_to_goal import held_to_goal
from edgeopt.pipeline.job import Job
from edgeopt.pipeline.variants import BuiltVariant
from edgeopt.pipeline.workspace import Artifact
from edgeopt.report import content, to_html, to_json
from edgeopt.source import Source
from edgeopt.spec import replace

DATA = Path(__file__).resolve().parents[1] / "data"


def recipe(*overrides: str) -> Config:
    return parse_config(RECIPE, overrides=overrides)


class StopsInCompress(Watch):
    def update(self, done: float, total: float = 1.0, text: str = "") -> None:
        super().update(done, total, text)
        if self._stage == "compress" and text.startswith("epoch 2/"):
            raise KeyboardInterrupt


def exported(config: Config, folder: Path, watch: Watch) -> Path:
    return export_model(config, Path.cwd(), folder / "work", folder / "model.onnx", watch)


def built(config: Config, folder: Path, watch: Watch) -> Bundle:
    return build(config, Path.cwd(), folder, folder / "work", watch).bundle


def test_a_share_of_the_parameters_is_met_trained_told_and_kept(tmp_path: Path) -> None:
    watch = Watch()
    goal = ("compress.parameters=0.5", "quantize.enabled=false")
    bundle = built(recipe(*goal), tmp_path, watch)
    said = bundle.manifest.variants[0].stages.compression
    assert said is not None
    assert said.reached
    assert 0.3 < said.parameters <= 0.5
    assert said.macs < 1.0
    assert said.metric == "top-1"
    assert said.before is not None
    assert said.after is not None
    assert all(variant.stages.compression == said for variant in bundle.manifest.variants)
    assert "% of the parameters" in watch.said["compress"]
    again, other = Watch(), Watch()
    exported(recipe(*goal), tmp_path, again)
    assert {"prune", "compress", "export"} <= {*again.reused}
    exported(recipe(*goal, "compress.teacher=0.9"), tmp_path, other)
    assert "prune" in other.reused
    assert "compress" in other.made


def test_a_latency_that_no_pruning_gives_ends_with_the_nearest_and_its_figures(tmp_path: Path) -> None:
    watch = Watch()
    exported(recipe('compress.latency="0.01x"', "quantize.enabled=false", "compress.images=16"), tmp_path, watch)
    assert "the goal of 0.01 share of the latency was not reached: this is the nearest" in watch.said["prune"]
    assert re.search(r"\d\.\d\d× the latency \(.*, ort fp32\), \d+% of the parameters", watch.said["prune"])


def measures(monkeypatch: pytest.MonkeyPatch, *figures: float) -> None:
    """Let every measurement of a pruned network end with the next of these shares of the latency."""
    coming = iter(figures)

    def told(queries: Mapping[str, Callable[[], object]], config: BenchmarkConfig, baseline: str) -> object:
        real: dict[str, LatencyResult] = compare(queries, config, baseline=baseline)
        share = next(coming)
        return {"pruned": replace(real["pruned"], ratio=Ratio(baseline, share, 0.9 * share, 1.1 * share))}

    monkeypatch.setattr(compression, "compare", told)


def test_the_finished_engine_tells_if_the_goal_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goal = recipe('compress.latency="0.5x"', "quantize.repairs=[]", "compress.images=16")
    lucky, network, finished = (0.3, 0.6), (0.49, 0.48), 0.55
    measures(monkeypatch, *lucky, *network, finished)
    watch, again = Watch(), Watch()
    bundle = built(goal, tmp_path, watch)
    said = bundle.manifest.variants[0].stages.compression
    assert said is not None
    assert said.latency is not None
    assert said.finished is not None
    assert (said.latency.estimate, said.finished.estimate) == (0.48, finished)
    assert not said.reached
    assert "2 networks tried" in watch.said["prune"]
    missed = r"the goal of 0.5 share of the latency was not reached by the finished engine. 0.55× the latency \(0"
    assert re.match(missed, watch.said["goal"])
    assert re.search("pruning: " + missed, " ".join(bundle.manifest.notes))
    assert all(variant.stages.compression == said for variant in bundle.manifest.variants)
    assert json.loads(to_json(content(bundle.manifest)))["compression"]["finished"]["estimate"] == finished
    assert re.search(missed, to_html(content(bundle.manifest)))
    assert built(goal, tmp_path, again).manifest == bundle.manifest
    assert "goal" in again.reused


def test_the_yardstick_of_a_finished_engine_is_what_ships_without_pruning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    def watched(job: Job, pruned: Artifact, engine: BuiltVariant, unpruned: BuiltVariant) -> Artifact:
        held.append((engine, unpruned))
        return held_to_goal(job, pruned, engine, unpruned)

    monkeypatch.setattr(importlib.import_module("edgeopt.pipeline.build"), "held_to_goal", watched)
    measures(monkeypatch, 0.49, 0.48, 0.5)
    repairs = 'quantize.repairs=["equalization", "bias_correction"]'
    bundle = built(recipe('compress.latency="0.5x"', "compress.images=16", repairs), tmp_path, Watch())
    plain = built(recipe(repairs), tmp_path / "plain", Watch())
    ((engine, unpruned),) = held
    assert unpruned.name == engine.name
    assert unpruned.precision == "int8"
    assert unpruned.compiled.folder != engine.compiled.folder
    shipped = plain.file(engine.name).read_bytes()
    assert any(path.read_bytes() == shipped for path in unpruned.compiled.folder.iterdir())
    assert bundle.file(engine.name).read_bytes() != shipped


def test_a_goal_that_the_finished_engine_reaches_is_no_shortfall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measures(monkeypatch, 0.49, 0.48, 0.5)
    bundle = built(recipe('compress.latency="0.5x"', "quantize.enabled=false"), tmp_path, Watch())
    said = bundle.manifest.variants[0].stages.compression
    assert said is not None
    assert said.reached
    assert said.summary().startswith("0.50× the latency (0.45 to 0.55")
    assert "ort fp32), 0.48× in the search, " in said.summary()
    assert not any("pruning" in note for note in bundle.manifest.notes)


def test_a_latency_that_it_has_already_prunes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing is to be pruned: the network takes \d+\.\d+ ms"):
        exported(recipe('compress.latency="90000 ms"', "quantize.enabled=false"), tmp_path, Watch())


def test_a_training_that_was_stopped_goes_on_to_the_same_network(tmp_path: Path) -> None:
    config = recipe("compress.parameters=0.5", "quantize.enabled=false", "compress.train.epochs=2")
    stopped, resumed = StopsInCompress(), Watch()
    with pytest.raises(KeyboardInterrupt, match="run it again to go on"):
        exported(config, tmp_path, stopped)
    on = exported(config, tmp_path, resumed)
    assert {"train", "prune"} <= {*resumed.reused}
    assert on.read_bytes() == exported(config, tmp_path / "whole", Watch()).read_bytes()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (('compress.latency="fast"',), 'a share of the unpruned latency as in "0.6x"'),
        (("compress.images=8",), "takes one goal"),
        (('compress.latency="0.5x"', "compress.parameters=0.5"), "takes one goal"),
        (('compress.latency="1.5x"',), "makes a network smaller"),
        (('compress.latency="0 ms"',), "makes a network smaller"),
        (("compress.parameter=0.5",), "Did you mean 'parameters'"),
    ],
)
def test_goals_that_mean_nothing_are_refused_at_once(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        recipe(*overrides)


def test_pruning_without_training_is_refused() -> None:
    text = RECIPE.replace("[train]\nepochs = 1\n", "")
    with pytest.raises(ConfigError, match=r"\[compress.train\], or in \[train\]"):
        parse_config(text, overrides=("compress.parameters=0.5",))


def test_everything_against_it_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    config = recipe('compress.latency="0.5x"', 'compress.exclude=["featurs.*"]', 'compress.target="trt"')
    with pytest.raises(ConfigError) as caught:
        check(config, Path.cwd(), tmp_path, tmp_path)
    assert "no layer is called 'featurs.*'" in str(caught.value)
    assert "[compress] latency is measured on target 'trt', which cannot run here" in str(caught.value)


def test_a_graph_cannot_lose_channels() -> None:
    source = Source(spec=CLASSIFIER, onnx=ir.load(DATA / "tiny_classifier.onnx"), has_weights=True)
    with pytest.raises(ModelError, match="it is a graph, and only a torch network can lose channels"):
        require_prunable(source, CompressConfig(parameters=0.5))
