"""Where FP32 and INT8 look: painted pictures as files, a page of their own, and a section of a bundle's page."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np

from edgeopt.bundle.records import Attribution, ExplainedPicture, PackedArray
from edgeopt.dataset import Dataset
from edgeopt.draw import write_image
from edgeopt.errors import requires_extra, storage_errors
from edgeopt.explain import Explained
from edgeopt.explain.maps import Map, resized
from edgeopt.explain.overlay import overlaid, side_by_side
from edgeopt.preprocess import Image, preprocess, read_image, to_pictures
from edgeopt.report.figures import share
from edgeopt.report.templates import render
from edgeopt.spec import ModelSpec

_QUALITY = 78
_WIDTH = 720
"""Most pixels of an embedded pair of pictures."""
_ON_PAGE = 24
"""Most pairs of a method on a page, which are about 50 kB each."""
_NO_NAME = re.compile(r"[^\w.-]+")
METHODS = {"eigen_cam": "Eigen-CAM", "grad_cam": "Grad-CAM", "rise": "RISE"}
TOLD = {
    "eigen_cam": "places where the features that scores are made from vary as they mostly do in the picture",
    "grad_cam": "features that scores are made from, weighted with their gradient on the class",
    "rise": "what the answer needs, found by hiding random parts of the picture; the network is a black box",
}


@dataclass(frozen=True)
class Shown:
    """One picture with both maps painted on it."""

    picture: ExplainedPicture
    painting: str
    """The float network's map on the left, the variant's on the right: JPEG as a data URI."""


class ExplainedFolder:
    """Folder with painted pictures, a page and all figures.

    Raises:
        MissingExtraError: jinja2 is not installed: pictures that are explained would have no page.
    """

    def __init__(self, path: Path) -> None:
        requires_extra("jinja2", "explain")
        self.path = path

    def painter(self, method: str) -> Callable[[Explained], None]:
        """Return what paints and writes each picture of a method: FP32's map on the left, the variant's on the right.

        Raises:
            StorageError: the disk refuses a picture.
        """

        def paint(found: Explained) -> None:
            write_image(self._file(method, found.name), _painted(found.image, found.maps))

        return paint

    def write(self, title: str, name: str, results: Mapping[str, Attribution]) -> Path:
        """Write ``explanation.html`` and ``explanation.json``.

        Args:
            title: the page's heading.
            name: name of the variant.
            results: by method, whose pictures were painted.

        Returns:
            The page.

        Raises:
            StorageError: the disk refused.
        """
        content = msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n"
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / "explanation.json").write_bytes(content)
        explanations = [
            explanation(name, found, [self._shown(method, each) for each in found.pictures[:_ON_PAGE]])
            for method, found in results.items()
        ]
        page = self.path / "explanation.html"
        text = render("explained.html", title=title, explanations=explanations)
        with storage_errors(page):
            page.write_text(text, encoding="utf-8")
        return page

    def _file(self, method: str, name: str) -> Path:
        return self.path / method / f"{_NO_NAME.sub('_', name)}.png"

    def _shown(self, method: str, picture: ExplainedPicture) -> Shown:
        file = self._file(method, picture.name)
        return Shown(picture, _encoded(read_image(file)))


def explanation(name: str, found: Attribution, shown: Sequence[Shown]) -> dict[str, object]:
    """Return what the template `explanation.html` shows."""
    return {
        "name": name,
        "found": found,
        "shown": shown,
        "method": METHODS[found.method],
        "told": TOLD[found.method],
        "verdict": verdict(found),
        "judged": judged(found),
        "worth": worth(found),
        "pointing": pointing(found),
    }


def verdict(found: Attribution) -> str:
    """Return the answer in one sentence."""
    changed = found.images - found.same_answer
    answers = "the same answers" if not changed else f"another answer to {changed} of them"
    return (
        f"Maps of {found.images} pictures: rank correlation with FP32's {found.rank.estimate:.3f}, "
        f"{share(found.overlap.estimate)} of the brightest tenth in common, {answers}"
    )


def judged(found: Attribution) -> list[tuple[str, str, str]]:
    """Return rows of map, insertion and deletion; none where no map could be judged."""
    rows = (("its own maps", found.own), ("FP32's maps", found.floats), ("noise, which says nothing", found.noise))
    return [(name, f"{each.insertion:.3f}", f"{each.deletion:.3f}") for name, each in rows if each is not None]


def worth(found: Attribution) -> str:
    """Return in a sentence or two if the maps say more than noise; empty where no map could be judged."""
    gain = found.gain
    if gain is None:
        return ""
    figures = f"insertion minus deletion {gain.estimate:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}] over noise's"
    if gain.low > 0.0:
        return f"These maps say more than noise: {figures}"
    doubt = "less than noise" if gain.high < 0.0 else "nothing that noise does not"
    return f"These maps say {doubt}: {figures}. Do not read reasons into them; another --method may say more"


def pointing(found: Attribution) -> str:
    """Return the pointing game in a sentence; empty without labelled boxes."""
    game = found.pointing
    if game is None:
        return ""
    return (
        f"The brightest place lies in an object on {share(game.baseline)} of {game.images} pictures by FP32, on "
        f"{share(game.variant)} by the variant; a place at random would on {share(game.chance)}"
    )


def recorded(found: Attribution, spec: ModelSpec, dataset: Dataset | None) -> list[Shown]:
    """Return the most shifted pictures that a bundle remembers, as far as they are in `dataset`."""
    if dataset is None:
        return []
    numbers = {dataset.content_hash(number): number for number in range(len(dataset))} if found.pictures else {}
    return [
        _painted_again(each, dataset.image(numbers[each.sha256]), spec)
        for each in found.pictures
        if each.maps is not None and each.sha256 in numbers
    ]


def _painted_again(picture: ExplainedPicture, image: Image, spec: ModelSpec) -> Shown:
    tensor, _ = preprocess(image, spec.preprocessing)
    frame = picture.frame
    seen = to_pictures(tensor[None], spec.preprocessing)[0][frame.top : frame.bottom, frame.left : frame.right]
    assert picture.maps is not None
    first, second = (_unpacked(each, picture) for each in picture.maps)
    return Shown(picture, _encoded(_painted(seen, (first, second))))


def _painted(image: Image, maps: tuple[Map, Map]) -> Image:
    return side_by_side(*(overlaid(image, each) for each in maps))


def _unpacked(packed: PackedArray, picture: ExplainedPicture) -> Map:
    values = packed.unpack().astype(np.float32) / np.float32(255)
    frame = picture.frame
    return resized(values, *picture.size)[frame.top : frame.bottom, frame.left : frame.right]


def _encoded(image: Image) -> str:
    factor = min(1.0, _WIDTH / image.shape[1])
    small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1.0 else image
    _, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode("ascii")
