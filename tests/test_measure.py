"""Sensors on small sysfs trees of an Orin and an x86, and the rules that call a run invalid."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from edgeopt import benchmark
from edgeopt.config import BenchmarkConfig
from edgeopt.errors import MeasurementError
from edgeopt.measure.interleave import Block
from edgeopt.measure.jetson_stats import BoardReading, JetsonStats, open_jetson_stats
from edgeopt.measure.nvml import open_nvml
from edgeopt.measure.sensors import Conditions, Sensors, conditions
from edgeopt.measure.validity import disturbed, problems, whole

DATA = Path(__file__).parent / "data"


@pytest.fixture
def orin(tmp_path):
    return Path(shutil.copytree(DATA / "sysfs_orin", tmp_path / "orin"))


@pytest.fixture
def x86(tmp_path):
    return Path(shutil.copytree(DATA / "sysfs_x86", tmp_path / "x86"))


def write(root, **files):
    for path, text in files.items():
        (root / path.replace("__", "/")).write_text(text)


class TestOrin:
    def test_reads_every_sensor(self, orin):
        reading = Sensors(orin).read()
        assert reading.gpu_hz == 612_000_000
        assert reading.cpu_khz == (1_728_000,) * 4
        assert reading.temperatures_c["gpu-thermal"] == pytest.approx(44.562)
        assert reading.rails_w["VDD_GPU_SOC"] == pytest.approx(19.080 * 0.264)
        assert reading.power_mode == "MODE_30W"
        assert reading.throttle_counts == {"over-current oc1": 0, "over-current oc2": 0, "over-current oc3": 0}

    def test_a_zone_that_is_switched_off_is_missing(self, orin):
        assert "cv0-thermal" not in Sensors(orin).read().temperatures_c

    def test_what_happened_between_two_readings(self, orin):
        sensors = Sensors(orin)
        before = sensors.read()
        (orin / "proc/stat").write_text("cpu  180632 310 40211 2301852 811 9120 4410 0 0 0\n")
        (orin / "proc/self/stat").write_text("4711 (edge (opt) x) R 0 0 0 0 0 0 0 0 0 0 1590 90 0 0 20 0\n")
        (orin / "sys/class/hwmon/hwmon0/oc2_event_cnt").write_text("3\n")
        (orin / "sys/class/devfreq/17000000.gpu/cur_freq").write_text("306000000\n")
        (orin / "sys/class/thermal/thermal_zone1/temp").write_text("91000\n")
        (orin / "var/lib/nvpmodel/status").write_text("pmode:0000 fmode:fanNull\n")
        meanwhile = conditions(before, sensors.read())
        assert meanwhile.other_load == pytest.approx((100 - 80) / 400)
        assert meanwhile.steal == 0.0
        assert meanwhile.throttled == ("over-current oc2",)
        assert meanwhile.gpu_mhz == 306.0
        assert meanwhile.temperature_c == 91.0
        assert meanwhile.power_mode == "changed while measuring"
        assert meanwhile.power_w == pytest.approx(5.032 * 0.816)  # the board's input, not the sum of its parts


class TestX86:
    def test_reads_every_sensor(self, x86):
        reading = Sensors(x86).read()
        assert reading.cpu_khz == (3_400_112, 2_199_874)
        assert reading.energy_uj == {"package-0": 93_041_150_231}  # the core's energy is part of it
        assert reading.throttle_counts["cpu0 package"] == 7
        assert reading.power_mode == "powersave"
        assert reading.gpu_hz is None

    def test_power_and_steal(self, x86):
        sensors = Sensors(x86)
        before = sensors.read()
        (x86 / "proc/stat").write_text("cpu  22160 5820 7753 419868 1037 0 122 144 0 0\n")
        (x86 / "sys/class/powercap/intel-rapl:0/energy_uj").write_text(str(93_041_150_231 + 1_000_000))
        meanwhile = conditions(before, sensors.read())
        assert meanwhile.steal == pytest.approx(0.5)
        assert meanwhile.power_w == pytest.approx(1.0 / meanwhile.seconds)

    def test_energy_counter_that_wrapped_gives_no_power(self, x86):
        sensors = Sensors(x86)
        before = sensors.read()
        (x86 / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("5")
        assert conditions(before, sensors.read()).power_w is None


class NvmlError(Exception):
    """As pynvml raises it."""


def nvml(reasons=0x40 | 0x01, *, driver=True):
    """pynvml of a GPU that is too hot and does not tell its power."""

    def refuse(*arguments):
        raise NvmlError("not supported")

    return SimpleNamespace(
        NVMLError=NvmlError,
        nvmlInit=(lambda: None) if driver else refuse,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetClockInfo=lambda handle, kind: 1410,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: reasons,
        nvmlDeviceGetTemperature=lambda handle, kind: 91,
        nvmlDeviceGetPowerUsage=refuse,
    )


class TestDiscreteGpu:
    def test_what_the_driver_tells_and_does_not_tell(self, x86):
        sensors = Sensors(x86, nvml=open_nvml(nvml()))
        meanwhile = conditions(sensors.read(), sensors.read())
        assert meanwhile.gpu_mhz == 1410.0
        assert meanwhile.throttled == ("GPU thermal slowdown (hardware)",)
        assert meanwhile.temperature_c == 91.0

    def test_an_idle_gpu_does_not_throttle(self, tmp_path):
        assert Sensors(tmp_path, nvml=open_nvml(nvml(reasons=0x01))).read().throttling == ()

    def test_no_driver(self):
        assert open_nvml(nvml(driver=False)) is None


class JtopError(Exception):
    """As jtop raises it."""


def jtop(*, service=True):
    """jtop of jetson-stats 4.2 on an AGX Orin, as recorded structures; one engine is switched off."""

    def start():
        if not service:
            raise JtopError("The jetson_stats.service is not active")

    client = SimpleNamespace(
        start=start,
        gpu={"ga10b": {"type": "integrated", "status": {"load": 31.0}, "freq": {"cur": 930_750, "max": 1_300_500}}},
        temperature={"gpu": {"temp": 51.5, "online": True}, "cv0": {"temp": -256, "online": False}, "tj": 53.0},
        power={
            "rail": {"VDD_GPU_SOC": {"volt": 19_000, "curr": 264, "power": 5016, "avg": 5000}},
            "tot": {"volt": 19_000, "curr": 816, "power": 15_504, "avg": 15_500, "name": "VDD_IN"},
        },
        nvpmodel=SimpleNamespace(name="MODE 30W"),
    )
    return SimpleNamespace(JtopException=JtopError, jtop=lambda: client)


class TestJetsonStats:
    def test_tells_what_a_container_without_sysfs_does_not(self, tmp_path):
        reading = Sensors(tmp_path, board=open_jetson_stats(jtop())).read()
        assert reading.gpu_hz == 930_750_000
        assert reading.temperatures_c == {"gpu": 51.5, "tj": 53.0}
        assert reading.rails_w == {"VDD_GPU_SOC": 5.016, "VDD_IN": 15.504}
        assert reading.power_mode == "MODE_30W"
        assert conditions(reading, reading).power_w == 15.504  # the board's input, not the sum

    def test_sysfs_is_newer(self, orin):
        alone, both = Sensors(orin).read(), Sensors(orin, board=open_jetson_stats(jtop())).read()
        assert both.gpu_hz == alone.gpu_hz == 612_000_000
        assert both.rails_w == alone.rails_w
        assert both.temperatures_c == alone.temperatures_c

    def test_a_board_that_tells_nothing(self, tmp_path):
        silent = SimpleNamespace(gpu={}, temperature=None, power={"tot": {"power": 1}}, nvpmodel=None)
        assert JetsonStats(silent).read() == BoardReading()

    def test_no_service(self):
        assert open_jetson_stats(jtop(service=False)) is None


class TestElsewhere:
    def test_a_machine_without_sensors_says_nothing(self, tmp_path):
        sensors = Sensors(tmp_path)
        meanwhile = conditions(sensors.read(), sensors.read())
        assert msgspec.structs.replace(meanwhile, seconds=0.0) == Conditions(seconds=0.0)

    def test_this_machine_can_be_read(self):
        sensors = Sensors()
        meanwhile = conditions(sensors.read(), sensors.read())
        assert meanwhile.seconds >= 0.0

    def test_garbage_in_a_sensor_is_no_reading(self, orin):
        write(orin, proc__stat="nonsense", proc__self__stat="")
        (orin / "sys/class/thermal/thermal_zone0/temp").write_bytes(b"\xff\x00")
        reading = Sensors(orin).read()
        assert reading.total_ticks == reading.own_ticks == 0
        assert "cpu-thermal" not in reading.temperatures_c


def block(milliseconds: float = 10.0, **fields) -> Block:
    samples = np.full((10, 1), milliseconds * 1e6, dtype=np.int64)
    return Block("m", 0, 0.0, samples, Conditions(seconds=0.1, **fields))


class TestValidity:
    def test_a_quiet_run_is_valid(self):
        assert problems([block(other_load=0.02, steal=0.0, cpu_mhz=3000.0)] * 5) == ()

    @pytest.mark.parametrize(
        ("blocks", "reason"),
        [
            ([block(other_load=0.5)] * 3, "other processes took 50%"),
            ([block(steal=0.1)] * 3, r"the hypervisor took 10.0%"),
            ([block(), block(throttled=("cpu0 core",))], "the hardware throttled: cpu0 core"),
            ([block(power_mode="MAXN"), block(power_mode="MODE_15W")], "power mode changed: MAXN / MODE_15W"),
            ([block(gpu_mhz=1300.0), *[block(gpu_mhz=600.0)] * 3], "the GPU clock fell from 1300 to 600 MHz"),
            ([block(5.0), block(10.0)], "block medians vary by 33%"),
        ],
    )
    def test_each_rule(self, blocks, reason):
        assert len(problems(blocks)) == 1
        assert reason in problems(blocks)[0]

    def test_one_short_disturbance_does_not_spoil_a_long_run(self):
        blocks = [*[block(other_load=0.0)] * 19, block(other_load=1.0)]
        assert problems(blocks) == ()
        assert [disturbed(part.conditions) for part in blocks].count(True) == 1

    def test_whole_weighs_by_time(self):
        parts = [Conditions(seconds=3.0, other_load=0.0), Conditions(seconds=1.0, other_load=0.4)]
        assert whole(parts).other_load == pytest.approx(0.1)

    def test_an_invalid_result_is_refused_with_every_reason_and_marked(self):
        class Unsteady:
            stages = ("total",)

            def run(self, first, queries):
                return np.full((queries, 1), 3e7 * (1 + first // 8), dtype=np.int64)

        config = BenchmarkConfig(warmup_s=0.0, duration_s=0.0)
        results = benchmark.measure({"m": Unsteady()}, config, sensors=Sensors(Path("/nonexistent")))
        assert results["m"].invalid
        with pytest.raises(MeasurementError, match=r"m: block medians vary by \d+%"):
            benchmark.require_valid(results)
