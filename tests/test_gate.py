"""The gate on simulated machines: what it must never do, and what it must see."""

from __future__ import annotations

import functools
import os
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from edgeopt import benchmark
from edgeopt.bundle.records import ClassChange
from edgeopt.config import BenchmarkConfig
from edgeopt.errors import BundleError, MeasurementError, ModelError
from edgeopt.gate import (
    EXIT_CODES,
    AccuracyFinding,
    GateConfig,
    Opened,
    OperatingFinding,
    Side,
    gate,
    gate_bundles,
    gate_stored,
    read_stored,
    to_json,
    to_junit,
    to_markdown,
)
from edgeopt.gate.bundles import launch_workers
from edgeopt.gate.decide import FIRST_LOOK, Launch, compare, decide
from edgeopt.gate.rounds import Rounds
from edgeopt.gate.run import _settled
from edgeopt.gate.verdict import LatencyFinding, Verdict
from edgeopt.intervals import Interval
from edgeopt.measure import worker as worker_module
from edgeopt.measure.environment import environment
from edgeopt.measure.sensors import Sensors
from edgeopt.measure.worker import Worker, _serve
from edgeopt.spec import replace

NOWHERE = Sensors(Path("/nonexistent"))
CONFIG = GateConfig(warmup_s=0.0, maximum_s=600.0)
"""Ends by launches: a simulated machine has no time."""


class Machine:
    """Simulated time that drifts and is disturbed; all subjects of one machine live through the same.

    Each launch gives each subject a luck of its own for as long as it lives, as memory does to real processes.
    """

    def __init__(self, seed: int, noise: float = 0.03, hog: float = 0.0, luck: float = 0.014) -> None:
        self.generator, self.noise, self.hog, self.luck, self.queries = np.random.default_rng(seed), noise, hog, luck, 0

    def subject(self, milliseconds: float):
        machine = self
        lucky = milliseconds * machine.generator.lognormal(0.0, machine.luck)

        class Subject:
            stages = ("total",)

            def run(self, first, queries):
                drift = 1.0 + 0.1 * np.sin(machine.queries / 700.0)
                hogged = 1.7 if machine.generator.random() < machine.hog else 1.0
                machine.queries += queries
                samples = lucky * drift * hogged * machine.generator.lognormal(0.0, machine.noise, queries)
                return (samples[:, None] * 1e6).astype(np.int64)

        return Subject()

    def launch(self, slowdown: float = 1.0, sensors: Sensors = NOWHERE):
        """What `gate` calls for each launch."""
        times = {"baseline": 5.0, "twin": 5.0, "candidate": 5.0 * slowdown}
        return lambda _: nullcontext(Opened({name: self.subject(ms) for name, ms in times.items()}, sensors))


def run(machine: Machine, slowdown: float, **changes):
    return gate(machine.launch(slowdown), msgspec.structs.replace(CONFIG, **changes))


def test_opening_the_engines_counts_as_time(monkeypatch):
    """Of 60 s that are allowed, opening took 100: one round is run, and nothing is launched again."""
    now, opened, rounds = [0.0], [], []

    def clock() -> float:
        now[0] += 0.01
        return now[0]

    machine = Machine(0)

    @contextmanager
    def launch(number):
        now[0] += 100.0
        with machine.launch()(number) as found:
            opened.append(machine.queries)
            yield found

    add = Rounds.add
    monkeypatch.setattr(Rounds, "add", lambda self, blocks: (rounds.append(blocks), add(self, blocks)))
    monkeypatch.setattr(time, "perf_counter", clock)
    verdict = gate(launch, msgspec.structs.replace(CONFIG, maximum_s=60.0))
    assert verdict.outcome == "invalid"
    assert len(opened) == 1
    assert len(rounds) == 1


class TestOutcomes:
    @pytest.mark.parametrize("seed", range(8))
    def test_equal_models_never_fail(self, seed):
        assert run(Machine(seed), 1.0).outcome == "pass"

    @pytest.mark.parametrize("seed", range(8))
    def test_five_percent_slower_fails(self, seed):
        verdict = run(Machine(seed), 1.05)
        assert verdict.outcome == "fail"
        assert "slower" in verdict.reasons[0]
        assert verdict.latency.ratio.low < 1.05 < verdict.latency.ratio.high * 1.01

    @pytest.mark.parametrize(("slowdown", "outcome"), [(0.5, "pass"), (2.0, "fail")])
    def test_what_is_clear_ends_early(self, slowdown, outcome):
        verdict = run(Machine(0), slowdown, precision=0.0)
        assert verdict.outcome == outcome
        assert verdict.latency.launches == FIRST_LOOK

    def test_what_is_unclear_is_launched_again(self):
        calm, wild = (run(Machine(1, luck=luck), 1.03).latency.launches for luck in (0.001, 0.03))
        assert calm < wild

    def test_processes_that_differ_for_life_do_not_make_equal_models_fail(self):
        """With one launch a model would often seem some per cent slower than itself, and surely so."""
        outcomes = [run(Machine(seed, noise=0.002, luck=0.03), 1.0).outcome for seed in range(20)]
        assert "fail" not in outcomes
        assert outcomes.count("pass") >= 18

    def test_the_slowdown_is_seen_through_such_differences(self):
        outcomes = [run(Machine(seed, noise=0.002, luck=0.014), 1.05).outcome for seed in range(20)]
        assert outcomes.count("fail") >= 19

    def test_time_that_is_used_up_ends_it_too(self):
        assert run(Machine(0), 1.0, maximum_s=0.0).outcome == "invalid"

    def test_faster_passes(self):
        assert run(Machine(0), 0.5).outcome == "pass"

    @pytest.mark.parametrize("seed", range(6))
    def test_equal_models_on_a_hogged_machine_never_fail(self, seed):
        assert run(Machine(seed, hog=0.2), 1.0).outcome in ("pass", "invalid")

    def test_a_hopeless_machine_is_invalid_and_not_a_pass(self):
        verdict = run(Machine(1, noise=6.0), 1.0, maximum_launches=4)
        assert verdict.outcome == "invalid"
        assert verdict.exit_code == 3

    def test_a_slowdown_below_the_absolute_floor_passes(self):
        assert run(Machine(2), 1.05, absolute_floor_ms=0.5).outcome == "pass"

    def test_a_busy_machine_is_invalid_with_the_load_in_the_reason(self, tmp_path):
        busy = Machine(3).launch(sensors=_AlwaysBusy(tmp_path))
        verdict = gate(busy, msgspec.structs.replace(CONFIG, maximum_launches=2))
        assert verdict.outcome == "invalid"
        assert "other processes took 50% of the processors" in verdict.reasons[0]
        assert verdict.latency is None

    def test_other_subjects(self):
        with pytest.raises(MeasurementError, match="baseline, twin, candidate, not a"):
            gate(lambda _: nullcontext(Opened({"a": Machine(0).subject(1.0)}, NOWHERE)), CONFIG)


def fails(random: np.random.Generator, boards: int, config: GateConfig) -> bool:
    """Gate equal models on so many boards, looking after every launch as the gate does; True if any board fails."""

    def failed() -> bool:
        launches: list[Launch] = []
        while len(launches) < config.maximum_launches and not _settled(launches, config):
            first, twin, candidate = random.normal(0.0, 0.02, 3)
            launches.append(_launch(float(np.exp(candidate - (first + twin) / 2)), float(np.exp(twin - first))))
        return decide(compare(launches, config), None, (), config)[0] == "fail"

    return any(failed() for _ in range(boards))


def test_many_boards_fail_an_equal_candidate_as_rarely_as_one_does():
    """Eight boards at 95 % each would fail one in six families; the floors, which make it rarer still, are off."""
    config = GateConfig(relative_floor=0.0, absolute_floor_ms=0.0, maximum_launches=8, minimum_launches=5)
    loose = [fails(np.random.default_rng(seed), 8, config) for seed in range(200)]
    strict = [fails(np.random.default_rng(seed), 8, replace(config, boards=8)) for seed in range(200)]
    assert np.mean(strict) <= 0.025 + 2 * np.sqrt(0.025 / 200)
    assert np.mean(loose) > np.mean(strict)
    slowed = [_launch(1.2 + 0.01 * (-1) ** number, 1.0) for number in range(5)]
    outcome, reasons = decide(compare(slowed, replace(config, boards=8)), None, (), replace(config, boards=8))
    assert outcome == "fail"
    assert "as one of 8 boards at least 1.1" in reasons[0]


def test_a_pass_of_several_boards_needs_no_wider_interval():
    launches = [_launch(1.0 + 0.01 * (-1) ** number, 1.0) for number in range(5)]
    one, many = (compare(launches, GateConfig(boards=boards)) for boards in (1, 20))
    assert one.low_of_boards is None
    assert many.low_of_boards < many.ratio.low
    assert one.ratio == many.ratio
    assert decide(many, None, (), GateConfig(boards=20))[0] == "pass"


class _AlwaysBusy(Sensors):
    """Sensors of a machine whose other processes take half of it."""

    def __init__(self, root: Path) -> None:
        (root / "proc").mkdir()
        self.file, self.ticks = root / "proc/stat", 0
        super().__init__(root)

    def read(self):
        self.ticks += 10
        self.file.write_text(f"cpu  {self.ticks} 0 0 {self.ticks} 0 0 0 0\n")
        return super().read()


class TestDecide:
    @given(st.lists(st.floats(0.5, 2.0), min_size=2, max_size=16))
    def test_a_model_against_itself_never_fails(self, noises):
        launches = [_launch(ratio=1.0, noise=noise) for noise in noises]
        assert decide(compare(launches, GateConfig()), None, (), GateConfig())[0] != "fail"

    def test_a_difference_of_the_baseline_from_itself_raises_the_floors(self):
        finding = compare([_launch(ratio=1.06, noise=1.04)] * 5, GateConfig())
        assert finding.relative_floor == pytest.approx(0.04)
        assert finding.absolute_floor_ms == pytest.approx(0.04 * finding.baseline_ms)

    def test_the_interval_is_as_wide_as_launches_differ(self):
        widths = []
        for spread in (0.01, 0.02):
            launches = [_launch(ratio=1.0 + spread * (-1) ** number, noise=1.0) for number in range(6)]
            ratio = compare(launches, GateConfig()).ratio
            widths.append(ratio.high - ratio.low)
        assert widths[1] == pytest.approx(2.0 * widths[0], rel=0.01)

    def test_lost_accuracy_fails_even_when_nothing_could_be_timed(self):
        lost = AccuracyFinding(metric="top1", baseline=0.80, candidate=0.78, allowed_drop=0.01)
        outcome, reasons = decide(None, lost, ["too busy"], GateConfig())
        assert outcome == "fail"
        assert reasons == ("top1 fell from 80.00 % to 78.00 %, by 2.00 points where 1.00 are allowed",)

    def test_a_lost_operating_point_fails_although_the_main_metric_is_kept(self):
        operating = OperatingFinding(score=0.5, baseline=0.70, candidate=0.66, allowed_drop=0.02)
        lost = AccuracyFinding(metric="ap", baseline=0.5, candidate=0.5, allowed_drop=0.01, operating=operating)
        outcome, reasons = decide(None, lost, (), GateConfig())
        assert outcome == "fail"
        assert reasons == ("F1 at score 0.5 fell from 70.00 % to 66.00 %, by 4.00 points where 2.00 are allowed",)

    def test_a_class_that_fell_beyond_chance_fails_where_that_is_asked_for(self):
        cat = ClassChange(label="cat", support=90, before=0.8, after=0.6, low=-0.3, high=-0.1, beyond_chance=True)
        rare = ClassChange(label="rare", support=2, before=1.0, after=0.5, low=-1.0, high=0.0)
        lost = AccuracyFinding(metric="ap", baseline=0.5, candidate=0.5, allowed_drop=0.01, classes=(rare, cat))
        assert decide(None, lost, ["too busy"], GateConfig())[0] == "invalid"
        outcome, reasons = decide(None, replace(lost, allowed_class_drop=0.05), (), GateConfig())
        assert outcome == "fail"
        assert reasons == ("class 'cat' fell from 80.00 % to 60.00 %, by 20.00 points where 5.00 are allowed",)
        assert decide(None, replace(lost, allowed_class_drop=0.2), ["too busy"], GateConfig())[0] == "invalid"

    def test_what_loses_exactly_what_is_allowed_passes(self):
        lost = AccuracyFinding(metric="top1", baseline=0.55, candidate=0.53, allowed_drop=0.02)
        assert 0.55 - 0.53 > 0.02
        assert decide(None, lost, ["too busy"], GateConfig())[0] == "invalid"

    def test_wide_intervals_are_neither_pass_nor_fail(self):
        finding = _finding(Interval(estimate=1.04, low=0.99, high=1.09))
        assert decide(finding, None, (), GateConfig())[0] == "invalid"


def _launch(ratio: float, noise: float) -> Launch:
    return Launch(baseline_ms=10.0, candidate_ms=10.0 * ratio, ratio=ratio, noise=noise, rounds=8, disturbed=0)


def _finding(ratio: Interval) -> LatencyFinding:
    return LatencyFinding(
        baseline_ms=10.0,
        candidate_ms=10.0 * ratio.estimate,
        ratio=ratio,
        noise=Interval(estimate=1.0, low=0.995, high=1.005),
        relative_floor=0.01,
        absolute_floor_ms=0.1,
        launches=5,
        rounds=40,
        disturbed_rounds=1,
    )


def _results():
    config = BenchmarkConfig(warmup_s=0.0, duration_s=0.0)
    subjects = {name: Machine(6, noise=0.01).subject(30.0) for name in ("fp32", "int8")}
    return benchmark.measure(subjects, config, sensors=NOWHERE)


class TestStored:
    def test_same_machine(self):
        machine = Machine(5)
        own = environment().fingerprint
        config = msgspec.structs.replace(CONFIG, relative_floor=0.12)
        stored = [5.0 + 0.1 * number for number in range(-5, 6)]
        assert gate_stored(stored, own, machine.subject(5.0), config, sensors=NOWHERE).outcome in ("pass", "invalid")
        assert gate_stored(stored, own, machine.subject(5.4), config, sensors=NOWHERE).outcome in ("pass", "invalid")
        assert gate_stored(stored, own, machine.subject(7.0), config, sensors=NOWHERE).outcome == "fail"

    def test_results_of_a_benchmark_become_a_baseline(self, tmp_path):
        results = _results()
        benchmark.write_results(tmp_path / "r.json", results)
        stored = read_stored(tmp_path / "r.json", "int8")
        assert stored.fingerprint == environment().fingerprint
        assert stored.median_ms == results["int8"].series.median_ms
        with pytest.raises(MeasurementError, match=r"no results of 'None'. It has: fp32, int8"):
            read_stored(tmp_path / "r.json")

    @pytest.mark.parametrize(
        ("change", "reason"),
        [({"partial": True}, "interrupted"), ({"invalid": ("busy",)}, "busy"), ({"scenario": "server"}, "server")],
    )
    def test_doubtful_results_are_no_baseline(self, tmp_path, change, reason):
        results = {"m": msgspec.structs.replace(_results()["fp32"], **change)}
        benchmark.write_results(tmp_path / "r.json", results)
        with pytest.raises(MeasurementError, match=f"cannot be a baseline: .*{reason}"):
            read_stored(tmp_path / "r.json")

    def test_a_file_of_something_else(self, tmp_path):
        (tmp_path / "r.json").write_text("{}")
        with pytest.raises(MeasurementError, match="no results of 'm'"):
            read_stored(tmp_path / "r.json", "m")
        with pytest.raises(MeasurementError, match="holds no benchmark results"):
            read_stored(tmp_path / "none.json", "m")

    def test_another_machine_is_refused(self):
        with pytest.raises(MeasurementError, match=r"from another machine \(fingerprint feed"):
            gate_stored([1.0], "feed", Machine(0).subject(1.0), CONFIG)


@pytest.fixture(params=["pass", "fail", "invalid"])
def verdict(request) -> Verdict:
    ratio = {"pass": (1.0, 0.99, 1.01), "fail": (1.06, 1.05, 1.07), "invalid": (1.04, 0.99, 1.09)}[request.param]
    finding = _finding(Interval(**dict(zip(("estimate", "low", "high"), ratio, strict=True))))
    accuracy = AccuracyFinding(metric="top1", baseline=0.8, candidate=0.8, allowed_drop=0.01)
    outcome, reasons = decide(finding, accuracy, (), GateConfig())
    assert outcome == request.param
    return Verdict(
        outcome=outcome,
        reasons=reasons,
        baseline="a|b",
        candidate="<c>",
        latency=finding,
        accuracy=accuracy,
        conditions=None,
        environment=environment(),
        config=GateConfig(),
    )


class TestOutputs:
    def test_json_round_trip(self, verdict):
        assert msgspec.json.decode(to_json(verdict), type=Verdict) == verdict
        assert EXIT_CODES[verdict.outcome] == {"pass": 0, "fail": 1, "invalid": 3}[verdict.outcome]

    def test_junit_counts(self, verdict):
        suite = ElementTree.fromstring(to_junit(verdict))
        assert suite.get("failures") == str(int(verdict.outcome == "fail"))
        assert suite.get("errors") == str(int(verdict.outcome == "invalid"))
        assert suite.find("testcase").get("name") == "<c> vs a|b"

    def test_labels_cannot_make_invalid_xml_nor_command_a_terminal(self, verdict):
        """XML 1.0 holds no control character, not even escaped."""
        reason = "class '\x1b]0;x\x07\ud800\x00 cat' lost 3 points"
        hostile = msgspec.structs.replace(verdict, reasons=(reason,), candidate="c\x1b")
        suite = ElementTree.fromstring(to_junit(hostile))
        assert "\\u001b]0;x\\u0007\\ud800\\u0000 cat" in "".join(suite.itertext())
        assert suite.find("testcase").get("name").startswith("c\\u001b vs ")
        assert "\x1b" not in to_markdown(hostile)

    def test_markdown_is_a_table_that_names_cannot_break(self, verdict):
        text = to_markdown(verdict)
        rows = [line for line in text.splitlines() if line.startswith("|")]
        assert {line.replace("\\|", "").count("|") for line in rows} == {6}
        assert "<c>" not in text.replace("\\<c\\>", "")
        assert verdict.outcome in text


class Sleeper:
    stages = ("a", "b")

    def run(self, first, queries):
        return np.full((queries, 2), first, dtype=np.int64)


def fail_to_open():
    raise ModelError("no such model")


class Dies(Sleeper):
    def run(self, first, queries):
        os._exit(9)


def builds(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return Sleeper()


def hangs(seconds):
    time.sleep(seconds)
    return Sleeper()


def logs(path, name):
    for when in ("begins", "ends"):
        with path.open("a") as file:
            file.write(f"{name}:{when}\n")
        time.sleep(0.3)
    return Sleeper()


class TestWorker:
    def test_runs_in_another_process(self):
        with Worker(Sleeper) as worker:
            assert worker.pid != os.getpid()
            assert worker.stages == ("a", "b")
            assert worker.run(7, 3).tolist() == [[7, 7]] * 3

    def test_errors_of_the_model_arrive(self):
        with pytest.raises(ModelError, match="no such model"), Worker(functools.partial(fail_to_open)):
            pass

    def test_a_process_that_dies_is_named(self):
        with Worker(Dies) as worker, pytest.raises(MeasurementError, match="exit code 9"):
            worker.run(0, 1)

    def test_an_engine_may_take_as_long_to_build_as_it_computes(self, monkeypatch):
        monkeypatch.setattr(worker_module, "_IDLE_S", 0.5)
        monkeypatch.setattr(worker_module, "_LOOK_EVERY_S", 0.25)
        with Worker(functools.partial(builds, 1.5)) as worker:
            assert worker.stages == ("a", "b")

    def test_one_that_hangs_while_it_opens_is_given_up(self, monkeypatch):
        monkeypatch.setattr(worker_module, "_IDLE_S", 0.5)
        monkeypatch.setattr(worker_module, "_LOOK_EVERY_S", 0.25)
        with pytest.raises(MeasurementError, match="did nothing for"):
            Worker(functools.partial(hangs, 30.0)).__enter__()

    def test_engines_are_built_one_after_another(self, tmp_path):
        """Each with the memory of the device to itself, and alone on its GPU."""
        log = tmp_path / "log"
        makes = {name: functools.partial(logs, log, name) for name in ("baseline", "twin", "candidate")}
        with launch_workers(makes, 0):
            words = log.read_text().split()
        assert words == [f"{name}:{when}" for name in makes for when in ("begins", "ends")]

    def test_outside_with(self):
        with pytest.raises(MeasurementError, match="not running"):
            Worker(Sleeper).run(0, 1)


class TestBundles:
    """Real engines in real processes; what the machine does meanwhile decides about valid or not."""

    @pytest.fixture
    def bundle(self, tmp_path):
        pytest.importorskip("onnxruntime", reason="gates a real engine")
        return tiny.write(tmp_path / "t.edgeopt")

    def test_two_variants_of_one_bundle(self, bundle):
        config = GateConfig(warmup_s=0.0, maximum_launches=3, rounds=2, block_s=0.01)
        sides = Side(bundle.path, "ort-fp32"), Side(bundle.path, "ort-int8")
        verdict = gate_bundles(*sides, [tiny.colour("red")], config)
        assert verdict.exit_code in EXIT_CODES.values()
        assert (verdict.baseline, verdict.candidate) == ("t ort-fp32", "t ort-int8")
        assert verdict.accuracy is None

    def test_an_unknown_variant(self, bundle):
        with pytest.raises(BundleError, match="has no variant 'ort-int4'"):
            gate_bundles(Side(bundle.path, "ort-fp32"), Side(bundle.path, "ort-int4"), [tiny.colour("red")], CONFIG)

    def test_accuracies_of_the_same_images_are_compared_and_others_refused(self, bundle):
        def evaluated(name, value, data):
            bundle.record(name, accuracy=tiny.accuracy(value, data=data))

        sides = Side(bundle.path, "ort-fp32"), Side(bundle.path, "ort-int8")
        evaluated("ort-fp32", 0.9, "same")
        evaluated("ort-int8", 0.7, "same")
        verdict = gate_bundles(
            *sides, [tiny.colour("red")], msgspec.structs.replace(CONFIG, maximum_launches=1, rounds=1, block_s=0.01)
        )
        assert verdict.outcome == "fail"
        assert "top1 fell from 90.00 % to 70.00 %" in verdict.reasons[0]
        assert [each.label for each in verdict.accuracy.classes] == ["red"]
        assert "| class red (%) |" in to_markdown(verdict)
        evaluated("ort-int8", 0.9, "other")
        with pytest.raises(MeasurementError, match="evaluated on different images"):
            gate_bundles(*sides, [tiny.colour("red")], CONFIG)

    def test_references(self):
        assert Side.parse("out/x.edgeopt@ov-int8") == Side(Path("out/x.edgeopt"), "ov-int8")
        assert str(Side.parse("out/x.edgeopt")) == "x"


def test_a_worker_whose_parent_is_stopped_ends_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reset:
        def send(self, answer: object) -> None:
            assert answer == ("a", "b")

        def recv(self) -> object:
            raise ConnectionResetError

    monkeypatch.setattr("edgeopt.measure.worker.signal.signal", lambda *_: None)
    _serve(Sleeper, Reset())
