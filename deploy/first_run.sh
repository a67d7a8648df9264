#!/usr/bin/env bash
# Install edgeopt's device side on a Jetson (no torch, no onnx), examine the board, and build a bundle's engines.
#
# usage: first_run.sh WHEEL_OR_SOURCE [BUNDLE]
#   WHEEL_OR_SOURCE  edgeopt's wheel, whatever its file is called, or a checkout of its repository. The wheel is made with:
#                    python3 -m pip wheel --no-deps --wheel-dir dist CHECKOUT
#   BUNDLE           a bundle's folder; its engines are built and its golden outputs compared
# environment: EDGEOPT_HOME (default /opt/edgeopt) where the virtual environment goes
#              PYTHON (default: the newest python3.10 or later that imports tensorrt)
set -euo pipefail

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 1
}

imports_tensorrt() {
  "$1" -c 'import sys; assert sys.version_info >= (3, 10); import tensorrt' 2>/dev/null
}

find_python() {
  local candidate
  for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11 python3.10; do
    if command -v "$candidate" >/dev/null && imports_tensorrt "$candidate"; then
      command -v "$candidate"
      return
    fi
  done
  fail "no Python 3.10 or newer here imports tensorrt. Install it with: sudo apt-get install python3-libnvinfer \
(on JetPack 5, whose Python is 3.8, use deploy/jetpack5.Dockerfile)"
}

# pip's OpenCV has no GStreamer, without which there is no CSI camera and no hardware decoder, and it would hide a system
# OpenCV that has it. Succeeds where the environment sees one.
has_opencv_with_gstreamer() {
  "$home/bin/python" -c 'import re, sys, cv2; sys.exit(not re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()))' \
    2>/dev/null
}

# What edgeopt needs without its extras, one a line, but for OpenCV.
requirements_but_opencv() {
  "$home/bin/python" -c 'from importlib.metadata import requires
print(*(one for one in requires("edgeopt") if "extra ==" not in one and not one.startswith("opencv")), sep="\n")'
}

# Installs PACKAGE, with pip's OpenCV only where there is no better one.
install() {
  if has_opencv_with_gstreamer; then
    echo "keeping the system's OpenCV, which has GStreamer"
    "$home/bin/python" -m pip install --quiet --no-deps "$1"
    requirements_but_opencv >"$home/requirements.txt"
    # It was compiled against numpy 1, and does not load with 2.
    "$home/bin/python" -m pip install --quiet --requirement "$home/requirements.txt" 'numpy<2'
    if has_opencv_with_gstreamer; then return; fi
    echo "the system's OpenCV does not load any more: installing pip's, without GStreamer"
  fi
  "$home/bin/python" -m pip install --quiet "$1"
}

# On a Jetson the GPU shares the processor's memory, of which cached files hold most: TensorRT counts it as used, and
# leaves out kernels that need more than is left.
free_cached_files() {
  sync
  { echo 3 >/proc/sys/vm/drop_caches; } 2>/dev/null || echo "cached files stay in memory (not root)"
}

# pip takes a wheel's name, version and platform from the name of its file, which copies and downloads change. Copies
# WHEEL into FOLDER under the name that it was made with, and prints the path.
copy_wheel() {
  "$python" - "$1" "$2" <<'EOF'
import re, shutil, sys, zipfile
wheel, folder = sys.argv[1:]
try:
    with zipfile.ZipFile(wheel) as archive:
        info = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/WHEEL", name))
        tag = re.search(r"^Tag: (\S+)", archive.read(info).decode(), re.MULTILINE)[1]
except (StopIteration, TypeError, ValueError, zipfile.BadZipFile):
    sys.exit(1)
print(shutil.copyfile(wheel, f"{folder}/{info.split('.dist-info')[0]}-{tag}.whl"))
EOF
}

[ $# -ge 1 ] || fail "usage: first_run.sh WHEEL_OR_SOURCE [BUNDLE]"
package=$1
bundle=${2:-}
home=${EDGEOPT_HOME:-/opt/edgeopt}
[ -e "$package" ] || fail "$package does not exist: give edgeopt's wheel or a checkout"
[ -z "$bundle" ] || [ -f "$bundle/manifest.json" ] || fail "$bundle is no bundle: it has no manifest.json"

python=$(find_python)
echo "installing for $("$python" --version) into $home"
if [ -d "$package" ]; then
  package=$(cd "$package" && pwd) # pip takes a bare name for one of its index
else
  copies=$(mktemp -d)
  trap 'rm -rf "$copies"' EXIT
  copy=$(copy_wheel "$package" "$copies") || fail "$package is not a wheel. Make one with: \
python3 -m pip wheel --no-deps --wheel-dir dist CHECKOUT"
  package=$copy
fi
mkdir -p "$home" || fail "cannot write $home: run with sudo, or set EDGEOPT_HOME"
"$python" -m venv --system-site-packages "$home"
"$home/bin/python" -m pip install --quiet --upgrade pip
install "$package"

"$home/bin/edgeopt" doctor
if [ -n "$bundle" ]; then
  free_cached_files
  echo "building the engines of $bundle on this board (seconds to minutes, once)"
  "$home/bin/edgeopt" verify "$bundle"
fi
