"""Lines of `edgeopt verify` on who made a bundle and from what."""

from __future__ import annotations

from collections.abc import Iterator

from edgeopt.trust.provenance import Provenance


def maker_lines(signer: str, release: int, provenance: Provenance | None) -> Iterator[str]:
    """Yield a line on the signer, one on the builder, and one for each thing that was built from.

    Args:
        signer: file of the trusted key; empty: no key is trusted, and nothing is said.
        release: number that the signer gave.
        provenance: what the signer states, by digest or version.
    """
    if signer:
        yield f"signed by the key {signer}, release {release}"
    if provenance is None:
        return
    build, run = provenance.build_definition, provenance.run_details
    finished = run.metadata.finished_on if run.metadata is not None else None
    yield f"built by {run.builder.id}" + (f", {finished}" if finished else "")
    for name, value in sorted(build.external_parameters.items()):
        yield f"  {name} {value}"
    for each in build.resolved_dependencies:
        digests = ", ".join(f"{algorithm}:{digest}" for algorithm, digest in sorted(each.digest.items()))
        yield "  " + " ".join(part for part in (each.name, each.uri, digests) if part)
