"""Write the page of a bundle."""

from __future__ import annotations

import logging
from pathlib import Path

from edgeopt.bundle import Bundle
from edgeopt.dataset import Dataset
from edgeopt.errors import DataError, StorageError
from edgeopt.report.content import Report, content
from edgeopt.report.html import to_html
from edgeopt.report.samples import Sample, worst_disagreements

_log = logging.getLogger(__name__)


def write_page(bundle: Bundle, out: Path, dataset: Dataset | None = None) -> Path:
    """Write a bundle's report as one HTML file.

    Args:
        bundle: an opened bundle.
        out: the file to write.
        dataset: what the bundle was evaluated on; its images are shown where the answers differ. Without it, or with
            other images, the page has no pictures.

    Returns:
        `out`.

    Raises:
        BundleError: the bundle's figures were written by another version of edgeopt.
        MissingExtraError: jinja2 is not installed.
        StorageError: the file cannot be written.
    """
    report = content(bundle.manifest)
    page = to_html(report, _samples(report, dataset))
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write the report to {out}: {error}. Choose another file") from error
    return out


def _samples(report: Report, dataset: Dataset | None) -> tuple[Sample, ...]:
    baseline = report.accuracies.get(report.manifest.baseline)
    candidate = None if report.candidate is None else report.accuracies.get(report.candidate)
    if dataset is None or baseline is None or candidate is None:
        return ()
    try:
        return worst_disagreements(baseline, candidate, dataset)
    except DataError as error:
        _log.warning("the report has no pictures: %s", error)
        return ()
