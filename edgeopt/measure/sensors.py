"""Read the machine's sensors during a measurement: clocks, throttling, temperature, power and other load.

Everything is a file of the kernel below a root folder, so that trees recorded on other machines can be read as well.
What a machine does not have is missing from the reading, never a guess.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgeopt.bundle.records import Conditions
from edgeopt.hardware import power_mode_reader
from edgeopt.measure.jetson_stats import BoardReading, JetsonStats, open_jetson_stats
from edgeopt.measure.nvml import GpuReading, Nvml, open_nvml

_HERE = Path("/")

_GPU_DEVFREQ = ("*.gpu", "*.ga10b", "*.gv11b", "*.gp10b", "gpu-gpc-*")
"""Names of the GPU's clock on Jetson: JetPack 6 and the first Nano, Orin, Xavier and TX2 on JetPack 5, Thor."""


@dataclass(frozen=True)
class Reading:
    """The machine at one moment. Counters count since boot."""

    at_s: float
    total_ticks: int = 0
    """Ticks of all processors together; 0 if /proc/stat cannot be read."""
    busy_ticks: int = 0
    own_ticks: int = 0
    """Ticks of the measured processes."""
    steal_ticks: int = 0
    """Ticks that the hypervisor took for other guests."""
    cpu_khz: tuple[int, ...] = ()
    gpu_hz: int | None = None
    throttle_counts: dict[str, int] = field(default_factory=dict)
    throttling: tuple[str, ...] = ()
    """Reasons why a GPU runs slower than it could at this moment."""
    temperatures_c: dict[str, float] = field(default_factory=dict)
    rails_w: dict[str, float] = field(default_factory=dict)
    energy_uj: dict[str, int] = field(default_factory=dict)
    power_mode: str | None = None


class Sensors:
    """The sensors of one machine, found once and read often.

    Args:
        root: folder that holds /proc, /sys, /etc and /var.
        pids: processes that are measured; their load is no disturbance.
        nvml: a discrete GPU's sensors. Default: those of this machine, where `root` is its own.
        board: jetson-stats' sensors, asked for what sysfs does not tell. Default: likewise.
    """

    def __init__(
        self,
        root: Path = _HERE,
        pids: Sequence[int | str] = ("self",),
        nvml: Nvml | None = None,
        board: JetsonStats | None = None,
    ) -> None:
        sys = root / "sys"
        self._nvml = open_nvml() if nvml is None and root == _HERE else nvml
        self._board = open_jetson_stats() if board is None and root == _HERE else board
        self._stat = root / "proc/stat"
        self._own = [root / f"proc/{pid}/stat" for pid in pids]
        self._cpu_khz = sorted(sys.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._gpu_hz = [path for name in _GPU_DEVFREQ for path in sorted(sys.glob(f"class/devfreq/{name}/cur_freq"))]
        self._throttle = _throttle_counters(sys)
        self._zones = _labelled(sys.glob("class/thermal/thermal_zone*"), "type", "temp")
        self._rails = _ina3221_rails(sys)
        self._rapl = _labelled(sys.glob("class/powercap/intel-rapl:[0-9]"), "name", "energy_uj")
        self._power_mode = power_mode_reader(root)

    def read(self) -> Reading:
        """Read every sensor; this takes a few milliseconds."""
        total, busy, steal = _cpu_ticks(_text(self._stat))
        gpu = GpuReading() if self._nvml is None else self._nvml.read()
        board = BoardReading() if self._board is None else self._board.read()
        temperatures = {name: value / 1000.0 for name, value in _numbers(self._zones).items()} or board.temperatures_c
        gpu_hz = next((hz for path in self._gpu_hz if (hz := _number(path)) is not None), gpu.clock_hz)
        rails = self._rail_powers() or board.rails_w
        return Reading(
            at_s=time.perf_counter(),
            total_ticks=total,
            busy_ticks=busy,
            steal_ticks=steal,
            own_ticks=sum(_process_ticks(_text(path)) for path in self._own),
            cpu_khz=tuple(khz for path in self._cpu_khz if (khz := _number(path)) is not None),
            gpu_hz=board.gpu_hz if gpu_hz is None else gpu_hz,
            throttle_counts=_numbers(self._throttle),
            throttling=gpu.throttling,
            temperatures_c=temperatures if gpu.temperature_c is None else {**temperatures, "GPU": gpu.temperature_c},
            rails_w=rails if gpu.power_w is None else {"GPU": gpu.power_w},
            energy_uj=_numbers(self._rapl),
            power_mode=self._power_mode() or board.power_mode,
        )

    def _rail_powers(self) -> dict[str, float]:
        """Return watts by rail. INA3221 gives mV and mA."""
        powers = {}
        for label, (millivolts, milliamperes) in self._rails.items():
            volts, amperes = _number(millivolts), _number(milliamperes)
            if volts is not None and amperes is not None:
                powers[label] = volts * amperes / 1e6
        return powers


def conditions(before: Reading, after: Reading) -> Conditions:
    """Return the conditions between two readings."""
    ticks = after.total_ticks - before.total_ticks
    busy = after.busy_ticks - before.busy_ticks
    own = after.own_ticks - before.own_ticks
    seconds = after.at_s - before.at_s
    temperatures = (*before.temperatures_c.values(), *after.temperatures_c.values())
    clocks = [max(reading.cpu_khz) for reading in (before, after) if reading.cpu_khz]
    gpu_clocks = [reading.gpu_hz for reading in (before, after) if reading.gpu_hz is not None]
    return Conditions(
        seconds=seconds,
        other_load=max(0.0, (busy - own) / ticks) if ticks > 0 else None,
        steal=(after.steal_ticks - before.steal_ticks) / ticks if ticks > 0 else None,
        cpu_mhz=min(clocks) / 1e3 if clocks else None,
        gpu_mhz=min(gpu_clocks) / 1e6 if gpu_clocks else None,
        throttled=_throttled(before, after),
        temperature_c=max(temperatures, default=None),
        power_w=_power(before, after, seconds),
        power_mode=after.power_mode if after.power_mode == before.power_mode else "changed while measuring",
    )


def _throttled(before: Reading, after: Reading) -> tuple[str, ...]:
    counted = [name for name, count in after.throttle_counts.items() if count > before.throttle_counts.get(name, count)]
    return tuple(dict.fromkeys((*counted, *before.throttling, *after.throttling)))


def _power(before: Reading, after: Reading, seconds: float) -> float | None:
    """Return watts of the board's input rail (Jetson) or of all packages (RAPL). None if RAPL's counter overflowed."""
    if after.rails_w:
        whole = [name for name in after.rails_w if name in ("VDD_IN", "POM_5V_IN", "VIN_SYS_5V0")]
        rails = whole[:1] or list(after.rails_w)
        return sum((before.rails_w.get(rail, after.rails_w[rail]) + after.rails_w[rail]) / 2.0 for rail in rails)
    joules = sum(count - before.energy_uj.get(name, count) for name, count in after.energy_uj.items()) / 1e6
    return joules / seconds if after.energy_uj and seconds > 0.0 and joules >= 0.0 else None


def _cpu_ticks(stat: str) -> tuple[int, int, int]:
    """Return (total, busy, steal) of the first line of /proc/stat: proc(5).

    Guest time is part of user and nice already.
    """
    match = re.match(r"cpu((?: +\d+){8})", stat)
    if match is None:
        return 0, 0, 0
    user, nice, system, idle, iowait, irq, softirq, steal = (int(number) for number in match.group(1).split())
    busy = user + nice + system + irq + softirq
    return busy + idle + iowait + steal, busy, steal


def _process_ticks(stat: str) -> int:
    """Return user and system time of a process with all its threads: fields 14 and 15 of /proc/PID/stat."""
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12]) if len(fields) > 12 else 0


def _throttle_counters(sys: Path) -> dict[str, Path]:
    """Find event counters that rise when the hardware slows itself: x86 thermal interrupts, Jetson over-current."""
    found = {}
    for path in sorted(sys.glob("devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count")):
        found[f"{path.parents[1].name} {path.stem.split('_')[0]}"] = path
    for path in sorted(sys.glob("class/hwmon/hwmon*/oc*_event_cnt")):
        found[f"over-current {path.name.split('_')[0]}"] = path
    return found


def _ina3221_rails(sys: Path) -> dict[str, tuple[Path, Path]]:
    """Find the (voltage, current) files of each labelled rail of the board's power monitors."""
    rails = {}
    for monitor in sorted(sys.glob("class/hwmon/hwmon*")):
        if _text(monitor / "name").strip() != "ina3221":
            continue
        for label in sorted(monitor.glob("in[0-9]_label")):
            number = label.name[2]
            current = monitor / f"curr{number}_input"
            if current.exists():
                rails[_text(label).strip()] = (monitor / f"in{number}_input", current)
    return rails


def _labelled(folders: Iterable[Path], label: str, value: str) -> dict[str, Path]:
    return {_text(folder / label).strip() or folder.name: folder / value for folder in sorted(folders)}


def _numbers(paths: dict[str, Path]) -> dict[str, int]:
    return {name: value for name, path in paths.items() if (value := _number(path)) is not None}


def _number(path: Path) -> int | None:
    """Return the integer in a kernel file; None where it cannot be read now, as in a thermal zone whose unit is off."""
    try:
        return int(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    """Return the text of a kernel file, or nothing. Files come and go, and some are root's.

    open(2) without buffering is fast.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return os.read(handle, 1 << 16).decode(errors="replace")
    except OSError:
        return ""
    finally:
        os.close(handle)
