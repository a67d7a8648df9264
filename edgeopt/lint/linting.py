"""Lint a graph, an engine, its layer list, or a whole bundle, and return a report.

Engines are looked at on the board, which has no onnx: what reads graphs is imported only for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from edgeopt.bundle import Bundle, EngineSettings, Variant
from edgeopt.config import BatchRange, TargetName
from edgeopt.errors import ConfigError, MissingExtraError, ModelError, TargetError, requires_extra
from edgeopt.hardware import device as board
from edgeopt.lint import engine_rules, measured
from edgeopt.lint.findings import Finding, LintReport
from edgeopt.runtime.session import Compiled, availability, find_target, known_target, open_session
from edgeopt.spec import replace

_UNREAD, _BATCH, _UNLOADED, _FLOAT_KERNEL = "not-read", "dynamic-batch", "not-loaded", "float-kernel"
_DEFAULT_TARGET = "trt"
_NAMED = 3
_TOLERATED = 0.2
"""Share of the layers that repairs leave float now and then, which is no warning."""


def lint(
    path: Path, target: TargetName | None = None, device: str | None = None, rules: Sequence[str] = ()
) -> LintReport:
    """Find what a target rejects or runs badly.

    Args:
        path: an ``.onnx`` graph; a bundle's folder (each variant's graph, and the engines of those that run on this
            machine's TensorRT); an engine (``.plan``, ``.engine``; needs a GPU that runs it); or
            the inspector's layer list of one (``.json``).
        target: whose rules apply; ``trt`` if None. Of a bundle: only the variants of this target; all if None.
        device: a board's name, for estimates from its memory bandwidth.
        rules: more rules on graphs, of the user's own, as ``package.module:callable``: each is a `lint.graphs.Rule`.

    Raises:
        ModelError: the file cannot be read as any of these.
        MissingExtraError: a graph, where onnx is not installed.
        TargetError: an engine that does not run here.
        ConfigError: no such device, no such rule, rules for something that is no graph, or a bundle without a variant
            of the target.
        BundleError: the bundle is not whole.
    """
    bandwidth = board(device).bandwidth_gb_s if device else None
    if path.is_dir():
        return _lint_bundle(path, target, bandwidth, rules)
    target = target or _DEFAULT_TARGET
    if rules and path.suffix in (".json", ".plan", ".engine"):
        raise ConfigError(
            f"rules of your own are for graphs, and {path} is not one: leave them out, or lint its ONNX file"
        )
    if path.suffix == ".json":
        return _report(path, target, _layer_findings(_text(path), bandwidth), tuple(engine_rules.RULES))
    if path.suffix in (".plan", ".engine"):
        layers = _inspect(path, target, EngineSettings())
        return _report(path, target, _layer_findings(layers, bandwidth), tuple(engine_rules.RULES))
    found, looked_for = _graph_findings(path, target, rules)
    refused, asked = _load_findings(path, target, find_target(target).default_settings(target))
    return _report(path, target, [*refused, *found], (*asked, *looked_for))


def _load_findings(path: Path, target: str, settings: EngineSettings) -> tuple[list[Finding], tuple[str, ...]]:
    """Load the graph with the target's engine, where that takes graphs as they are, and report what it refuses."""
    known = known_target(target)
    if known is not None and known.compile_and_tell is not None and path.suffix == ".onnx" and known.can_compile().ok:
        return _build_findings(known.compile_and_tell, path, settings), (_UNLOADED, _FLOAT_KERNEL)
    if known is None or known.accelerated or path.suffix != ".onnx" or not availability(target).ok:
        return [], ()
    try:
        with open_session(path, target, settings=settings):
            pass
    except TargetError as error:
        fix = "replace what it names, or build for another target"
        return [Finding(rule=_UNLOADED, severity="error", node="", reason=str(error), fix=fix)], (_UNLOADED,)
    if known.arithmetic is None:
        return [], (_UNLOADED,)
    return list(_float_layers(known.arithmetic(path, settings))), (_UNLOADED, _FLOAT_KERNEL)


def _build_findings(
    compile_and_tell: Callable[[bytes, EngineSettings], Compiled], path: Path, settings: EngineSettings
) -> list[Finding]:
    """Build an engine where that needs no device, and report what its builder refuses or runs in another type."""
    try:
        told = compile_and_tell(path.read_bytes(), settings).arithmetic
    except TargetError as error:
        fix = "replace what it names, or build for another target"
        return [Finding(rule=_UNLOADED, severity="error", node="", reason=str(error), fix=fix)]
    if told is None or not (refusal := told.refusal()):
        return []
    return [Finding(rule=_FLOAT_KERNEL, severity="error", node="", reason=refusal, fix="use the FP16 graph instead")]


def _float_layers(arithmetic: Mapping[str, str]) -> Iterator[Finding]:
    """Return the layers that an engine runs in float beside layers in INT8, by its own account."""
    left = [name for name, precision in arithmetic.items() if precision not in ("u8", "i8")]
    if not left or len(left) == len(arithmetic):
        return
    more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
    yield Finding(
        rule=_FLOAT_KERNEL,
        severity="warning" if len(left) > _TOLERATED * len(arithmetic) else "note",
        node=left[0],
        reason=f"{len(left)} of {len(arithmetic)} convolutions and products run in {arithmetic[left[0]]} here: "
        f"{', '.join(left[:_NAMED])}{more}",
        fix="quantize them too, unless a repair left them float on purpose (edgeopt inspect says which)",
    )


def _report(path: Path, target: str, found: list[Finding], rules: tuple[str, ...]) -> LintReport:
    return LintReport(path=str(path), target=target, findings=tuple(found), rules=rules)


def _graph_findings(path: Path, target: str, own: Sequence[str]) -> tuple[list[Finding], tuple[str, ...]]:
    """Return what a target would say of a graph, and the rules that were checked."""
    requires_extra("onnx_ir", "build")
    from edgeopt.lint import graphs

    return graphs.lint_graph(path, target, own), graphs.rules(target, own)


def _layer_findings(text: str, bandwidth_gb_s: float | None) -> list[Finding]:
    layers = engine_rules.read_layers(text)
    return [found for rule in engine_rules.RULES.values() for found in rule(layers, bandwidth_gb_s)]


def _lint_bundle(path: Path, target: str | None, bandwidth_gb_s: float | None, own: Sequence[str]) -> LintReport:
    bundle = Bundle.open(path)
    variants = {each.name: each for each in bundle.manifest.variants if target in (None, each.target)}
    targets = ", ".join(sorted({each.target for each in variants.values() or bundle.manifest.variants}))
    if not variants:
        raise ConfigError(
            f"bundle '{bundle.manifest.name}' has no variant of target '{target}', only of {targets}. Add it "
            "to [compile] targets and build again, or lint an ONNX file"
        )
    findings = [each for each in measured.findings(bundle.manifest) if each.variant in variants]
    rules: dict[str, None] = dict.fromkeys(measured.RULES)
    for variant in variants.values():
        found, looked_for = _lint_variant(bundle.plain_file(variant.name), variant, bandwidth_gb_s, own)
        findings += [replace(one, variant=variant.name) for one in found]
        rules |= dict.fromkeys(looked_for)
    return _report(path, targets, findings, tuple(rules))


def _lint_variant(
    file: Path, variant: Variant, bandwidth_gb_s: float | None, own: Sequence[str]
) -> tuple[list[Finding], tuple[str, ...]]:
    """Lint the engine where its layers can be listed here (which builds it at first), else the graph."""
    target = known_target(variant.target)
    if target is not None and target.list_layers is not None and availability(variant.target).ok:
        layers = _inspect(file, variant.target, variant.engine)
        return _layer_findings(layers, bandwidth_gb_s), tuple(engine_rules.RULES)
    if file.suffix != ".onnx":
        return [], ()
    refused, asked = _load_findings(file, variant.target, variant.engine)
    try:
        found, rules = _graph_findings(file, variant.target, own)
    except MissingExtraError as error:  # on a board the engines are what matters
        unread = Finding(rule=_UNREAD, severity="note", node="", reason=f"its graph was not read: {error}", fix="")
        return [*refused, unread], (*asked, _UNREAD)
    found, rules = [*refused, *found], (*asked, *rules)
    ranged = variant.engine.tensorrt.build.batch != BatchRange() or variant.engine.batch is not None
    return [one for one in found if not (ranged and one.rule == _BATCH)], rules


def _inspect(path: Path, target: str, settings: EngineSettings) -> str:
    list_layers = find_target(target).list_layers
    if list_layers is None:
        raise TargetError(f"target '{target}' cannot list the layers of an engine. Lint its ONNX graph")
    try:
        return list_layers(path, settings=settings)
    except TargetError as error:
        raise TargetError(
            f"the layers of {path} can be listed only where it runs, and here: {error}. Lint its ONNX "
            "graph, or the list that trtexec --exportLayerInfo=layers.json --profilingVerbosity=detailed writes there"
        ) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
