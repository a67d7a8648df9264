"""Verify: does every variant answer today, on this machine, what it answered when it was built?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgeopt.bundle import Bundle, Variant
from edgeopt.errors import BundleError, MissingExtraError, TargetError
from edgeopt.hardware import ThisMachine
from edgeopt.hardware.kernels import TITLES, integer_kernels, onednn_kernels, onednn_limit
from edgeopt.postprocess.neighbors import without_last
from edgeopt.runtime.golden import answers_difference, decoding_difference, preparation_difference, record_outputs
from edgeopt.runtime.predictor import Predictor, load
from edgeopt.runtime.saturation import may_saturate
from edgeopt.runtime.session import Array, Availability, availability, open_session
from edgeopt.trust.keys import PublicKey
from edgeopt.trust.provenance import Provenance


@dataclass(frozen=True)
class Replayed:
    """A variant whose golden inputs were run here."""

    difference: float
    """Largest, relative to the largest recorded magnitude where that exceeds 1."""
    tolerance: float

    @property
    def ok(self) -> bool:
        """Within tolerance (and a number)."""
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Verification:
    """Results of `verify`, by variant name."""

    replayed: dict[str, Replayed]
    skipped: dict[str, str]
    """Reason why a variant was not run."""
    processor: str = ""
    """Kind of this processor's integer kernels, by how they add products; empty if that is unknown."""
    saturating: dict[str, str] = field(default_factory=dict)
    """Reason why a variant may saturate on this processor."""
    failed: dict[str, str] = field(default_factory=dict)
    """Reason why a variant that should run here does not. `load` leaves such a one out as well."""
    prepared: dict[str, Replayed] = field(default_factory=dict)
    """Difference of the golden picture as it is prepared here, where the bundle has one."""
    decoded: dict[str, Replayed] = field(default_factory=dict)
    """Difference of the golden outputs as they are decoded here."""
    signer: str = ""
    """File of the trusted key that signed the bundle; empty where no key is trusted."""
    release: int = 0
    """Number that its signer gave it."""
    provenance: Provenance | None = None
    """Who built it and from what, as its signer states it."""

    @property
    def around_ok(self) -> bool:
        """True if pictures are prepared and outputs decoded as where the bundle was built."""
        return all(each.ok for each in (*self.prepared.values(), *self.decoded.values()))

    @property
    def ok(self) -> bool:
        """True if nothing that was run differed."""
        return self.around_ok and all(replayed.ok for replayed in self.replayed.values())

    def require(self, builder: str | None = None) -> None:
        """Refuse a bundle in which something differed, or of which nothing could be run.

        Args:
            builder: URI of the one that its provenance must name; None: anyone, and it may have none.

        Raises:
            BundleError: naming each variant, its difference and its tolerance; or it was built by somebody else.
            TargetError: files and hashes are right, but no variant runs on this machine.
        """
        if builder is not None:
            self._require_builder(builder)
        if self.failed and not self.replayed:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self.failed.items())
            raise TargetError(f"the bundle's files are as written, but none of its variants runs here ({reasons})")
        if self.skipped and not self.replayed:
            raise TargetError(
                "the bundle's files are as they were written, but none of its variants was run on this machine: "
                "install an engine that one of them is for, or build the bundle with golden inputs"
            )
        for what, found in (
            ("golden outputs are not reproduced", self.replayed),
            ("the golden picture is not prepared as where the bundle was built", self.prepared),
            ("golden outputs are not decoded as where the bundle was built", self.decoded),
        ):
            wrong = [
                f"{name} differs by {each.difference:.3g} (allowed {each.tolerance:.3g})"
                for name, each in found.items()
                if not each.ok
            ]
            if wrong:
                raise BundleError(
                    f"{what} on this machine: {'; '.join(wrong)}. Do not deploy these variants here; build the bundle "
                    "again with this machine's library versions"
                )

    def _require_builder(self, builder: str) -> None:
        if self.provenance is None:
            raise BundleError(
                f"nothing that a trusted key signed says that {builder} built this bundle. Sign it there with "
                "--provenance, and give its --public-key here"
            )
        if (found := self.provenance.run_details.builder.id) != builder:
            raise BundleError(f"this bundle was built by {found}, and {builder} is asked for. Do not use it")


def verify(
    path: str | Path,
    *,
    variant: str | None = None,
    threads: int = 0,
    keys: Sequence[PublicKey] | None = None,
    available: Callable[[str], Availability] = availability,
) -> Verification:
    """Check a bundle's hashes, schema and signature, then replay the golden inputs of all variants that run here.

    Args:
        path: the bundle's folder.
        variant: replay this one only.
        threads: threads of the engines; 0 keeps the bundle's setting.
        keys: those of which one must have signed it. None: those that this device trusts, if any.
        available: tells if a target can run here.

    Raises:
        BundleError: not a whole bundle, not signed as it must be, no such variant, or a damaged file of arrays.
    """
    bundle, cpu = Bundle.open(path, keys=keys), ThisMachine().processor.cpu
    provenance = bundle.provenance()
    kernels = integer_kernels(cpu)
    replayed, skipped, saturating, failed = {}, {}, {}, {}
    prepared: dict[str, Replayed] = {}
    decoded: dict[str, Replayed] = {}
    for each in bundle.manifest.variants if variant is None else [bundle.variant(variant)]:
        if reason := may_saturate(each, cpu):
            saturating[each.name] = reason
        _compare_around(bundle, each, prepared, decoded)
        can_run = available(each.target)
        if each.golden is None:
            skipped[each.name] = "it has no golden inputs"
        elif not can_run.ok:
            skipped[each.name] = f"target '{each.target}' cannot run here: {can_run.reason}"
        else:
            try:
                replayed[each.name] = Replayed(_replay(bundle, each, threads), each.golden.tolerance)
            except (TargetError, MissingExtraError) as error:
                failed[each.name] = str(error)
    title = "" if kernels is None else f"{cpu.model}: {TITLES[kernels]}"
    if onednn_kernels(cpu) != kernels:
        title += "; OpenVINO keeps to kernels without it, as {}={} asks".format(*onednn_limit())
    signer = "" if bundle.signer is None else bundle.signer.origin
    return Verification(
        replayed, skipped, title, saturating, failed, prepared, decoded, signer, bundle.manifest.release, provenance
    )


def _compare_around(
    bundle: Bundle, variant: Variant, prepared: dict[str, Replayed], decoded: dict[str, Replayed]
) -> None:
    """Compare what comes before and after the network, where the bundle has a golden picture."""
    if (around := bundle.golden_picture(variant.name)) is not None:
        # Answers were recorded before classes were enrolled, which are the last.
        spec = without_last(bundle.spec(variant.name), len(bundle.manifest.enrolled))
        prepared[variant.name] = Replayed(*preparation_difference(around.picture, spec, origin=str(bundle.path)))
        decoded[variant.name] = Replayed(*decoding_difference(around.outputs, around.answers, spec))


def verify_running(bundle: Bundle, predictor: Predictor) -> Verification:
    """Verify the variant that a predictor runs, with the very engine that it runs.

    Args:
        bundle: the bundle that it was loaded from.
        predictor: it may be in use; its other callers wait meanwhile.

    Raises:
        BundleError: a damaged file of arrays.
    """
    variant = bundle.variant(predictor.variant.name)
    prepared: dict[str, Replayed] = {}
    decoded: dict[str, Replayed] = {}
    _compare_around(bundle, variant, prepared, decoded)
    golden = bundle.golden(variant.name)
    if golden is None or variant.golden is None:
        return Verification({}, {variant.name: "it has no golden inputs"})
    inputs, recorded = golden
    outputs = predictor.replay(inputs)
    replayed = Replayed(_replayed_difference(bundle, variant, recorded, outputs), variant.golden.tolerance)
    return Verification({variant.name: replayed}, {}, prepared=prepared, decoded=decoded)


def verify_chosen(path: str | Path, *, threads: int = 0, keys: Sequence[PublicKey] | None = None) -> Verification:
    """Verify the variant that `load` chooses on this machine, and no other: what a service needs before it starts.

    Args:
        path: the bundle's folder.
        threads: threads of the engines; 0 keeps the bundle's setting.
        keys: those of which one must have signed it. None: those that this device trusts, if any.

    Raises:
        BundleError: not a whole bundle, not signed as it must be, or a damaged file of arrays.
        TargetError: no variant runs here.
    """
    Bundle.open(path, check_hashes=False, keys=keys)
    with load(path, threads=threads) as predictor:
        chosen, rejected = predictor.variant.name, predictor.rejected
    found = verify(path, variant=chosen, threads=threads, keys=keys)
    return replace(found, skipped={**rejected, **found.skipped})


def _replay(bundle: Bundle, variant: Variant, threads: int) -> float:
    golden = bundle.golden(variant.name)
    assert golden is not None
    inputs, recorded = golden
    path, content = bundle.file(variant.name), bundle.engine(variant.name)
    session = open_session(path, variant.target, threads=threads, settings=variant.engine, content=content)
    with session:
        outputs = record_outputs(session, inputs)
    return _replayed_difference(bundle, variant, recorded, outputs)


def _replayed_difference(
    bundle: Bundle, variant: Variant, recorded: Mapping[str, Array], outputs: Mapping[str, Array]
) -> float:
    if _tensors(outputs) != _tensors(recorded):
        raise BundleError(
            f"variant '{variant.name}' gives {sorted(outputs)}, its golden outputs are {sorted(recorded)}"
        )
    spec = without_last(bundle.spec(variant.name), len(bundle.manifest.enrolled))
    return answers_difference(recorded, outputs, spec, variant.precision)


def _tensors(outputs: Mapping[str, Any]) -> set[str]:
    """Names of outputs without the number of a sample, as those of varying rows have it."""
    return {name.partition("[")[0] for name in outputs}
