#!/usr/bin/env bash
# Walk the way of a newcomer with every command that it takes, from a wheel to a device: wheel, new environment, init,
# build, report, run, evaluate, benchmark, gate, diagnose, lint; then an environment of the device side alone, where the
# bundles are inspected, verified and run. Fails on an unexpected exit code, a traceback, or a sentence that once misled
# newcomers. What it cannot do here it says as "NOT TESTED".
#
# usage: newcomer.sh [FOLDER]       works in FOLDER and leaves it there (default: a temporary one, removed at the end)
# environment: PYTHON (default: .venv/bin/python): its packages serve the workstation side, which so needs no download of
#              torch. DATA (default: ../shared/data): photographs, in bccd (COCO) and clothing10 (a folder a class);
#              where one is absent, pictures are drawn instead.
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
PYTHON=$(cd "$(dirname "$PYTHON")" && pwd)/$(basename "$PYTHON")
DATA=${DATA:-$ROOT/../shared/data}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONNOUSERSITE=1 COLUMNS=80
unset PYTHONPATH EDGEOPT_SOURCE EDGEOPT_ALLOW_CODE VIRTUAL_ENV

# What a newcomer must not read: an extended regular expression, a tab, and what was wrong with it.
MISLEADING=$(
  cat <<'END'
Traceback \(most recent call last\)	a bug: every expected failure is one sentence
Segmentation fault|core dumped	load() in several threads crashed the process
[A-Za-z]+Warning:	a warning of Python, which says nothing to a user
not a valid wheel filename	a wheel had to have its original name
names no test set	a test set that was held out could not be measured again
loses ([0-9.]+) points.*(allows|a loss of) \2( |$)	refused exactly at the limit that is allowed
No module named	the name of a Python module instead of "not installed"
expected str, bytes or os.PathLike	a bare TypeError for a picture of another kind
has no subfolders, one a class	a folder of photographs could not be measured without labels
edgeopt\[build\]	the device side asked for torch
neither a file or folder, nor a camera	a missing file was not said to be missing
(^| )1 classes|all 1 occur	a plural of one
(top-1|AP|accuracy) 0\.[0-9]{3}	accuracy as a fraction in one place and in per cent in another
--:--	a remaining time that was never estimated
no subcommand|No such command	a command that the documentation names does not exist
END
)

step=0
failures=0
say() { printf '== %s\n' "$*"; }
fail() {
  failures=$((failures + 1))
  printf 'FAILED: %s\n' "$*"
}

# read_as_a_newcomer LOG: complain about sentences of the list above.
read_as_a_newcomer() {
  local pattern meaning found
  while IFS=$'\t' read -r pattern meaning; do
    if found=$(grep -E -m 1 -e "$pattern" "$1"); then
      fail "$(basename "$1") says '$found': $meaning"
    fi
  done <<<"$MISLEADING"
}

# expect CODES COMMAND…: run it, and fail unless it exits with one of CODES, such as "0" or "0 3".
expect() {
  local codes=$1 code=0 log
  shift
  step=$((step + 1))
  log=$(printf '%s/logs/%02d.txt' "$WORK" "$step")
  printf '$ %s\n' "${*//"$WORK/"/}" >"$log"
  cut -c 1-110 "$log"
  "$@" >>"$log" 2>&1 || code=$?
  case " $codes " in
    *" $code "*) ;;
    *)
      fail "exit code $code, expected $codes"
      tail -n 20 "$log"
      ;;
  esac
  read_as_a_newcomer "$log"
}

# says TEXT: the last command's output holds it, wherever its lines were broken.
says() {
  local log
  log=$(printf '%s/logs/%02d.txt' "$WORK" "$step")
  tr -s ' \n' '  ' <"$log" | grep -q -F -e "$1" || fail "$(basename "$log") does not say '$1'"
}

# a_picture FOLDER: the first of its pictures, by name.
a_picture() {
  find "$1" -type f \( -name '*.jpg' -o -name '*.png' \) | sort | sed -n 1p
}

# draw FOLDER: pictures of coloured discs and squares, one folder a class, and the same as COCO.
draw() {
  "$BUILD/python" - "$1" <<'END'
import json, sys
from pathlib import Path

import cv2
import numpy as np

root, random = Path(sys.argv[1]), np.random.default_rng(0)
images, boxes = [], []
for number in range(120):
    name = ("disc", "square")[number % 2]
    picture = random.integers(90, 160, (96, 128, 3)).astype(np.uint8)
    x, y, side = (int(random.integers(*bounds)) for bounds in ((10, 70), (10, 40), (24, 48)))
    if name == "disc":
        cv2.circle(picture, (x + side // 2, y + side // 2), side // 2, (40, 60, 230), -1)
    else:
        cv2.rectangle(picture, (x, y), (x + side, y + side), (230, 60, 40), -1)
    for folder in (root / "classes" / name, root / "boxes" / "images"):
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number:03}.png"), picture)
    images.append({"id": number, "file_name": f"{number:03}.png", "width": 128, "height": 96})
    boxes.append({"id": number, "image_id": number, "category_id": number % 2, "bbox": [x, y, side, side],
                  "area": side * side, "iscrowd": 0})
names = [{"id": 0, "name": "disc"}, {"id": 1, "name": "square"}]
for part, first, last in (("train", 0, 80), ("test", 80, 120)):
    held = {"images": images[first:last], "annotations": boxes[first:last], "categories": names}
    (root / "boxes" / f"instances_{part}.json").write_text(json.dumps(held))
END
}

if [ $# -gt 0 ]; then
  mkdir -p "$1"
  WORK=$(cd "$1" && pwd)
else
  WORK=$(mktemp -d)
  trap 'rm -rf "$WORK"' EXIT
fi
rm -rf "$WORK/logs" "$WORK/source"
mkdir -p "$WORK/logs" "$WORK/source"
cd "$WORK"

say "a wheel, and a new environment whose requirements are those of $PYTHON"
cp -R "$ROOT/edgeopt" "$ROOT/pyproject.toml" "$ROOT/README.md" "$ROOT/LICENSE" source/
expect 0 "$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir dist ./source
WHEEL=$(find dist -name "edgeopt-*.whl")
[ -n "$WHEEL" ] || exit 1
BUILD=$WORK/workstation/bin
expect 0 "$PYTHON" -m venv --without-pip workstation
expect 0 "$PYTHON" -m pip --python "$BUILD/python" install --quiet --no-deps --no-index --force-reinstall "$WHEEL"
"$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib")); print(sysconfig.get_path("platlib"))' \
  >"$("$BUILD/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/requirements.pth"
expect 0 "$BUILD/edgeopt" --version
expect 0 "$BUILD/edgeopt" --help
expect 0 "$BUILD/edgeopt" doctor

say "recipes for images of one's own"
draw "$WORK/drawn"
CLASSES=$DATA/clothing10/train
BOXES=$DATA/bccd
if [ ! -d "$CLASSES" ]; then
  echo "NOT TESTED: real photographs in a folder a class: there is no $CLASSES"
  CLASSES=$WORK/drawn/classes
fi
if [ ! -d "$BOXES" ]; then
  echo "NOT TESTED: real photographs with boxes: there is no $BOXES"
  BOXES=$WORK/drawn/boxes
fi
PHOTOS=$BOXES/images
rm -f ./*.toml
expect 0 "$BUILD/edgeopt" init -o starter.toml
expect 10 "$BUILD/edgeopt" init -o starter.toml
says "--force"
expect 0 "$BUILD/edgeopt" init --data "$CLASSES" -o classes.toml # of one set: the others are held out from it
expect 0 "$BUILD/edgeopt" init --data "$BOXES" -o boxes.toml
expect 0 "$BUILD/edgeopt" build boxes.toml --check
sed -i 's/^name = .*/name = "classes"/' classes.toml
sed -i 's/^name = .*/name = "boxes"/' boxes.toml
# Settings that make a build a matter of seconds; nobody looks at its accuracy.
TINY=(--set train.epochs=1 --set train.batch_size=8 --set calibrate.images=16 --set 'quantize.repairs=[]'
  --set data.train.limit=80 --set evaluate.max_drop=1.0
  --set benchmark.warmup_s=0 --set benchmark.duration_s=0.2 --set benchmark.minimum_queries=8)
SMALL_CLASSES=("${TINY[@]}" --set model.source=edgeopt:lenet5 --set 'model.input_size=[28,28]' --set data.holdout=0.25)
SMALL_BOXES=("${TINY[@]}" --set 'model.input_size=[96,96]' --set data.test.limit=16 --set data.holdout=0.2)

say "builds"
expect 0 "$BUILD/edgeopt" build classes.toml --check "${SMALL_CLASSES[@]}"
expect 10 "$BUILD/edgeopt" build classes.toml --set data.trian.limit=3
says "Did you mean 'train'?"
expect 0 "$BUILD/edgeopt" build classes.toml "${SMALL_CLASSES[@]}"
says "gained"
says "runs here"
says "next"
expect 0 "$BUILD/edgeopt" build classes.toml "${SMALL_CLASSES[@]}"
says "nothing changed"
expect 0 "$BUILD/edgeopt" build boxes.toml "${SMALL_BOXES[@]}"

say "every day, on the workstation"
for name in classes boxes; do
  bundle=build/$name.edgeopt
  pictures=$PHOTOS
  [ $name = classes ] && pictures=$CLASSES
  photo=$(a_picture "$pictures")
  before=$(grep -c 'data:image' "build/$name.html" || true)
  expect 0 "$BUILD/edgeopt" report "$bundle"
  [ "$(grep -c 'data:image' "build/$name.html" || true)" -ge "$before" ] || fail "report lost pictures of the page"
  expect 0 "$BUILD/edgeopt" inspect "$bundle"
  expect 0 "$BUILD/edgeopt" verify "$bundle"
  expect 0 "$BUILD/edgeopt" run "$bundle" "$photo" --draw drawn_results
  expect 0 "$BUILD/edgeopt" run "$bundle" "$photo" --json
  expect 12 "$BUILD/edgeopt" run "$bundle" no_such.jpg
  says "does not exist"
  expect 0 "$BUILD/edgeopt" evaluate "$bundle"
  expect "0 3" "$BUILD/edgeopt" benchmark "$bundle" --quick --duration 0.2
  expect "0 1 3" "$BUILD/edgeopt" gate "$bundle" "$bundle" --maximum-s 3 --junit "gate_$name.xml"
  expect "0 1" "$BUILD/edgeopt" lint "$bundle"
done
expect 0 "$BUILD/edgeopt" diagnose build/classes.edgeopt --images 4

say "a device: edgeopt[ort] from the wheel, without torch and onnx"
DEVICE=$WORK/device/bin
if [ ! -x "$DEVICE/pip" ] && ! expect 0 "$PYTHON" -m venv device; then
  fail "no environment"
fi
if ! "$DEVICE/python" -m pip install --quiet --constraint "$ROOT/deploy/constraints.txt" "${WHEEL}[ort]" >pip.txt 2>&1; then
  echo "NOT TESTED: the device side: no package index can be reached ($(tail -n 1 pip.txt))"
else
  for absent in torch onnx openvino; do
    "$DEVICE/python" -c "import $absent" 2>/dev/null && fail "$absent is in the device's environment"
  done
  rm -rf copied && mkdir copied
  cp -R build/classes.edgeopt build/boxes.edgeopt copied/
  expect 0 "$DEVICE/edgeopt" doctor
  for name in classes boxes; do
    bundle=copied/$name.edgeopt
    pictures=$PHOTOS
    [ $name = classes ] && pictures=$CLASSES
    photo=$(a_picture "$pictures")
    expect 0 "$DEVICE/edgeopt" verify "$bundle"
    says "'openvino' is not installed"
    expect 0 "$DEVICE/edgeopt" inspect "$bundle"
    expect 0 "$DEVICE/edgeopt" run "$bundle" "$photo" --csv results.csv
    expect "0 3" "$DEVICE/edgeopt" benchmark "$bundle" --data "$(dirname "$photo")" --quick --duration 0.2
  done
  expect 0 "$DEVICE/python" - "$photo" <<'END'
import sys
import threading

import cv2

from edgeopt.runtime import load

photo, answers = sys.argv[1], []


def predict() -> None:
    with load("copied/boxes.edgeopt") as predictor:
        answers.append((predictor.predict(photo).to_dict(), predictor.predict(cv2.imread(photo)).to_dict()))


threads = [threading.Thread(target=predict) for _ in range(4)]
for each in threads:
    each.start()
for each in threads:
    each.join()
assert len(answers) == 4, "a thread failed"
assert all(answer == answers[0] for answer in answers), "threads differ"
END
fi

if [ "$failures" -gt 0 ]; then
  say "$failures failures of $step commands"
  exit 1
fi
say "passed: $step commands"
