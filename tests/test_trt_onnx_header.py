"""The ONNX header is read from the encoding itself, and what is no ONNX file is said to be none."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeopt.errors import ModelError
from edgeopt.runtime.trt.onnx_header import read_header

MODEL = (Path(__file__).with_name("data") / "tiny_classifier.onnx").read_bytes()


def changed(**fields: int) -> bytes:
    model = onnx.load_from_string(MODEL)
    model.ir_version = fields.get("ir_version", model.ir_version)
    model.opset_import[0].version = fields.get("opset", model.opset_import[0].version)
    return model.SerializeToString()


def test_reads_what_onnx_reads():
    model = onnx.load_from_string(MODEL)
    header = read_header(MODEL)
    assert (header.ir_version, header.opset) == (model.ir_version, model.opset_import[0].version)


def test_other_domains_do_not_count():
    model = onnx.load_from_string(MODEL)
    opset = model.opset_import[0].version
    model.opset_import.add(domain="com.example", version=999)
    assert read_header(model.SerializeToString()).opset == opset


@pytest.mark.parametrize("fields", [{"ir_version": 99}, {"opset": 99}])
def test_impossible_versions(fields):
    with pytest.raises(ModelError, match=r"99.*opset from 13 to 23"):
        read_header(changed(**fields))


@pytest.mark.parametrize("content", [b"", b"hello, world\n" * 3, b"PK\x03\x04" + b"\0" * 40, b"\x08\x08"])
def test_what_is_no_onnx_file(content):
    with pytest.raises(ModelError):
        read_header(content)


@given(st.integers(min_value=1, max_value=len(MODEL) - 1))
def test_a_file_that_is_cut_off(length):
    # A cut between two fields loses opset_import, which onnx writes last; anywhere else a field is incomplete.
    with pytest.raises(ModelError):
        read_header(MODEL[:length])


@given(st.binary(max_size=200))
def test_no_bytes_make_it_crash(content):
    try:
        read_header(content)
    except ModelError as error:
        assert str(error)  # noqa: PT017 (some bytes are a header)
