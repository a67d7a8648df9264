#!/usr/bin/env bash
# Build, verify, evaluate and benchmark a bundle on this board, beside trtexec on the very same engines, choose among its
# candidates, and write one JSON file to send back, with a page (.html) of it to look at.
#
# usage: verify_on_jetson.sh BUNDLE [--data DATA] [--calibration PHOTOS] [--out FILE] [--full] [--lock-clocks]
#   --data DATA    labelled images, as `edgeopt evaluate --data` takes them; without, accuracy is left out
#   --calibration PHOTOS  also build INT8 for each DLA core, calibrated here on this folder. Everything is measured in a
#                  copy then, as signatures and slots do not stand for a bundle with variants of this board
#   --out FILE     default: verify-HOSTNAME-DATE.json
#   --full         benchmark for MLPerf's 600 s a variant instead of a few seconds
#   --lock-clocks  set the highest power mode and fixed clocks first (sudo)
# environment: TRTEXEC (default: JetPack's /usr/src/tensorrt/bin/trtexec, or the one on the PATH)
# A step that fails is recorded and the next one runs. Exit status: 0 if every step succeeded, else 1.
set -euo pipefail

usage() {
  sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=${EDGEOPT_HOME:-/opt/edgeopt}
PATH="$home/bin:$PATH"
bundle='' data='' calibration='' out='' quick=--quick lock=''
while [ $# -gt 0 ]; do
  case "$1" in
    --data) data=${2:?--data needs a value} && shift 2 ;;
    --calibration) calibration=${2:?--calibration needs a value} && shift 2 ;;
    --out) out=${2:?--out needs a value} && shift 2 ;;
    --full) quick='' && shift ;;
    --lock-clocks) lock=yes && shift ;;
    -*) usage ;;
    *) bundle=$1 && shift ;;
  esac
done
[ -n "$bundle" ] || usage
[ -f "$bundle/manifest.json" ] || { printf 'error: %s is no bundle: it has no manifest.json\n' "$bundle" >&2; exit 1; }
command -v edgeopt >/dev/null || { echo "error: edgeopt is not installed: run first_run.sh" >&2; exit 1; }
out=${out:-verify-$(hostname)-$(date +%Y%m%d-%H%M%S).json}
cache=${EDGEOPT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/edgeopt}
python=$(command -v python3)
steps=$(mktemp -d)
copies=$(mktemp -d)
trap 'rm -rf "$steps" "$copies"' EXIT

# reason LOG: the last error that a step's log names, else its last line
reason() {
  local found
  found=$(grep -iE '^([[:alnum:].]*error|usage):? ' "$1" | tail -n 1) || found=$(grep -v '^[[:space:]]*$' "$1" | tail -n 1) ||
    found='it said nothing'
  printf '%s' "$found"
}

# step NAME COMMAND...: keep output, log, exit status and duration under $steps/NAME
step() {
  local name=$1 start status=0
  shift
  mkdir -p "$steps/$name"
  printf '%s\n' "== $name"
  start=$(date +%s.%N)
  "$@" >"$steps/$name/output" 2>"$steps/$name/log" || status=$?
  printf '%s\n' "$*" >"$steps/$name/command"
  printf '%s %s %s\n' "$status" "$start" "$(date +%s.%N)" >"$steps/$name/status"
  [ "$status" -eq 0 ] || printf '   failed with exit status %s: %s\n' "$status" "$(reason "$steps/$name/log")"
}

# highest_mode: the number of the power mode without limits. It has a name, MAXN or MAXN_SUPER, and no fixed number: 0 is
# 15 W on an Orin Nano Super.
highest_mode() {
  sed -n 's/.*POWER_MODEL ID=\([0-9]*\) NAME=\(MAXN[A-Z_]*\).*/\2 \1/p' "${NVPMODEL_CONF:-/etc/nvpmodel.conf}" 2>/dev/null |
    sort | tail -n 1 | cut -d ' ' -f 2
}

if [ -n "$lock" ]; then
  mode=$(highest_mode)
  # Some changes of mode ask whether to restart: without an answer the mode stays, which power-mode-now shows.
  step power-mode sudo nvpmodel -m "${mode:-0}" </dev/null
  step clocks sudo jetson_clocks
fi
if command -v nvpmodel >/dev/null; then
  step power-mode-now nvpmodel -q
fi
step doctor edgeopt doctor --json
if [ -n "$calibration" ]; then
  # DLA cores take INT8 from TensorRT's own calibrator alone, which runs on the board (TensorRT up to 10.7).
  cp -r "$bundle" "$copies/" && bundle=$copies/$(basename "$bundle")
  cores=$("$python" "$here/candidates.py" --dla-cores 2>"$copies/log") ||
    { cores=0 && echo "   no DLA core can be asked for: $(reason "$copies/log")"; }
  echo "== $cores DLA cores"
  for core in $(seq 0 $((cores - 1))); do
    step "dla$core" edgeopt compile "$bundle" --target trt --implicit-int8 --calibration "$calibration" --dla-core "$core"
  done
fi
step inspect edgeopt inspect "$bundle" --json
# Engines are built here, at first load; the bundle's golden outputs are compared with theirs.
step verify edgeopt verify "$bundle" --json
if [ -n "$data" ]; then
  step evaluate edgeopt evaluate "$bundle" --data "$data" --json
fi
trtexec=${TRTEXEC:-/usr/src/tensorrt/bin/trtexec}
[ -x "$trtexec" ] || trtexec=$(command -v trtexec || true)
step benchmark edgeopt benchmark "$bundle" ${data:+--data "$data"} ${quick:+"$quick"} --allow-invalid --json
if [ -n "$trtexec" ]; then
  step trtexec "$python" "$here/trtexec.py" "$trtexec" "$bundle" "$cache"
fi
for variant in $("$python" "$here/candidates.py" "$bundle" "$steps/doctor/output" 2>/dev/null || true); do
  step "candidates-$variant" edgeopt tune "$bundle" --variant "$variant" ${data:+--data "$data"} --json
done

status=0
"$python" "$here/collect.py" "$steps" "$bundle" "$cache" "$out" || status=$?
echo "wrote $out and ${out%.json}.html"
exit "$status"
