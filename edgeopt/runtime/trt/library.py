"""The TensorRT package that is installed here, its log, and its errors in our words."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgeopt.errors import MissingExtraError, TargetError
from edgeopt.runtime.trt.capabilities import Capabilities, Flavour, capabilities

logger = logging.getLogger(__name__)

_MODULES: dict[Flavour, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    # The wheels hold tensorrt_rtx_bindings; the metapackage that renames it is a source distribution.
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
_EXTRAS: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt_rtx": "rtx"}

_TEGRA = Path("/etc/nv_tegra_release")
"""A file that every Jetson has."""
_LAYERS = "Layers:"
"""First line of the list in which TensorRT-RTX tells what it made."""
_NO_DRIVER = "CUDA driver version is insufficient for CUDA runtime version"
"""Noise that follows every real error on a machine without a driver (``cudaError 35``)."""


@dataclass(frozen=True)
class Library:
    """An imported TensorRT and what it can do. Cheap to make; nothing touches a GPU."""

    module: Any
    capabilities: Capabilities

    @property
    def title(self) -> str:
        """Flavour and version, for messages."""
        name = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}[self.capabilities.flavour]
        return f"{name} {self.capabilities.version}"


def load_library(flavour: Flavour) -> Library:
    """Import TensorRT.

    Raises:
        MissingExtraError: it cannot be imported, or one of its shared libraries is missing.
    """
    tried = []
    for name in _MODULES[flavour]:
        module = _import(name)
        if not isinstance(module, str):
            return Library(module, capabilities(module))
        tried.append(f"{name}: {module}")
    raise MissingExtraError(
        f"no {flavour} Python package can be imported ({'; '.join(tried)}). {_way_to_install(flavour)}"
    )


def _way_to_install(flavour: Flavour) -> str:
    if flavour == "tensorrt" and _TEGRA.exists():
        return (
            "It is JetPack's own: sudo apt-get install python3-libnvinfer, and an environment that sees it: "
            "python3 -m venv --system-site-packages"
        )
    return f"Install it with: pip install 'edgeopt[{_EXTRAS[flavour]}]'"


def _import(name: str) -> Any:
    """Return the module, or why it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        return "not installed" if error.name == name else str(error)
    except (ImportError, OSError) as error:  # OSError: a shared library that the bindings load is missing
        return str(error)


class Messages:
    """Messages that TensorRT logged. Most of its failures are a None and a line in the log."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.layers: list[str] = []
        """Lists of the layers of what was built (see `arithmetic`)."""

    def add(self, severity: str, text: str) -> None:
        """Keep one line; `severity` is the name of an ILogger.Severity."""
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(text)
        elif severity == "WARNING":
            self.warnings.append(text)
        elif text.startswith(_LAYERS):
            self.layers.append(text)

    def cause(self, limit: int = 3) -> str:
        """Return the first errors, without those that only repeat that there is no driver."""
        real = [text for text in self.errors if _NO_DRIVER not in text]
        return "; ".join((real or self.errors)[:limit]) or "no reason was logged"


@dataclass
class _Log:
    """The one ILogger of a TensorRT module, and who wants to hear what it says now."""

    module: Any
    logger: Any
    listeners: list[Messages]


_LOGS: dict[int, _Log] = {}
"""By the module's id. Entries stay: TensorRT keeps a pointer to the first logger that it is given, and its registry of
plugins one to the last (inferPlugin.cpp), so that no logger may ever be freed."""
_STARTING = threading.Lock()


def the_logger(module: Any) -> Any:
    """Return the module's only ILogger, which lives as long as the process; plugins are registered with it, once."""
    return _log(module).logger


@contextmanager
def listen(module: Any) -> Iterator[Messages]:
    """Collect what TensorRT logs meanwhile, from whichever of its threads. Several may listen at once."""
    messages, listeners = Messages(), _log(module).listeners
    listeners.append(messages)
    try:
        yield messages
    finally:
        listeners[:] = [one for one in listeners if one is not messages]


def _log(module: Any) -> _Log:
    with _STARTING:
        if id(module) not in _LOGS:
            _LOGS[id(module)] = _make_log(module)
        return _LOGS[id(module)]


def _make_log(module: Any) -> _Log:
    listeners: list[Messages] = []

    class Log(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)  # pybind raises at first use where this is left out

        def log(self, severity: Any, msg: str) -> None:
            name = str(severity).rsplit(".", 1)[-1]
            if name == "VERBOSE" and not (logger.isEnabledFor(logging.DEBUG) or msg.startswith(_LAYERS)):
                return  # thousands in a build
            logger.debug("%s: %s", name, msg)
            for messages in tuple(listeners):
                messages.add(name, msg)

    made = Log()
    if hasattr(module, "init_libnvinfer_plugins"):
        module.init_libnvinfer_plugins(made, "")
    return _Log(module, made, listeners)


def start(library: Library, kind: Literal["Builder", "Runtime"], messages: Messages) -> Any:
    """Make TensorRT's builder or runtime, inside `listen`.

    Raises:
        TargetError: it has no usable GPU or driver; the bindings report a null pointer as a TypeError.
    """
    try:
        return getattr(library.module, kind)(the_logger(library.module))
    except (TypeError, RuntimeError) as error:
        raise TargetError(
            f"{library.title} cannot start its {kind.lower()}: {messages.cause()} ({error}). "
            "Run `edgeopt doctor` to see what it finds here"
        ) from error
