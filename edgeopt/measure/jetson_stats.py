"""Read a Jetson's sensors from jetson-stats, where that package and its service are installed.

The service runs as root and shares what it reads over a socket, so it also answers in a container without a sysfs of
its own, and users who may not read all of it. It refreshes about once a second: sysfs, where it can be read, is newer.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_OFFLINE_C = -256
"""Value that jetson-stats gives for a zone whose unit is switched off."""


@dataclass(frozen=True)
class BoardReading:
    """The board at one moment. Values that it does not tell are missing."""

    gpu_hz: int | None = None
    temperatures_c: dict[str, float] = field(default_factory=dict)
    rails_w: dict[str, float] = field(default_factory=dict)
    """Power by rail, with ``VDD_IN`` for the whole board where it is measured."""
    power_mode: str | None = None


class JetsonStats:
    """A client of the service.

    Args:
        client: a started ``jtop.jtop`` of jetson-stats 4 (a recorded one in tests).
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def read(self) -> BoardReading:
        """Return the service's latest values."""
        client = self._client
        clocks = [_number(gpu.get("freq", {}).get("cur")) for gpu in _mappings(client.gpu).values()]
        mode = getattr(client.nvpmodel, "name", None)
        return BoardReading(
            gpu_hz=next((round(khz * 1e3) for khz in clocks if khz is not None), None),
            temperatures_c=_temperatures(client.temperature),
            rails_w=_rails(client.power),
            power_mode=str(mode).replace(" ", "_") if mode else None,  # spelt as in nvpmodel.conf
        )


def open_jetson_stats(library: Any = None) -> JetsonStats | None:
    """Return a client, or None without the package, the service, or the right to ask it.

    Args:
        library: the package ``jtop`` (a fake in tests); None imports it.
    """
    try:
        found = library if library is not None else importlib.import_module("jtop")
    except ImportError:
        return None
    try:
        client = found.jtop()
        client.start()
    except (found.JtopException, OSError):
        return None
    return JetsonStats(client)


def _temperatures(zones: Any) -> dict[str, float]:
    """Return temperatures by zone. A zone is a number or, since version 4.2, a mapping with its state."""
    found = {}
    for name, zone in dict(zones or {}).items():
        celsius = _number(zone.get("temp") if isinstance(zone, Mapping) else zone)
        if celsius is not None and celsius > _OFFLINE_C:
            found[str(name)] = celsius
    return found


def _rails(power: Any) -> dict[str, float]:
    """Return watts by rail from milliwatts. The total counts as a rail where it is one of the board's."""
    known = dict(power or {})
    rails = _mappings(known.get("rail"))
    total = known.get("tot")
    if isinstance(total, Mapping) and "name" in total:
        rails[str(total["name"])] = total
    watts = {name: _number(rail.get("power")) for name, rail in rails.items()}
    return {name: value / 1e3 for name, value in watts.items() if value is not None}


def _mappings(values: Any) -> dict[str, Mapping[str, Any]]:
    return {str(name): value for name, value in dict(values or {}).items() if isinstance(value, Mapping)}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None
