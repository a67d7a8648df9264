"""Write what other servers and systems run a bundle from; everything that a file says comes from the bundle."""

from edgeopt.package.packaging import FORMATS, package

__all__ = ["FORMATS", "package"]
