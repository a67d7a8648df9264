"""Compile edgeopt's CUDA kernels to PTX: ``python -m benchmarks.kernels``. No GPU is needed, and no toolkit.

It loads NVRTC 11.8 from NVIDIA's wheel (``pip install nvidia-cuda-nvrtc-cu11==11.8.89``). PTX is text that the driver
of each GPU compiles, from Volta (Xavier) on. The files say what they were made of, which a test compares.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import re
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = tuple(sorted([*ROOT.glob("edgeopt/runtime/trt/*.cu"), *ROOT.glob("tests/gpu/*.cu")]))
_ARCHITECTURE = "compute_70"
_OLDEST_ISA = "7.4"
"""Version of PTX that the driver of JetPack 5.1 (CUDA 11.4) reads. NVRTC writes its own, 7.8, above the same
instructions: none of the newer ones is in these kernels, which ptxas refuses otherwise."""


def nvrtc() -> ctypes.CDLL:
    """Load the library from its wheel."""
    found = importlib.util.find_spec("nvidia.cuda_nvrtc") if importlib.util.find_spec("nvidia") else None
    if found is None or not found.submodule_search_locations:
        raise SystemExit("NVRTC is not installed: pip install nvidia-cuda-nvrtc-cu11==11.8.89")
    folder = Path(next(iter(found.submodule_search_locations))) / "lib"
    ctypes.CDLL(str(next(folder.glob("libnvrtc-builtins.so*"))), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(next(folder.glob("libnvrtc.so*"))))


def source_hash(source: Path) -> str:
    """Hash of a source, as its PTX names it."""
    return hashlib.sha256(source.read_bytes()).hexdigest()


def compile_to_ptx(source: Path, library: ctypes.CDLL) -> str:
    """Compile one file."""
    program, size = c_void_p(), c_size_t()
    options = (c_char_p * 2)(f"--gpu-architecture={_ARCHITECTURE}".encode(), b"--fmad=false")
    library.nvrtcCreateProgram(byref(program), source.read_bytes(), source.name.encode(), c_int(0), None, None)
    failed = library.nvrtcCompileProgram(program, c_int(len(options)), options)
    library.nvrtcGetProgramLogSize(program, byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    if failed:
        raise SystemExit(f"{source}: {log.value.decode()}")
    library.nvrtcGetPTXSize(program, byref(size))
    text = ctypes.create_string_buffer(size.value)
    library.nvrtcGetPTX(program, text)
    ptx = re.sub(r"^\.version .*$", f".version {_OLDEST_ISA}", text.value.decode(), flags=re.MULTILINE)
    return f"// of {source.name}, sha256 {source_hash(source)}, by python -m benchmarks.kernels\n{ptx}"


def main() -> None:
    """Write a .ptx beside each source."""
    library = nvrtc()
    for source in SOURCES:
        source.with_suffix(".ptx").write_text(compile_to_ptx(source, library))
        print(f"wrote {source.with_suffix('.ptx').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
