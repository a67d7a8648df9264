"""The TensorRT package that is installed here, its log, and its errors in our words."""

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
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
    hint = " On a Jetson it comes with JetPack: python3 -m venv --system-site-packages" if flavour == "tensorrt" else ""
    raise MissingExtraError(
        f"no {flavour} Python package can be imported ({'; '.join(tried)}). "
        f"Install it with: pip install 'edgeopt[{_EXTRAS[flavour]}]'.{hint}"
    )


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

    def add(self, severity: str, text: str) -> None:
        """Keep one line; `severity` is the name of an ILogger.Severity."""
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(text)
        elif severity == "WARNING":
            self.warnings.append(text)
        logger.debug("%s: %s", severity, text)

    def cause(self, limit: int = 3) -> str:
        """Return the first errors, without those that only repeat that there is no driver."""
        real = [text for text in self.errors if _NO_DRIVER not in text]
        return "; ".join((real or self.errors)[:limit]) or "no reason was logged"


def make_logger(module: Any, messages: Messages) -> Any:
    """Return an ILogger that hands everything to `messages`. It must outlive every object made with it."""

    class Log(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)  # pybind raises at first use where this is left out

        def log(self, severity: Any, msg: str) -> None:
            messages.add(str(severity).rsplit(".", 1)[-1], msg)

    return Log()


def start(library: Library, kind: Literal["Builder", "Runtime"], log: Any, messages: Messages) -> Any:
    """Make TensorRT's builder or runtime.

    Raises:
        TargetError: it has no usable GPU or driver; the bindings report a null pointer as a TypeError.
    """
    try:
        return getattr(library.module, kind)(log)
    except (TypeError, RuntimeError) as error:
        raise TargetError(
            f"{library.title} cannot start its {kind.lower()}: {messages.cause()} ({error}). "
            "Run `edgeopt doctor` to see what it finds here"
        ) from error
