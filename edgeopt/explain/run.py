"""Explain the same pictures by a bundle's float network and by a quantized variant, and compare where both look."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeopt.boxes import Boxes
from edgeopt.bundle import Bundle, Variant
from edgeopt.bundle.records import Attribution, ExplainedPicture, Frame, Judged, Method, PackedArray, Pointing
from edgeopt.dataset import Dataset
from edgeopt.errors import BundleError, DataError, ModelError, requires_extra
from edgeopt.explain.compare import Likeness, likeness, points_at
from edgeopt.explain.goal import ClassGoal, Goal, goal_of, same_answer, told
from edgeopt.explain.hiding import Faithfulness, faithfulness, random_map, rise
from edgeopt.explain.maps import ChannelScales, Map, grad_cam, joined, principal_direction, projected
from edgeopt.explain.view import View
from edgeopt.intervals import Interval, bootstrap_interval
from edgeopt.preprocess import Image
from edgeopt.progress import Progress, Silent
from edgeopt.runtime import Inferred, Predictor, Result, availability, open_variant
from edgeopt.runtime.choice import choose
from edgeopt.spec import replace

if TYPE_CHECKING:
    from edgeopt.explain.engines import Tapped

_KEPT_MAPS = 12
"""Most shifted pictures whose maps a bundle keeps."""
MASKS = 300
"""Masks of RISE for a picture. The paper takes 4,000 and 8,000 with other weights."""


@dataclass(frozen=True)
class Explained:
    """One picture with both maps, for drawing."""

    name: str
    image: Image
    """The picture as the network sees it: (H, W, 3) uint8 BGR."""
    maps: tuple[Map, Map]
    """The float network's and the variant's, in pixels of `image`."""


Show = Callable[[Explained], None]


@dataclass(frozen=True)
class Settings:
    """Method, and the work that is put into it."""

    method: Method
    masks: int = MASKS
    judge: bool = True
    """Also measure insertion and deletion, which takes most of the time beside ``rise``."""
    threads: int = 0
    """Threads of the engines; 0 keeps the bundle's setting."""


def variants_to_compare(bundle: Bundle, name: str | None) -> tuple[Variant, Variant]:
    """Return a float variant and the quantized one whose maps are compared with it.

    Args:
        bundle: an opened bundle.
        name: of the quantized one. Default: the one that this machine runs, or the first that it can.

    Raises:
        BundleError: there is none that is not the float baseline.
    """
    manifest = bundle.manifest
    if name is None:
        candidates = [each for each in manifest.variants if each.precision == "int8"]
        preferred = choose(manifest).name
        candidates.sort(key=lambda each: (each.name != preferred, not availability(each.target).ok))
        if not candidates:
            raise BundleError(f"{bundle.path} has no INT8 variant whose maps could be compared with FP32's")
        variant = candidates[0]
    else:
        variant = bundle.variant(name)
    floats = [each for each in manifest.variants if each.precision == "fp32" and each.name != variant.name]
    if not floats or variant.precision == "fp32":
        raise BundleError(f"'{variant.name}' is compared with itself. Name a variant that is not FP32 with --variant")
    floats.sort(key=lambda each: (each.target != variant.target, each.name != manifest.baseline))
    return floats[0], variant


def explain(
    bundle: Bundle,
    dataset: Dataset,
    chosen: Sequence[int],
    settings: Settings,
    *,
    variant: str | None = None,
    show: Show | None = None,
    progress: Progress | None = None,
) -> Attribution:
    """Compare where a variant looks with where the float network looks, for the float network's answers.

    Args:
        bundle: an opened bundle.
        dataset: images; boxes of objects are for the pointing game.
        chosen: numbers of the images.
        settings: the method.
        variant: name of the quantized variant; default as `variants_to_compare`.
        show: told of each picture and its maps.
        progress: told how far it is.

    Raises:
        BundleError: nothing to compare.
        DataError: the float network has no answer to any picture.
        MissingExtraError: onnx, or torch for ``grad_cam``, is not installed.
        ModelError: the method does not fit the network.
        TargetError: a variant does not run here.
    """
    display = progress or Silent()
    both = variants_to_compare(bundle, variant)
    with ExitStack() as stack:
        sides = [_Side(stack.enter_context(open_variant(bundle, each, threads=settings.threads))) for each in both]
        maker = _maker(bundle, both, settings, stack)
        collected = _Collected(both[0].name, settings)
        display.begin(f"{settings.method} on {both[1].name}")
        total = len(chosen) * (1 + maker.needs_pass)
        done = 0
        if maker.needs_pass:
            for pair in _pairs(sides, dataset, chosen):
                maker.learn(pair)
                done += 1
                display.update(done, total)
        for pair in _pairs(sides, dataset, chosen):
            collected.add(pair, maker, show)
            done += 1
            display.update(done, total)
        maker.check()
        found = collected.result(maker)
        display.end(_summary(found), reused=False)
    return found


@dataclass(frozen=True)
class _Side:
    """One of both variants."""

    predictor: Predictor

    def looked(self, image: Image) -> _Look:
        view = View(self.predictor, image)
        inferred = view.inferred()
        return _Look(self.predictor, view, inferred, self.predictor.decode(inferred))


class _Look(NamedTuple):
    """One variant's answer to a picture."""

    predictor: Predictor
    view: View
    inferred: Inferred
    result: Result


@dataclass(frozen=True)
class _Pair:
    """Both variants' answers to a picture."""

    dataset: Dataset
    number: int
    floats: _Look
    other: _Look

    @property
    def goal(self) -> Goal | None:
        """The float network's answer."""
        return goal_of(self.floats.result)


def _pairs(sides: Sequence[_Side], dataset: Dataset, chosen: Sequence[int]) -> Iterator[_Pair]:
    for number in chosen:
        image = dataset.image(number)
        yield _Pair(dataset, number, *(side.looked(image) for side in sides))


class _Maker:
    """Makes both maps of a picture."""

    needs_pass = False
    """True if it has to see all pictures once before."""
    words: tuple[str, ...] = ()

    def learn(self, pair: _Pair) -> None:
        """See a picture in the pass before."""

    def maps(self, pair: _Pair, goal: Goal) -> tuple[Map, Map]:
        """Return the float network's and the variant's map."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise ModelError if what was seen makes the maps worthless."""


class _Black(_Maker):
    """RISE."""

    def __init__(self, masks: int) -> None:
        self._masks = masks

    def maps(self, pair: _Pair, goal: Goal) -> tuple[Map, Map]:
        found = [rise(look.view, look.predictor, goal, self._masks) for look in (pair.floats, pair.other)]
        return found[0], found[1]


class _Looking(_Maker):
    """Reads feature maps."""

    def __init__(self, tapped: Sequence[Tapped]) -> None:
        self.tapped = tapped
        self.grids = [(each.rows, each.columns) for each in tapped[0].maps]
        self.words = tuple(f"{each.source} ({each.rows} x {each.columns})" for each in tapped[1].maps)
        others = [(each.rows, each.columns) for each in tapped[1].maps]
        if others != self.grids:
            raise ModelError(
                f"the feature maps of '{tapped[0].variant.name}' are {self.grids} and those of "
                f"'{tapped[1].variant.name}' are {others}: these are two networks. Use --method rise"
            )

    def arrays(self, pair: _Pair) -> list[list[NDArray[Any]]]:
        """Return both engines' feature maps."""
        looks = zip(self.tapped, (pair.floats, pair.other), strict=True)
        return [tapped.features(look.view, look.inferred.outputs) for tapped, look in looks]

    def cells(self, arrays: Sequence[Sequence[NDArray[Any]]]) -> list[list[NDArray[np.float32]]]:
        """Return them as (places, channels), level by level."""
        return [
            [each.cells(array) for each, array in zip(tapped.maps, found, strict=True)]
            for tapped, found in zip(self.tapped, arrays, strict=True)
        ]

    def check(self) -> None:
        for each in self.tapped:
            each.check()


class _Patterns(_Looking):
    """Eigen-CAM: both networks' features along the float network's main direction in the picture.

    With a direction of its own for each, its sign would be free, and where two directions matter alike they would
    change places by a rounding: that would be a shift of the method, not of the network.
    """

    needs_pass = True

    def __init__(self, tapped: Sequence[Tapped]) -> None:
        super().__init__(tapped)
        self._scales = ChannelScales()

    def learn(self, pair: _Pair) -> None:
        floats, others = self.cells(self.arrays(pair))
        self._scales.add(floats, others)

    def maps(self, pair: _Pair, goal: Goal) -> tuple[Map, Map]:
        del goal
        floats, others = self.cells(self.arrays(pair))
        directions = [principal_direction(each) for each in floats]
        others = [each * self._scales.of_level(level) for level, each in enumerate(others)]
        first, second = (
            joined([projected(*each) for each in zip(cells, directions, self.grids, strict=True)])
            for cells in (floats, others)
        )
        return first, second


class _Gradients(_Looking):
    """Grad-CAM, with each network's own gradients."""

    def __init__(self, tapped: Sequence[Tapped]) -> None:
        super().__init__(tapped)
        from edgeopt.explain.gradient import Tail

        self._tails = [Tail(each.model, each.maps, each.predictor.spec) for each in tapped]

    def maps(self, pair: _Pair, goal: Goal) -> tuple[Map, Map]:
        assert isinstance(goal, ClassGoal)
        arrays = self.arrays(pair)
        gradients = [tail.gradients(each, goal.number) for tail, each in zip(self._tails, arrays, strict=True)]
        first, second = (
            joined([grad_cam(*each) for each in zip(*both, self.grids, strict=True)])
            for both in zip(self.cells(arrays), self.cells(gradients), strict=True)
        )
        return first, second


def _maker(bundle: Bundle, both: Sequence[Variant], settings: Settings, stack: ExitStack) -> _Maker:
    if settings.method == "rise":
        return _Black(settings.masks)
    for module in ("onnx", "onnx_ir"):  # a device that explains by rise needs neither
        requires_extra(module, "explain")
    from edgeopt.explain.engines import open_tapped

    if settings.method == "grad_cam":
        if bundle.manifest.spec.task != "classification":
            raise ModelError(
                f"'{bundle.manifest.name}' is a detector, and grad_cam follows the score of a class. Use eigen_cam or "
                "rise"
            )
        requires_extra("torch", "build")
    tapped = [stack.enter_context(open_tapped(bundle, each, settings.threads)) for each in both]
    return _Gradients(tapped) if settings.method == "grad_cam" else _Patterns(tapped)


@dataclass
class _Collected:
    """Results so far."""

    baseline: str
    settings: Settings
    rows: list[tuple[Likeness, ExplainedPicture]] = field(default_factory=list)
    judged: list[tuple[Faithfulness, Faithfulness, Faithfulness]] = field(default_factory=list)
    pointed: list[tuple[bool, bool, float]] = field(default_factory=list)
    empty: int = 0

    def add(self, pair: _Pair, maker: _Maker, show: Show | None) -> None:
        """Explain a picture."""
        goal = pair.goal
        if goal is None:
            self.empty += 1
            return
        maps = maker.maps(pair, goal)
        view = pair.floats.view
        seen = view.seen(*maps[0].shape)
        found = likeness(*maps, seen)
        sample, frame = pair.dataset[pair.number], view.frame
        picture = ExplainedPicture(
            name=sample.name,
            sha256=pair.dataset.content_hash(pair.number),
            **found._asdict(),
            same_answer=same_answer(pair.floats.result, pair.other.result),
            answers=(told(pair.floats.result), told(pair.other.result)),
            size=view.size,
            frame=Frame(**dict(zip(("left", "top", "right", "bottom"), frame, strict=True))),
            maps=(_packed(maps[0]), _packed(maps[1])),
        )
        self.rows.append((found, picture))
        if isinstance(sample.target, Boxes) and len(sample.target):
            objects = view.objects(sample.target.boxes, *maps[0].shape)
            share = float(objects[seen].mean())
            first, second = (points_at(each, objects, seen) for each in maps)
            self.pointed.append((first, second, share))
        if self.settings.judge:
            self._judge(pair, goal, maps)
        if show is not None:
            shown = view.map_of_picture(maps[0]), view.map_of_picture(maps[1])
            show(Explained(sample.name, view.picture(), shown))

    def _judge(self, pair: _Pair, goal: Goal, maps: tuple[Map, Map]) -> None:
        rows, columns = maps[0].shape
        noise = random_map(rows, columns, pair.number)
        other = pair.other
        scores = [faithfulness(other.view, other.predictor, goal, each) for each in (maps[1], maps[0], noise)]
        if all(each is not None for each in scores):
            self.judged.append(tuple(scores))  # type: ignore[arg-type]

    def result(self, maker: _Maker) -> Attribution:
        """Return the means."""
        if not self.rows:
            raise DataError(
                f"the float network '{self.baseline}' found nothing in any of {self.empty} pictures: there is no "
                "answer to explain. Give pictures that show its classes"
            )
        pictures = sorted((picture for _, picture in self.rows), key=lambda each: -each.shift)
        own, floats, noise = (self._mean_judged(index) for index in range(3))
        return Attribution(
            method=self.settings.method,
            baseline=self.baseline,
            images=len(self.rows),
            without_answer=self.empty,
            same_answer=sum(each.same_answer for each in pictures),
            cosine=self._mean([each.cosine for each, _ in self.rows]),
            rank=self._mean([each.rank for each, _ in self.rows]),
            overlap=self._mean([each.overlap for each, _ in self.rows]),
            own=own,
            floats=floats,
            noise=noise,
            judged=len(self.judged),
            gain=self._mean([own.contrast - noise.contrast for own, _, noise in self.judged]) if self.judged else None,
            pointing=self._pointing(),
            pictures=tuple(
                picture if place < _KEPT_MAPS else _without_maps(picture) for place, picture in enumerate(pictures)
            ),
            tapped=maker.words,
        )

    def _mean(self, values: Sequence[float]) -> Interval:
        array = np.asarray(values)
        return bootstrap_interval(len(array), lambda which: float(array[which].mean()))

    def _mean_judged(self, index: int) -> Judged | None:
        if not self.judged:
            return None
        return Judged(
            insertion=float(np.mean([each[index].insertion for each in self.judged])),
            deletion=float(np.mean([each[index].deletion for each in self.judged])),
        )

    def _pointing(self) -> Pointing | None:
        if not self.pointed:
            return None
        baseline, variant, chance = np.asarray(self.pointed, np.float64).mean(axis=0).tolist()
        return Pointing(baseline=baseline, variant=variant, chance=chance, images=len(self.pointed))


def _packed(values: Map) -> PackedArray:
    return PackedArray.of(np.rint(values * 255.0).astype(np.uint8))


def _without_maps(picture: ExplainedPicture) -> ExplainedPicture:
    return replace(picture, maps=None)


def _summary(found: Attribution) -> str:
    return f"shift {found.shift:.3f} over {found.images} pictures"
