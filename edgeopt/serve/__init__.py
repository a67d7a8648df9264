"""Serve a bundle over HTTP by the Open Inference Protocol (KServe v2), for one machine."""

from edgeopt.serve.limits import Limits
from edgeopt.serve.server import serve

__all__ = ["Limits", "serve"]
