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

# Its packages are unpacked, not installed: dpkg, emulated, takes longer than all tests, and Python asks for no more.
if [ ! -e "$WORK/root.whole" ]; then
  rm -rf "$ROOT"
  debootstrap --arch=arm64 --foreign --variant=minbase --include=python3 bookworm "$ROOT" "$MIRROR"
  for package in "$ROOT"/var/cache/apt/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar --extract --keep-directory-symlink --directory "$ROOT"
  done
  cp "$ROOT/usr/share/base-passwd/passwd.master" "$ROOT/etc/passwd"
  rm -r "$ROOT/debootstrap" "$ROOT/var/cache/apt/archives"
  touch "$WORK/root.whole"
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

# /proc/cpuinfo is the host's, whose x86 fields the library that onnxruntime reads it with does not survive: each processor
# gets one of its own, as Linux writes it. Its features are those that QEMU emulates for it.
describe() {
  features="fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
  case $1 in
    cortex-a57) part=0xd07 ;;
    cortex-a76) part=0xd0b features="$features atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp" ;;
    max) part=0xd49 features="$features atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp i8mm bf16" ;;
    *) fail "what /proc/cpuinfo says of a $1 is not known here: add it to describe()" ;;
  esac
  for number in $(seq 0 $(($(nproc) - 1))); do
    printf 'processor\t: %s\nBogoMIPS\t: 50.00\nFeatures\t: %s\nCPU implementer\t: 0x41\n' "$number" "$features"
    printf 'CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: %s\nCPU revision\t: 0\n\n' $part
  done
}

# The mounts live in a namespace of their own and go with the process.
within() {
  processor=$1
  shift
  describe "$processor" >"$WORK/cpuinfo"
  mkdir -p "$ROOT/proc" "$ROOT/sys" "$ROOT/edgeopt" "$ROOT/site" "$ROOT/bundle"
  # shellcheck disable=SC2016 # the shell inside expands them
  unshare --mount --propagation private sh -euc '
    mount --rbind /proc "$1/proc"; mount --bind "$2/cpuinfo" "$1/proc/cpuinfo"; mount --bind /sys "$1/sys"
    mount --bind "$PWD" "$1/edgeopt"; mount --bind "$2/site" "$1/site"; mount --bind "$2/bundle" "$1/bundle"
    exec chroot "$1" env -i PATH=/usr/bin:/bin HOME=/root QEMU_CPU="$3" PYTHONPATH=/edgeopt:/edgeopt/tests:/site \
      OMP_NUM_THREADS=1 EDGEOPT_CACHE=/tmp/edgeopt sh -c "cd /edgeopt && $4"' \
    within "$ROOT" "$WORK" "$processor" "$*"
}

rm -f "$WORK/bundle/compared.json"
for processor in $PROCESSORS; do
  echo "== $processor"
  within "$processor" python3 -m benchmarks.arm compare /bundle --processor "$processor" --engine ort
done
# OpenVINO's own kernels need what QEMU does not emulate below "max".
within max python3 -m benchmarks.arm compare /bundle --processor max --engine ov
# shellcheck disable=SC2086 # one word a file
within max python3 -m pytest -q -p no:cacheprovider --timeout 900 $TESTS 2>&1 | tee "$WORK/tests.log"
passed=$(tail -1 "$WORK/tests.log")
"$PYTHON" -m benchmarks.arm record "$WORK/bundle" --tests "$passed"
"$PYTHON" - "$WORK/bundle/compared.json" <<'CHECK'
import json, sys
rows = json.load(open(sys.argv[1]))
worst = max(row["largest_difference"] for row in rows if row["engine"] == "ort")
# One step of the last quantizer that falls to the other side; a kernel that saturates is far beyond. OpenVINO's kernels
# round in other places, which moves an answer that is close to another.
same = min(row["same_class"] for row in rows if row["engine"] == "ov")
sys.exit(
    f"INT8 on arm differs from the graph as written by {worst:.1%}" if worst > 0.05 else
    f"OpenVINO gives the class of the graph as written for {same:.1%} of the images" if same < 0.9 else 0
)
CHECK
