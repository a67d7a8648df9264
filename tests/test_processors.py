"""INT8 on processors that add products in pairs: what they are, and that nothing saturates on them by silence."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import tiny

from edgeopt.bundle import Bundle, Manifest, write_bundle
from edgeopt.bundle.records import Acceptance
from edgeopt.config import parse_config
from edgeopt.doctor import doctor
from edgeopt.errors import ConfigError, TargetError
from edgeopt.hardware import Cpu, ThisMachine
from edgeopt.hardware.kernels import TITLES, integer_kernels, onednn_kernels
from edgeopt.pipeline.shortfalls import shortfalls
from edgeopt.runtime import load
from edgeopt.runtime.choice import choose
from edgeopt.runtime.ov import OvSession
from edgeopt.runtime.saturation import may_saturate
from edgeopt.runtime.session import Availability
from edgeopt.runtime.verify import verify
from edgeopt.spec import PROCESSORS, replace
from edgeopt.targets import find_target

OLD = Cpu(model="Old", architecture="x86_64", cores=2, features=("avx", "avx2"))
NEW = Cpu(model="New", architecture="x86_64", cores=2, features=("avx2", "avx_vnni"))


@pytest.mark.parametrize(
    ("architecture", "features", "kind"),
    [
        ("x86_64", ("avx", "avx2"), "avx2"),
        ("x86_64", ("avx2", "avx512f"), "avx2"),
        ("AMD64", ("avx2", "avx512f", "avx512_vnni"), "vnni"),
        ("x86_64", ("avx2", "avx_vnni"), "vnni"),
        ("x86_64", (), None),
        ("aarch64", ("asimd",), "arm"),
        ("arm64", (), "arm"),
        ("riscv64", (), None),
    ],
)
def test_the_kind_of_a_processor(architecture: str, features: tuple[str, ...], kind: str | None) -> None:
    assert integer_kernels(Cpu(model="", architecture=architecture, cores=1, features=features)) == kind


@pytest.mark.parametrize(
    ("limit", "kind"), [("", "vnni"), ("AVX2", "avx2"), ("avx512_core", "avx2"), ("AVX2_VNNI", "vnni"), ("ALL", "vnni")]
)
def test_onednn_takes_older_kernels_where_it_is_told_to(limit: str, kind: str) -> None:
    assert onednn_kernels(NEW, {"ONEDNN_MAX_CPU_ISA": limit}) == kind
    assert onednn_kernels(NEW, {"DNNL_MAX_CPU_ISA": limit}) == kind
    assert onednn_kernels(OLD, {"ONEDNN_MAX_CPU_ISA": limit}) == "avx2"


def described(name: str = "ov-int8", **changes: Any) -> Manifest:
    """The tiny manifest, one variant changed and measured to be the fastest here."""
    plain = tiny.manifest()
    fast = {"measured": tiny.measured(tiny.identity("ov"), 1.0)}
    return replace(
        plain,
        variants=tuple(replace(each, **fast, **changes) if each.name == name else each for each in plain.variants),
    )


def machine(cpu: Cpu) -> ThisMachine:
    """This machine, but that its integer kernels are those of another processor."""
    here = ThisMachine()
    features = cpu.features
    here.__dict__["processor"] = replace(here.processor, cpu=replace(here.processor.cpu, features=features))
    return here


def variant(**changes: Any) -> Any:
    return described(**changes).variant("ov-int8")


def test_int8_may_saturate_only_where_its_weights_and_the_processor_let_it() -> None:
    assert "earlier edgeopt" in may_saturate(variant(processors=None), OLD)
    assert '"avx2" among [compile] processors' in may_saturate(variant(processors=("vnni", "arm")), OLD)
    other = may_saturate(variant(processors=("vnni", "arm"), scheme="tensorrt"), OLD)
    assert '"avx2" among [compile] processors, and without [quantize] scheme = "tensorrt"' in other
    assert "Another tool quantized it" in may_saturate(variant(processors=("vnni", "arm"), scheme=None), OLD)
    assert may_saturate(variant(processors=PROCESSORS), OLD) == ""
    assert may_saturate(variant(processors=("vnni", "arm")), NEW) == ""
    assert may_saturate(variant(precision="fp32"), OLD) == ""
    assert may_saturate(variant(target="trt"), OLD) == ""


def test_openvino_with_older_kernels_saturates_and_onnxruntime_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    unbounded = described(processors=("vnni",))
    assert "kernels without VNNI, which ONEDNN_MAX_CPU_ISA=AVX2 asks for" in may_saturate(
        unbounded.variant("ov-int8"), NEW
    )
    assert may_saturate(described("ort-int8", processors=("vnni",)).variant("ort-int8"), NEW) == ""
    assert may_saturate(variant(processors=PROCESSORS), NEW) == ""


def test_a_graph_that_older_kernels_refuse_names_who_asked_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO 2026.4 loads float graphs of detectors with AVX2, and with SSE41 says "bad combination" of them."""
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    with pytest.raises(TargetError, match=r"with ONEDNN_MAX_CPU_ISA=SSE41: .*\. Unset ONEDNN_MAX_CPU_ISA, or look at"):
        OvSession(b"no graph")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    with pytest.raises(TargetError, match=r"\. Look at the graph with: edgeopt lint$"):
        OvSession(b"no graph")


def test_what_is_measured_with_older_kernels_is_not_kept_as_the_processors_own(monkeypatch: pytest.MonkeyPatch) -> None:
    own = {name: machine(NEW).identity(find_target(name).distributions, accelerated=False) for name in ("ov", "ort")}
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    limited = {name: machine(NEW).identity(find_target(name).distributions, accelerated=False) for name in own}
    assert limited["ov"].fingerprint != own["ov"].fingerprint
    assert "ONEDNN_MAX_CPU_ISA AVX2" in limited["ov"].title
    assert limited["ort"] == own["ort"]


@pytest.mark.parametrize(("processors", "refused"), [(None, True), (("vnni", "arm"), True), (PROCESSORS, False)])
def test_int8_that_may_saturate_is_not_chosen(processors: Any, *, refused: bool) -> None:
    manifest = described(processors=processors)
    manifest = replace(manifest, variants=tuple(
        replace(each, measured=tiny.measured(_identity(OLD), 1.0 if each.name == "ov-int8" else 5.0))
        if each.target == "ov" else each for each in manifest.variants
    ))  # fmt: skip
    choice = choose(manifest, lambda _: Availability(ok=True), machine(OLD))
    assert (choice.name == "ov-int8") != refused
    if refused:
        assert "VNNI" in choice.rejected["ov-int8"]


def _identity(cpu: Cpu) -> Any:
    """Of this machine with the features of another processor."""
    return machine(cpu).identity(find_target("ov").distributions, accelerated=False)


def test_what_was_accepted_here_with_these_kernels_may_run() -> None:
    found = Acceptance(accepted=True, verdict="")
    measured = tiny.measured(_identity(OLD), 1.0, accuracy=tiny.accuracy(0.5), acceptance=found)
    manifest = described(processors=("vnni",))
    changed = replace(manifest.variant("ov-int8"), measured=measured)
    choice = choose(manifest.with_variant(changed), lambda _: Availability(ok=True), machine(OLD))
    assert choice.name == "ov-int8"


@pytest.fixture
def on_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this machine's processor one without VNNI."""
    here = machine(OLD).processor
    monkeypatch.setattr(ThisMachine, "processor", here)
    monkeypatch.setattr("edgeopt.doctor.machine", lambda: here)


def bundle_of(path: Path, processors: Any) -> Bundle:
    plain = tiny.write_golden(path / "plain.edgeopt")
    variants = tuple(
        replace(each, processors=processors) if each.precision == "int8" else each for each in plain.manifest.variants
    )
    files = {name: (plain.path / name).read_bytes() for name in plain.manifest.files}
    return write_bundle(path / "x.edgeopt", replace(plain.manifest, variants=variants, files={}), files)


@pytest.mark.usefixtures("on_old")
def test_asking_for_what_may_saturate_is_answered_with_a_warning(tmp_path: Path, caplog: Any) -> None:
    bundle = bundle_of(tmp_path, ("vnni", "arm"))
    with caplog.at_level(logging.WARNING), load(bundle.path, variant="ort-int8"):
        pass
    assert "'ort-int8': its weights saturate on this processor" in caplog.text
    caplog.clear()
    safe = bundle_of(tmp_path / "safe", PROCESSORS)
    with caplog.at_level(logging.WARNING), load(safe.path, variant="ort-int8"):
        pass
    assert caplog.text == ""


@pytest.mark.usefixtures("on_old")
def test_verify_says_what_the_processor_is_and_what_may_saturate_on_it(tmp_path: Path) -> None:
    found = verify(bundle_of(tmp_path, ("vnni", "arm")).path)
    assert TITLES["avx2"] in found.processor
    assert set(found.saturating) == {"ort-int8", "ov-int8"}
    (tmp_path / "safe").mkdir()
    assert verify(bundle_of(tmp_path / "safe", PROCESSORS).path).saturating == {}


def test_verify_says_which_kernels_openvino_keeps_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ThisMachine, "processor", machine(NEW).processor)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    found = verify(bundle_of(tmp_path, ("vnni", "arm")).path)
    assert found.processor.endswith("OpenVINO keeps to kernels without it, as ONEDNN_MAX_CPU_ISA=AVX2 asks")
    assert set(found.saturating) == {"ov-int8"}


@pytest.mark.usefixtures("on_old")
def test_the_doctor_says_which_files_saturate_here() -> None:
    states = {state.name: state for state in doctor().targets}
    assert "weights of all 8 bits saturate" in states["ov"].offers
    assert "weights of all 8 bits saturate" in states["ort"].offers


def test_a_build_says_that_its_scheme_is_not_for_its_processors() -> None:
    text = 'name = "x"\n[model]\nsource = "edgeopt:lenet5"\n'
    asked = ('quantize.scheme="tensorrt"', 'compile.targets=["ov", "trt"]')
    (note,) = (each for each in shortfalls(parse_config(text, overrides=asked), {}) if "scheme" in each)
    assert note.startswith("INT8 of ov saturates on x86 processors without VNNI: [quantize] scheme = 'tensorrt' is not")
    for fine in (
        ('quantize.scheme="onnxruntime"', 'compile.targets=["ov"]'),
        ('quantize.scheme="tensorrt"', 'compile.targets=["trt"]'),
        (*asked, 'compile.processors=["vnni"]'),
        (*asked, "quantize.enabled=false"),
    ):
        assert not any("scheme" in each for each in shortfalls(parse_config(text, overrides=fine), {}))


def test_an_unknown_processor_is_answered_with_the_closest() -> None:
    text = 'name = "x"\n[model]\nsource = "edgeopt:lenet5"\n[compile]\nprocessors = ["avx3"]\n'
    with pytest.raises(ConfigError, match=r"'avx3' is no value of `compile\.processors\[0\]`\. Did you mean 'avx2'"):
        parse_config(text)
