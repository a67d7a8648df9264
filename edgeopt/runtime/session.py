"""Session: what every engine looks like to the rest of edgeopt."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeopt.spec import TensorSpec

Array = NDArray[Any]
Tensors = Mapping[str, Array]


class Session(Protocol):
    """A loaded engine. A context manager with one method; its buffers live from enter to exit.

    Not safe for concurrent `run` calls unless `thread_safe` says so.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` takes."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` gives."""

    @property
    def thread_safe(self) -> bool:
        """Whether several threads may call `run` at once."""

    def run(self, inputs: Tensors) -> dict[str, np.ndarray[Any, Any]]:
        """Run the network once. Results are the caller's own unless the session documents otherwise."""

    def __enter__(self) -> Session: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
