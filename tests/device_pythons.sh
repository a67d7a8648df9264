#!/bin/sh
# Run the device side's tests on every Python from 3.10 to 3.13 that is here, each in an environment without torch and
# onnx_ir. OpenVINO is added where it has a wheel. Fails when a Python fails, or when there is none.
# Environment: PYTHONS="3.10 3.12" tests only these.
set -u
cd "$(dirname "$0")/.." || exit 1

TESTS="tests/test_device.py tests/test_imports.py tests/test_session.py tests/test_runtime.py tests/test_targets.py
  tests/test_bundle.py tests/test_config.py tests/test_preprocess.py tests/test_postprocess.py tests/test_draw.py
  tests/test_dataset_formats.py tests/test_hardware.py tests/test_cuda.py tests/test_trt_session.py tests/test_implicit.py
  tests/test_measure.py tests/test_stream.py tests/test_threads.py tests/test_run.py tests/test_output.py"

find_python() {
  for candidate in "python$1" "$HOME"/.pyenv/versions/"$1".*/bin/python "$HOME"/.local/share/uv/python/cpython-"$1".*/bin/python; do
    if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
}

tested=""
failed=""
for version in ${PYTHONS:-3.10 3.11 3.12 3.13}; do
  python=$(find_python "$version")
  if [ -z "$python" ]; then
    echo "== Python $version is not here: not tested on it"
    continue
  fi
  echo "== Python $version"
  venv=".venv-device/$version"
  [ -x "$venv/bin/python" ] || "$python" -m venv "$venv" || { failed="$failed $version"; continue; }
  pip="$venv/bin/python -m pip --disable-pip-version-check install --quiet"
  $pip --editable '.[ort,serve]' pytest pytest-timeout hypothesis || { failed="$failed $version"; continue; }
  $pip 'openvino>=2024.6' || echo "== no OpenVINO for Python $version: not tested on it"
  "$venv/bin/python" -c 'import torch' 2>/dev/null && { echo "torch is in $venv: remove that folder"; exit 1; }
  # shellcheck disable=SC2086 # one word a file
  if "$venv/bin/python" -m pytest -q -p no:cacheprovider $TESTS; then
    tested="$tested $version"
  else
    failed="$failed $version"
  fi
done

echo "== device side: passed on${tested:- none}; failed on${failed:- none}"
[ -z "$failed" ] && [ -n "$tested" ]
