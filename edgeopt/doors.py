"""What a recipe or a command may name: ours, with where each is. ``package.module:callable`` may stand instead.

To add one of ours, write its module and its row here. Places are text: nothing is imported before it is asked for
(`references.resolve`), and all names are known on the ground floor, where recipes are checked.
"""

from __future__ import annotations

from collections.abc import Mapping

TARGETS: Mapping[str, str] = {
    "ort": "edgeopt.targets.ort:TARGET",
    "ov": "edgeopt.targets.ov:TARGET",
    "trt": "edgeopt.targets.trt:TARGET",
    "rtx": "edgeopt.targets.rtx:TARGET",
}
"""``[compile] targets``: each is a `runtime.session.Target`."""
