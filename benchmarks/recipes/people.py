"""Person or not, of COCO's photographs, as the data set Visual Wake Words asks (Chowdhery et al. 2019).

A data format of somebody's own, as a recipe names it: ``format = "people:wake_words"``.
"""

from dataclasses import replace
from pathlib import Path

from edgeopt.config import DataSource
from edgeopt.dataset import Boxes
from edgeopt.dataset.coco import read_coco
from edgeopt.dataset.listing import Draft, Labels, Listing
from edgeopt.preprocess import read_image

_LEAST_AREA = 0.005
"""Share of the photograph that a person takes up at least."""


def wake_words(source: DataSource, root: Path, labels: Labels | None) -> Listing:
    objects = read_coco(source, root, None)
    person = objects.labels.index("person")

    def shows_person(draft: Draft) -> int:
        target, image = draft.target, read_image(draft.picture.path)
        assert isinstance(target, Boxes)
        boxes = target.boxes[target.classes == person]
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        return int((areas >= _LEAST_AREA * image.shape[0] * image.shape[1]).any())

    drafts = tuple(replace(draft, target=shows_person(draft)) for draft in objects.drafts)
    return Listing("classification", labels or ("nobody", "person"), drafts, objects.origin)
