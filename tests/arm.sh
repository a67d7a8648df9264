#!/bin/bash
# The device side on aarch64, emulated: Debian's arm64 root by debootstrap, qemu-user through binfmt, the aarch64 wheels of
# onnxruntime and OpenVINO, the device tests, and a bundle whose INT8 has to answer as its graph is written (benchmarks/arm.py).
# Needs root, debootstrap, qemu-user-static and binfmt-support, and Debian's and PyPI's mirrors. Takes an hour the first time.
# Environment: ARM_WORK (default build/arm) holds the root and the wheels; PROCESSORS are QEMU's names (max has dotprod and
# i8mm, cortex-a76 dotprod alone, cortex-a57 neither, so that each kind of INT8 kernel runs); PYTHON is the workstation's.
set -eu
cd "$(dirname "$0")/.."
WORK=$(realpath -m "${ARM_WORK:-build/arm}")
ROOT=$WORK/root
PYTHON=${PYTHON:-.venv/bin/python}
PROCESSORS=${PROCESSORS:-max cortex-a76 cortex-a57}
MIRROR=${MIRROR:-http://deb.debian.org/debian}
TESTS="tests/test_device.py tests/test_session.py tests/test_runtime.py tests/test_targets.py tests/test_bundle.py
  tests/test_preprocess.py tests/test_postprocess.py"

fail() { echo "test-arm: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "chroot and mounts need root"
for tool in debootstrap qemu-aarch64-static update-binfmts; do
  command -v $tool >/dev/null || fail "$tool is missing: apt-get install debootstrap qemu-user-static binfmt-support"
done
mkdir -p "$WORK"
[ -e /proc/sys/fs/binfmt_misc/register ] || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
update-binfmts --enable qemu-aarch64

if [ ! -x "$ROOT/usr/bin/python3" ] || [ -e "$ROOT/debootstrap" ]; then
  rm -rf "$ROOT"
  debootstrap --arch=arm64 --foreign --variant=minbase --include=python3,ca-certificates bookworm "$ROOT" "$MIRROR"
  chroot "$ROOT" /debootstrap/debootstrap --second-stage
fi
VERSION=$(chroot "$ROOT" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')

if [ ! -e "$WORK/site/.whole" ]; then
  rm -rf "$WORK/site"
  install="$PYTHON -m pip install --quiet --target $WORK/site --only-binary=:all: --implementation cp --python-version $VERSION"
  for tag in 2_36 2_35 2_34 2_31 2_28 2_27 2_17; do # bookworm has glibc 2.36
    install="$install --platform manylinux_${tag}_aarch64"
  done
  $install --platform manylinux2014_aarch64 onnxruntime numpy opencv-python-headless msgspec click rich openvino pytest pytest-timeout hypothesis
  touch "$WORK/site/.whole"
fi

[ -e "$WORK/bundle/written.npz" ] || "$PYTHON" -m benchmarks.arm make "$WORK/bundle"

mounted=""
leave() { for place in $mounted; do umount "$place"; done; }
trap leave EXIT
bind() {
  mkdir -p "$ROOT$2"
  mount --bind "$1" "$ROOT$2"
  mounted="$ROOT$2 $mounted"
}
bind /proc /proc
bind /sys /sys
bind "$PWD" /edgeopt
bind "$WORK/site" /site
bind "$WORK/bundle" /bundle

within() {
  processor=$1
  shift
  chroot "$ROOT" env -i PATH=/usr/bin:/bin HOME=/root QEMU_CPU="$processor" PYTHONPATH=/edgeopt:/edgeopt/tests:/site \
    OMP_NUM_THREADS=1 EDGEOPT_CACHE=/tmp/edgeopt sh -c "cd /edgeopt && $*"
}

rm -f "$WORK/bundle/compared.json"
for processor in $PROCESSORS; do
  echo "== $processor"
  within "$processor" python3 -m benchmarks.arm compare /bundle --processor "$processor"
done
# shellcheck disable=SC2086 # one word a file
within max python3 -m pytest -q -p no:cacheprovider --timeout 900 $TESTS 2>&1 | tee "$WORK/tests.log"
passed=$(tail -1 "$WORK/tests.log")
"$PYTHON" -m benchmarks.arm record "$WORK/bundle" --tests "$passed"
"$PYTHON" - "$WORK/bundle/compared.json" <<'CHECK'
import json, sys
rows = json.load(open(sys.argv[1]))
worst = max(row["largest_difference"] for row in rows if row["engine"] == "ort")
# One step of the last quantizer that falls to the other side; a kernel that saturates is far beyond.
sys.exit(f"INT8 on arm differs from the graph as written by {worst:.1%}" if worst > 0.05 else 0)
CHECK
