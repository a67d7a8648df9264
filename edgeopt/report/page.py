"""Write the page of a bundle."""

from __future__ import annotations

import logging
from pathlib import Path

from edgeopt.dataset import Dataset
from edgeopt.errors import DataError, StorageError
from edgeopt.evaluate import Accuracy, confusion
from edgeopt.report.content import Report
from edgeopt.report.explained import Shown, recorded
from edgeopt.report.html import Matrix, to_html
from edgeopt.report.kept import pictures_of
from edgeopt.report.shots import Shot, choose_shots

_log = logging.getLogger(__name__)


def write_page(
    report: Report, out: Path, dataset: Dataset | None = None, *, missing: str = "", force: bool = False
) -> Path:
    """Write a bundle's report as one HTML file.

    A page that has pictures is not replaced by one without: where the images cannot be found any more, the pictures of
    the earlier page stay, if they show the same answers.

    Args:
        report: content of the report.
        out: the file to write.
        dataset: what the bundle was evaluated on; its images are shown where answers are wrong or differ.
        missing: why there is no dataset, for messages.
        force: replace even a page whose pictures would be lost.

    Returns:
        `out`.

    Raises:
        DataError: `out` has pictures of other answers, which would be lost; with `force` it is not raised.
        MissingExtraError: jinja2 is not installed.
        StorageError: the file cannot be written.
    """
    pictures = _pictures(report, out, dataset, missing, force=force)
    page = to_html(report, pictures, _matrices(report, dataset), _explained(report, dataset))
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write the report to {out}: {error}. Choose another file") from error
    return out


def _matrices(report: Report, dataset: Dataset | None) -> dict[str, Matrix]:
    """Confusion matrices of a detector, whose boxes are matched with the images' objects; none without the images."""
    reference = report.accuracies.get(report.manifest.baseline)
    if dataset is None or reference is None or reference.task == "classification":
        return {}
    try:
        return {name: confusion(each, dataset, reference) for name, each in _alike(report).items()}
    except DataError:  # other images: `_pictures` says so
        return {}


def _explained(report: Report, dataset: Dataset | None) -> dict[str, list[Shown]]:
    """Pictures with maps, as far as they are among the images."""
    manifest = report.manifest
    specs = {each.name: manifest.spec_of(each) for each in manifest.variants}
    return {
        name: recorded(found, specs.get(found.baseline, manifest.spec), dataset)
        for name, found in report.attributions.items()
    }


def _pictures(report: Report, out: Path, dataset: Dataset | None, missing: str, *, force: bool) -> tuple[Shot, ...]:
    """New ones, or those that the earlier page has."""
    if report.manifest.baseline not in report.accuracies:
        return ()
    if dataset is not None:
        try:
            return choose_shots(_alike(report), report.manifest.baseline, dataset)
        except DataError as error:
            missing = str(error)
    reason = missing or "no images were given"
    kept = pictures_of(out, report)
    if kept is None and not force:
        raise DataError(
            f"{out} shows pictures with other answers than the bundle holds now, and new ones cannot be made: "
            f"{reason}. Nothing was written. Give the images with --data, or --force to write a page without pictures"
        )
    if kept:
        _log.warning("the report keeps the %d pictures that %s had: %s", len(kept), out, reason)
    else:
        _log.warning("the report has no pictures: %s", reason)
    return kept or ()


def _alike(report: Report) -> dict[str, Accuracy]:
    """Accuracies of the same images as the baseline's."""
    data = report.accuracies[report.manifest.baseline].data
    return {name: each for name, each in report.accuracies.items() if each.data == data}
