"""Health of a server: does the variant that runs answer its golden inputs as recorded?"""

from __future__ import annotations

import logging

from edgeopt.bundle import Bundle
from edgeopt.errors import EdgeoptError
from edgeopt.runtime import Predictor
from edgeopt.runtime.verify import verify_running

_LOG = logging.getLogger(__name__)


class Health:
    """Result of the last run of the golden inputs.

    Args:
        bundle: the bundle that is served.
        predictor: what runs of it.
    """

    def __init__(self, bundle: Bundle, predictor: Predictor) -> None:
        self._bundle, self._predictor = bundle, predictor
        self.ready = False
        """True if they were answered as recorded; of a bundle without any, True."""
        self.has_golden = bundle.variant(predictor.variant.name).golden is not None

    def require(self) -> None:
        """Run them before the first request.

        Raises:
            BundleError: the answers, or what comes before and after the network, differ from what was recorded.
        """
        if self.has_golden:
            verify_running(self._bundle, self._predictor).require()
        else:
            _LOG.warning("the variant '%s' has no golden inputs: nothing tells if it answers right", self._name)
        self.ready = True

    def check(self) -> bool:
        """Run them again, if there are any; the result is kept, and logged where it changes."""
        if not self.has_golden:
            return self.ready
        before = self.ready
        try:
            self.require()
        except Exception as error:  # noqa: BLE001 - also of a user's target: whatever it is, nothing is answered right
            self.ready = False
            if before:
                _LOG.error("not ready: %s", error, exc_info=not isinstance(error, EdgeoptError))
        else:
            if not before:
                _LOG.warning("ready again: the golden inputs are answered as recorded")
        return self.ready

    @property
    def _name(self) -> str:
        return self._predictor.variant.name
