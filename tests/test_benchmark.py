"""The benchmark on subjects whose behaviour is known, with a clock that no other process disturbs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from edgeopt import benchmark
from edgeopt.benchmark import scenarios
from edgeopt.benchmark.scenarios import SCENARIOS, Arrivals, StagedBatches, duration, is_quick
from edgeopt.benchmark.tuning import answers_agree, candidates, fastest, leave_out_bf16
from edgeopt.bundle import Bundle, EngineSettings
from edgeopt.config import BenchmarkConfig
from edgeopt.errors import AccuracyError, MeasurementError, StorageError, TargetError
from edgeopt.hardware import Cpu, machine, processor_fingerprint
from edgeopt.measure import latency
from edgeopt.measure.environment import environment
from edgeopt.measure.interleave import Schedule, Warmup, rounds, warm_up
from edgeopt.measure.sensors import Sensors
from edgeopt.measure.subject import Staged, Timed
from edgeopt.runtime import load, open_variant, settings_here
from edgeopt.runtime.session import find_target
from edgeopt.spec import replace

CONFIG = BenchmarkConfig(warmup_s=0.0, duration_s=0.0, minimum_queries=64)


NO_SENSORS = Sensors(Path("/nonexistent"))


class Scripted:
    """A subject whose query number n takes ``cost(n)`` ns, whatever the machine does."""

    def __init__(self, cost: Callable[[int], float], stages: tuple[str, ...] = ("total",)) -> None:
        self.cost, self.stages, self.calls = cost, stages, []

    def run(self, first, queries):
        self.calls.append((first, queries))
        per_stage = [self.cost(number) / len(self.stages) for number in range(first, first + queries)]
        return np.array([[cost] * len(self.stages) for cost in per_stage], dtype=np.int64)


class FakePredictor:
    def __init__(self):
        self.seen = []

    def prepare(self, image):
        self.seen.append(image)
        return image, "geometry"

    def infer(self, prepared):
        assert prepared[1] == "geometry"
        return prepared[0] + 1

    def decode(self, outputs):
        assert outputs > 0
        return outputs


class TestSubjects:
    def test_stages_are_called_in_order_on_images_around_and_around(self):
        predictor = FakePredictor()
        samples = Staged(predictor, [10, 20, 30]).run(2, 5)
        assert predictor.seen == [30, 10, 20, 30, 10]
        assert samples.shape == (5, 3)
        assert (samples >= 0).all()

    def test_no_images(self):
        with pytest.raises(MeasurementError, match="no images to measure"):
            Staged(FakePredictor(), [])

    def test_a_callable_is_called_once_a_query(self):
        calls = []
        assert Timed(lambda: calls.append(1)).run(0, 7).shape == (7, 1)
        assert len(calls) == 7


class TestWarmUp:
    def test_ends_when_the_median_has_settled(self):
        subject = Scripted(lambda number: 1e6 if number < 16 else 1e5)
        result = warm_up(subject, 0.0)
        assert result.stable or result.queries == 8  # zero seconds: the first chunk may already be too long

    def test_a_model_that_never_settles_is_said_to_be_unstable(self):
        subject = Scripted(lambda number: 10.0 ** (number // 8 % 5))
        assert not warm_up(subject, 1e-4).stable


class TestRounds:
    def test_two_run_as_abba_and_then_baab(self):
        subjects = {name: Scripted(lambda number: 1e6) for name in "AB"}
        warmups = dict.fromkeys("AB", Warmup(8, 0.0, 1e6, stable=True))
        generator = rounds(subjects, warmups, Schedule(), NO_SENSORS)
        assert "".join(block.subject for block in next(generator)) == "ABBA"
        assert "".join(block.subject for block in next(generator)) == "BAAB"

    def test_every_subject_is_first_last_and_twice_in_a_row_equally_often(self):
        subjects = {name: Scripted(lambda number: 1e6) for name in "ABC"}
        warmups = dict.fromkeys("ABC", Warmup(8, 0.0, 1e6, stable=True))
        generator = rounds(subjects, warmups, Schedule(), NO_SENSORS)
        orders = ["".join(block.subject for block in next(generator)) for _ in range(3)]
        assert orders == ["ABCCBA", "BCAACB", "CABBAC"]

    @given(st.lists(st.floats(1e4, 1e9), min_size=1, max_size=4), st.integers(1, 4))
    def test_all_subjects_run_the_same_queries(self, medians, count):
        subjects = {str(index): Scripted(lambda number: 1e6) for index in range(len(medians))}
        warmups = {name: Warmup(8, 0.0, median, stable=True) for name, median in zip(subjects, medians, strict=True)}
        generator = rounds(subjects, warmups, Schedule(), NO_SENSORS)
        for _ in range(count):
            next(generator)
        assert len({tuple(sorted(subject.calls)) for subject in subjects.values()}) == 1

    def test_nothing_to_measure(self):
        with pytest.raises(MeasurementError, match="nothing to measure"):
            next(rounds({}, {}, Schedule(), NO_SENSORS))


class TestMeasure:
    def test_percentiles_stages_and_throughput(self):
        stages = ("preprocess", "network", "postprocess")
        result = benchmark.measure({"m": Scripted(lambda number: 3e6, stages)}, CONFIG)["m"]
        assert result.end_to_end.p50_ms == result.end_to_end.p99_ms == pytest.approx(3.0)
        assert {name: stage.p50_ms for name, stage in result.stages.items()} == pytest.approx(dict.fromkeys(stages, 1))
        assert result.throughput_per_s == pytest.approx(1000 / 3)
        assert result.ratio is None
        assert result.environment.fingerprint == environment().fingerprint

    def test_runs_as_many_queries_as_asked(self):
        config = BenchmarkConfig(warmup_s=0.0, duration_s=0.0, minimum_queries=700)
        end_to_end = benchmark.measure({"m": Scripted(lambda number: 5e7)}, config)["m"].end_to_end
        assert end_to_end.queries >= 700
        assert end_to_end.bound_p99_ms == pytest.approx(50.0)

    def test_a_short_run_has_no_bound_on_p99(self):
        end_to_end = benchmark.measure({"m": Scripted(lambda number: 5e7)}, CONFIG)["m"].end_to_end
        assert end_to_end.bound_p90_ms is not None
        assert end_to_end.bound_p99_ms is None

    def test_ratio_against_the_baseline_under_drift(self):
        drift = 1.0 + np.linspace(0.0, 1.0, 10_000)
        subjects = {
            "fp32": Scripted(lambda number: 4e7 * drift[number]),
            "int8": Scripted(lambda number: 2e7 * drift[number]),
        }
        results = benchmark.measure(subjects, CONFIG, baseline="fp32")
        assert results["int8"].ratio.estimate == pytest.approx(0.5, rel=1e-3)
        assert results["int8"].ratio.speedup == pytest.approx(2.0, rel=1e-3)
        assert results["fp32"].ratio is None

    def test_unknown_baseline(self):
        with pytest.raises(MeasurementError, match="'fp64' is not among what is measured: m"):
            benchmark.measure({"m": Scripted(lambda number: 1e6)}, CONFIG, baseline="fp64")

    def test_interrupted_half_way_keeps_what_there_is_and_says_so(self):
        def cost(number):
            if number > 40:
                raise KeyboardInterrupt
            return 3e7

        result = benchmark.measure({"m": Scripted(cost)}, CONFIG)["m"]
        assert result.partial
        assert 0 < result.end_to_end.queries <= 40

    def test_interrupted_before_the_first_round_is_an_interrupt(self):
        def cost(number):
            if number > 5:
                raise KeyboardInterrupt
            return 3e7

        with pytest.raises(KeyboardInterrupt):
            benchmark.measure({"m": Scripted(cost)}, CONFIG)

    def test_progress_ends_at_one(self):
        shares = []
        benchmark.measure({"m": Scripted(lambda number: 3e7)}, CONFIG, progress=shares.append)
        assert shares == sorted(shares)
        assert shares[-1] == 1.0

    def test_a_real_predictor_and_callable_run(self):
        predictor = FakePredictor()
        results = benchmark.benchmark_variants({"a": predictor, "b": predictor}, [1], CONFIG)
        assert set(results) == {"a", "b"}
        assert benchmark.benchmark(predictor, [1], CONFIG).stages.keys() == {"preprocess", "network", "postprocess"}
        assert benchmark.compare({"c": lambda: sum(range(50))}, CONFIG)["c"].stages == {}


class TestFiles:
    def test_round_trip(self, tmp_path):
        results = benchmark.measure({"a": Scripted(lambda n: 3e7), "b": Scripted(lambda n: 2e7)}, CONFIG)
        benchmark.write_results(tmp_path / "r.json", results)
        assert benchmark.read_results(tmp_path / "r.json") == results

    @pytest.mark.parametrize("text", ["", "[]", '{"m": {"name": "m"}}'])
    def test_other_files_are_refused(self, tmp_path, text):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(MeasurementError, match="holds no benchmark results"):
            benchmark.read_results(tmp_path / "r.json")

    def test_missing_file(self, tmp_path):
        with pytest.raises(MeasurementError, match="holds no benchmark results"):
            benchmark.read_results(tmp_path / "none.json")

    def test_unwritable(self, tmp_path):
        with pytest.raises(StorageError, match="cannot write the results"):
            benchmark.write_results(tmp_path / "no" / "r.json", {})


class TestDistribution:
    @given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=200))
    def test_order_and_json(self, samples):
        summary = latency.distribution(np.array(samples))
        assert summary.minimum_ms <= summary.p50_ms <= summary.p90_ms <= summary.p99_ms <= summary.maximum_ms
        assert msgspec.json.decode(msgspec.json.encode(summary), type=latency.Distribution) == summary

    @given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=200))
    def test_the_histogram_counts_every_query(self, samples):
        counted = latency.histogram(np.array(samples))
        assert sum(counted.counts) == len(samples)
        assert len(counted.edges_ms) == len(counted.counts) + 1


class FakeBatchPredictor(FakePredictor):
    """A network that takes at most `limit` images at once."""

    def __init__(self, limit: int = 3):
        super().__init__()
        self.limit, self.portions = limit, []

    def buffer(self, count=1):
        return np.zeros((self.limit, 1))

    def prepare_batch(self, images, out=None):
        self.portions.append(list(images))
        return images, "geometry"

    def infer(self, prepared):
        return prepared[0]

    def decode(self, outputs):
        return outputs

    decode_batch = decode


class FakeClock:
    now_ns = 0

    def perf_counter_ns(self):
        return self.now_ns

    def sleep(self, seconds):
        self.now_ns += round(seconds * 1e9)


class TestScenarios:
    def test_mlperfs_minimums(self):
        assert {name: scenario.queries for name, scenario in SCENARIOS.items()} == {
            "singlestream": 64,
            "multistream": 662,
            "offline": 24_576 // 16,
            "server": 662,
        }

    def test_multistream_sends_eight_images_a_query_in_portions_that_fit(self):
        predictor = FakeBatchPredictor()
        StagedBatches(predictor, list(range(10)), 8).run(1, 1)
        assert predictor.portions == [[8, 9, 0], [1, 2, 3], [4, 5]]

    @pytest.mark.parametrize("name", SCENARIOS)
    def test_each_runs_quickly_and_says_that_it_was_quick(self, name):
        result = benchmark.benchmark_scenario(
            {"m": FakeBatchPredictor(16)}, [1, 2, 3], name, CONFIG, quick=True, per_s=5e3
        )["m"]
        assert result.scenario == name
        assert result.quick
        assert result.samples_per_query == SCENARIOS[name].samples_per_query
        assert result.figure[1] is None or result.figure[1] > 0.0

    def test_a_full_run_lasts_as_mlperf_asks(self):
        for scenario in SCENARIOS.values():
            config = duration(scenario, CONFIG, quick=False)
            assert config.duration_s == 600.0
            assert config.minimum_queries >= scenario.queries
            assert not is_quick(scenario, config)
            assert is_quick(scenario, CONFIG)

    def test_latency_in_server_counts_the_time_in_the_queue(self, monkeypatch):
        clock = FakeClock()
        monkeypatch.setattr(scenarios, "time", clock)
        busy = Scripted(lambda number: clock.sleep(0.002) or 2e6)
        waiting = Arrivals(busy, per_s=2000.0).run(0, 400)  # four times as fast as it can be served
        assert waiting[-1] == pytest.approx(400 * 1.5e6, rel=0.2)
        idle = Arrivals(busy, per_s=5.0).run(0, 100)
        assert np.median(idle) == pytest.approx(2e6, rel=1e-3)

    def test_no_arrivals(self):
        with pytest.raises(MeasurementError, match="positive rate, not 0"):
            Arrivals(Timed(lambda: None), per_s=0.0)


def images():
    return [tiny.colour(name) for name in tiny.COLOURS]


class TestBundles:
    def test_every_variant_that_runs_here_beside_the_baseline(self, tmp_path):
        pytest.importorskip("onnxruntime", reason="measures a real engine")
        bundle = tiny.write(tmp_path / "t.edgeopt", variants=tiny.manifest().variants[:2])
        results = benchmark.benchmark_bundle(bundle, images(), CONFIG)
        assert list(results) == ["ort-fp32", "ort-int8"]
        assert results["ort-int8"].ratio.baseline == "ort-fp32"
        assert set(results["ort-fp32"].stages) == {"preprocess", "network", "postprocess"}

    def test_the_artifacts_accuracy_stands_beside_its_latency(self, tmp_path):
        pytest.importorskip("onnxruntime", reason="measures a real engine")
        bundle = tiny.write(tmp_path / "t.edgeopt", variants=tiny.manifest().variants[:2])
        bundle.record("ort-fp32", accuracy=tiny.accuracy(0.80))
        bundle = bundle.record("ort-int8", accuracy=tiny.accuracy(0.79))
        results = benchmark.benchmark_bundle(bundle, images(), CONFIG)
        assert results["ort-int8"].accuracy.kept == pytest.approx(0.9875)
        assert results["ort-int8"].engine == EngineSettings()
        benchmark.require_accuracy(results, 98.0)
        with pytest.raises(AccuracyError, match=r"of accuracy class 99:\n  ort-int8: keeps 98\.75% of FP32's top1"):
            benchmark.require_accuracy(results, 99.0)
        other = bundle.record("ort-int8", accuracy=tiny.accuracy(0.79, data="other images"))
        with pytest.raises(AccuracyError, match="ort-int8: not known"):
            benchmark.require_accuracy(benchmark.benchmark_bundle(other, images(), CONFIG), 98.0)

    def test_what_a_bundle_keeps_of_a_benchmark(self):
        environment = tiny.latency(1.0).environment
        results = {
            "ort-fp32": tiny.latency(4.0),
            "ort-int8": tiny.latency(3.0, invalid=("other processes ran",)),
            "ov-fp32": tiny.latency(2.0, partial=True),
            "ov-int8": tiny.latency(1.0, environment=replace(environment, threads=1)),
        }
        found = benchmark.found_here(results, tiny.manifest())
        kept = {name: each.latency.end_to_end.p50_ms for name, each in found.items()}
        assert kept == {"ort-fp32": 4.0, "ort-int8": 3.0}
        undisturbed = replace(tiny.manifest().variant("ort-int8"), measured=tiny.measured(tiny.identity(), 2.0))
        assert list(benchmark.found_here(results, tiny.manifest().with_variant(undisturbed))) == ["ort-fp32"]
        assert found["ort-fp32"].machine == tiny.identity("ort")
        assert benchmark.found_here({"ort-fp32": tiny.latency(4.0, scenario="offline")}, tiny.manifest()) == {}

    def test_offline_runs_for_throughput(self, tmp_path):
        pytest.importorskip("openvino", reason="measures a real engine")
        bundle = tiny.write(tmp_path / "t.edgeopt", baseline="ov-fp32", variants=tiny.manifest().variants[2:])
        results = benchmark.benchmark_bundle(bundle, images(), CONFIG, scenario="offline")
        assert {result.engine.hint for result in results.values()} == {"throughput"}

    def test_batches_of_a_real_predictor(self, tmp_path):
        pytest.importorskip("onnxruntime", reason="measures a real engine")
        tiny.write(tmp_path / "t.edgeopt")
        with load(tmp_path / "t.edgeopt", variant="ort-fp32") as predictor:
            samples = StagedBatches(predictor, images(), 8).run(0, 2)
        assert samples.shape == (2, 3)
        assert (samples > 0).all()


def cpu(*features: str, cores: int = 8) -> Cpu:
    return Cpu(model="x", architecture="x86_64", cores=cores, features=features)


class TestTune:
    def test_settings_to_try_for_one_image_at_a_time(self):
        int8 = tiny.manifest().variant("ov-int8")
        assert [settings.threads for settings in candidates(int8, cpu("avx2"), "latency")] == [0, 1, 4, 8]
        precisions = [settings.precision for settings in candidates(int8, cpu("avx512_bf16"), "latency")]
        assert precisions == ["fp32"] * 4 + ["bf16"] * 4

    def test_settings_to_try_for_many_images_at_once(self):
        tried = candidates(tiny.manifest().variant("ov-fp32"), cpu("avx2", cores=2), "throughput")
        assert [(settings.hint, settings.streams) for settings in tried] == [
            ("throughput", 0),
            ("throughput", 1),
            ("throughput", 2),
            ("latency", 0),
        ]
        plain = candidates(tiny.manifest().variant("ort-fp32"), cpu("avx2", cores=2), "throughput")
        assert {settings.hint for settings in plain} == {"latency"}

    def test_the_baseline_is_never_tried_in_bf16(self):
        found = candidates(tiny.manifest().variant("ov-fp32"), cpu("avx512_bf16", cores=2), "latency")
        assert {settings.precision for settings in found} == {"fp32"}

    def test_what_was_tuned_before_comes_first_and_the_default_is_tried_again(self):
        variant = tiny.manifest().variant("ov-fp32")
        tuned = {processor_fingerprint(): {"latency": EngineSettings(threads=3)}}
        found = candidates(replace(variant, tuned=tuned), cpu("avx2", cores=2), "latency")
        assert [settings.threads for settings in found] == [3, 0, 1, 2]

    def test_layers_that_amx_slows_down_are_tried_by_vnni_where_they_were_found(self):
        int8 = tiny.manifest().variant("ov-int8")
        found = candidates(int8, cpu("amx_int8", cores=1), "latency", ("a", "b"))
        assert [(settings.threads, settings.vnni_layers) for settings in found] == [
            (0, ()),
            (1, ()),
            (0, ("a", "b")),
            (1, ("a", "b")),
        ]
        tuned = {processor_fingerprint(): {"latency": EngineSettings(vnni_layers=("c", "d"))}}
        again = candidates(replace(int8, tuned=tuned), cpu("amx_int8", cores=1), "latency", ("a", "b"))
        assert again[0].vnni_layers == ("c", "d"), "what runs now is measured first, as it is"
        in_onnxruntime = candidates(tiny.manifest().variant("ort-int8"), cpu("amx_int8", cores=1), "latency", ("a",))
        assert not any(settings.vnni_layers for settings in in_onnxruntime)

    @pytest.mark.parametrize(
        ("features", "answer", "tried"),
        [
            (("amx_int8", "avx512_vnni"), ("conv",), "default threads, latency, fp32, 1 layers by VNNI"),
            (("amx_int8", "avx512_vnni"), TargetError("not Linux"), None),
            (("avx512_vnni",), ("conv",), None),
        ],
    )
    def test_layers_are_measured_on_processors_with_amx_alone(self, tmp_path, monkeypatch, features, answer, tried):
        pytest.importorskip("openvino", reason="opens a real engine")
        bundle = tiny.write(tmp_path / "t.edgeopt")
        result = benchmark.measure({"default": Scripted(lambda n: 3e7)}, CONFIG, sensors=NO_SENSORS)["default"]

        def slow_layers(model, settings):
            if isinstance(answer, TargetError):
                raise answer
            return answer

        target = dataclasses.replace(find_target("ov"), slow_layers=slow_layers)
        here = replace(machine(), cpu=cpu(*features))
        monkeypatch.setattr("edgeopt.benchmark.tuning.find_target", lambda name: target)
        monkeypatch.setattr("edgeopt.benchmark.tuning.machine", lambda: here)
        monkeypatch.setattr(
            "edgeopt.benchmark.tuning.benchmark_scenario",
            lambda predictors, *arguments, **options: {name: replace(result, name=name) for name in predictors},
        )
        _, tuning = benchmark.tune(bundle, images(), CONFIG, variant="ov-int8")
        assert (tried in tuning.tried) if tried else not any("VNNI" in name for name in tuning.tried)
        assert tuning.left_out.get("layers by VNNI") == ("not Linux" if isinstance(answer, TargetError) else None)

    def test_only_what_is_faster_beyond_doubt_replaces_the_present(self):
        costs = {"present": 30.0, "a little": 29.7, "much": 20.0, "slower": 40.0}
        subjects = {name: Scripted(lambda number, cost=cost: cost * 1e6) for name, cost in costs.items()}
        results = benchmark.measure(subjects, CONFIG, sensors=NO_SENSORS)
        assert fastest(results) == "much"
        assert fastest({name: results[name] for name in ("present", "a little", "slower")}) == "present"

    def test_a_disturbed_run_tunes_nothing(self):
        results = benchmark.measure({"present": Scripted(lambda number: 3e7)}, CONFIG, sensors=NO_SENSORS)
        for change in ({"invalid": ("busy",)}, {"partial": True}):
            with pytest.raises(MeasurementError, match="nothing was tuned"):
                fastest({"present": replace(results["present"], **change)})

    @pytest.mark.parametrize("mode", ["latency", "throughput"])
    def test_the_choice_holds_for_this_machine_alone_and_the_files_stay_as_they_were(self, tmp_path, monkeypatch, mode):
        pytest.importorskip("openvino", reason="opens a real engine")
        bundle = tiny.write(tmp_path / "t.edgeopt")
        results = benchmark.measure(
            {"default": Scripted(lambda n: 3e7), "2 threads": Scripted(lambda n: 2e7)}, CONFIG, sensors=NO_SENSORS
        )

        def measured(predictors, *arguments, **options):
            second = list(predictors)[1]
            slower = {name: replace(results["default"], name=name) for name in predictors}
            return {**slower, second: replace(results["2 threads"], name=second)}

        monkeypatch.setattr("edgeopt.benchmark.tuning.benchmark_scenario", measured)
        after, tuning = benchmark.tune(bundle, images(), CONFIG, variant="ov-int8", mode=mode)
        assert tuning.speedup == pytest.approx(1.5, rel=1e-3)
        opened = Bundle.open(bundle.path)  # compares every hash
        assert opened.manifest == after.manifest
        variant = opened.variant("ov-int8")
        assert settings_here(variant, mode) == tuning.chosen != bundle.variant("ov-int8").engine
        with open_variant(opened, variant, mode=mode) as predictor:
            assert predictor.variant.engine == tuning.chosen
        monkeypatch.setattr("edgeopt.runtime.predictor.processor_fingerprint", lambda: "another")
        assert settings_here(variant) == bundle.variant("ov-int8").engine

    def test_too_few_images_leave_bf16_out_with_the_reason(self, tmp_path, monkeypatch):
        pytest.importorskip("onnxruntime", reason="opens a real engine")
        bundle = tiny.write(tmp_path / "t.edgeopt")
        with ExitStack() as stack:
            exact, reduced = (
                stack.enter_context(open_variant(bundle, bundle.variant("ort-int8"), settings=settings))
                for settings in (EngineSettings(), EngineSettings(precision="bf16"))
            )
            predictors = {"exact": exact, "reduced": reduced}
            assert "images do not tell" in leave_out_bf16(predictors, images())["reduced"]
            assert list(predictors) == ["exact"]
            predictors = {"exact": exact, "reduced": reduced}
            assert leave_out_bf16(predictors, images() * 11) == {}
            assert list(predictors) == ["exact", "reduced"]

    def test_real_engines_agree_with_themselves(self, tmp_path):
        pytest.importorskip("onnxruntime", reason="opens a real engine")
        for spec in (tiny.CLASSIFIER, tiny.DETECTOR):
            tiny.write(tmp_path / f"{spec.name}.edgeopt", spec)
            with load(tmp_path / f"{spec.name}.edgeopt", variant="ort-fp32") as predictor:
                assert answers_agree(predictor, predictor, images()) == 1.0

    def test_a_target_without_such_settings(self, tmp_path):
        engine = replace(tiny.manifest().variants[0], target="trt")
        bundle = tiny.write(tmp_path / "t.edgeopt", variants=(engine, *tiny.manifest().variants[1:]))
        with pytest.raises(TargetError, match="target 'trt', which has no settings to choose"):
            benchmark.tune(bundle, images(), CONFIG, variant=engine.name)
