"""The context of a container image that serves a bundle."""

from __future__ import annotations

from edgeopt.errors import TargetError
from edgeopt.package.contents import Files, Source
from edgeopt.runtime.session import known_target

PORT = 8000
USER = 10001
"""A number, so that Kubernetes can tell that it is not root."""
_PINNED = ("numpy", "opencv-python", "msgspec")


def context(source: Source) -> Files:
    """Return a Dockerfile, the versions that made the bundle, and the bundle.

    Raises:
        TargetError: no variant is for a processor.
    """
    manifest = source.bundle.manifest
    variants = manifest.variants if source.asked is None else (source.bundle.variant(source.asked),)
    known = {each.target: target for each in variants if (target := known_target(each.target)) is not None}
    targets = [target for _, target in sorted(known.items()) if target.extra]
    if not targets:
        raise TargetError(
            f"no variant of '{source.name}' is for an engine that pip installs. For a Jetson begin with "
            "deploy/jetpack6.Dockerfile"
        )
    wanted = (*(package for target in targets for package in target.distributions), *_PINNED)
    pinned = [f"{name}=={manifest.versions[name]}" for name in wanted if name in manifest.versions]
    extras = ",".join(["serve", *(target.extra for target in targets)])
    command = ["serve", f"/models/{source.folder}", "--host", "0.0.0.0", "--port", str(PORT)]  # noqa: S104 - a container
    if source.asked is not None:
        command += ["--variant", source.asked]
    text = f"""\
# {source.about}. Put edgeopt's wheel beside this file, then build and run it:
#   docker build -t {image(source)} .
#   docker run --rm --read-only --tmpfs /tmp --cap-drop ALL -p {PORT}:{PORT} {image(source)}
FROM python:3.12-slim
RUN apt-get update \\
 && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 \\
 && rm -rf /var/lib/apt/lists/*
COPY constraints.txt edgeopt-*.whl /tmp/
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt "$(ls /tmp/edgeopt-*.whl)[{extras}]"
COPY {source.folder} /models/{source.folder}
ENV PYTHONUNBUFFERED=1 EDGEOPT_CACHE=/tmp/edgeopt EDGEOPT_STATE=/tmp/edgeopt-state
USER {USER}
EXPOSE {PORT}
HEALTHCHECK CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:{PORT}/v2/health/ready')"]
ENTRYPOINT ["edgeopt"]
CMD [{", ".join(f'"{each}"' for each in command)}]
"""
    return {
        "Dockerfile": text.encode(),
        "constraints.txt": "".join(f"{each}\n" for each in pinned).encode(),
        ".dockerignore": b"Dockerfile\n",
        **source.bundle_files(),
    }


def image(source: Source) -> str:
    """Return the image's name and tag, which Docker wants in lower case."""
    return f"edgeopt-{source.name.lower()}:{max(1, source.bundle.manifest.release)}"
