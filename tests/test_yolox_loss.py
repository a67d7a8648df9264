"""SimOTA's assignment and the YOLOX loss, on cases worked out by hand and against a loop that follows the paper."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgeopt import models
from edgeopt.models.yolox_loss import (
    BOX_WEIGHT,
    CENTER_RADIUS,
    Objects,
    Predictions,
    assign,
    encode,
    paired_iou,
    pairwise_iou,
    yolox_loss,
)

STRIDES = (8, 16, 32)
SIDE = 64
ANCHORS = sum((SIDE // stride) ** 2 for stride in STRIDES)


def levels_of(raw: Tensor) -> list[Tensor]:
    """Cut (N, A, 5 + C) into the levels of a 64 x 64 image."""
    sides = [SIDE // stride for stride in STRIDES]
    parts = raw.split([side * side for side in sides], dim=1)
    return [part.transpose(1, 2).unflatten(2, (side, side)) for part, side in zip(parts, sides, strict=True)]


def one_image(boxes: list[list[float]], classes: list[int]) -> Objects:
    return Objects.pad([torch.tensor(boxes).reshape(-1, 4)], [torch.tensor(classes, dtype=torch.int64)])


def random_raw(images: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randn(images, ANCHORS, 5 + classes, generator=torch.Generator().manual_seed(seed))


def anchor_at(predictions: Predictions, stride: int, x: int, y: int) -> int:
    at = (predictions.strides == stride) & (predictions.grid == torch.tensor([x, y])).all(-1)
    return int(at.nonzero().item())


def test_offsets_of_zero_decode_to_a_box_of_one_stride_at_the_corner_of_its_cell():
    predictions = Predictions.flatten(levels_of(torch.zeros(1, ANCHORS, 6)), STRIDES)
    anchor = anchor_at(predictions, 16, 2, 1)
    assert predictions.boxes[0, anchor].tolist() == [24.0, 8.0, 40.0, 24.0]


def test_training_levels_decode_to_the_anchors_of_evaluation_mode():
    module = models.create("yolox_nano", num_classes=3).eval()
    images = torch.rand(1, 3, SIDE, SIDE) * 255
    with torch.no_grad():
        evaluated = module(images)
        module.training = True  # the layers below stay in evaluation mode
        predictions = Predictions.flatten(module(images), STRIDES)
    torch.testing.assert_close(predictions.offsets, evaluated[..., :4])
    torch.testing.assert_close(predictions.objectness.sigmoid(), evaluated[..., 4])
    torch.testing.assert_close(predictions.classes.sigmoid(), evaluated[..., 5:])


def test_encode_inverts_the_decoding():
    predictions = Predictions.flatten(levels_of(random_raw(1, 1)), STRIDES)
    offsets = encode(predictions.boxes[0], predictions.grid, predictions.strides)
    torch.testing.assert_close(offsets, predictions.offsets[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("other", "iou"),
    [([0, 0, 10, 10], 1.0), ([5, 0, 15, 10], 1 / 3), ([10, 0, 20, 10], 0.0), ([2, 2, 7, 7], 0.25), ([3, 3, 3, 3], 0.0)],
)
def test_iou(other: list[float], iou: float):
    box = torch.tensor([0.0, 0.0, 10.0, 10.0])
    assert float(paired_iou(box, torch.tensor(other, dtype=torch.float32))) == pytest.approx(iou)


def test_a_perfect_prediction_is_assigned_to_its_object_and_costs_no_box_loss():
    box = torch.tensor([[20.0, 12.0, 44.0, 36.0]])
    raw = torch.full((1, ANCHORS, 7), -8.0)
    raw[..., :2] = 40.0  # every other anchor is far off
    predictions = Predictions.flatten(levels_of(raw), STRIDES)
    anchor = anchor_at(predictions, 16, 2, 1)
    raw[0, anchor, :4] = encode(box, predictions.grid[[anchor]], predictions.strides[[anchor]])[0]
    raw[0, anchor, 4:] = torch.tensor([8.0, -8.0, 8.0])
    objects = one_image(box.tolist(), [1])

    assignment = assign(Predictions.flatten(levels_of(raw), STRIDES), objects)
    assert assignment.positive[0].nonzero().flatten().tolist() == [anchor]
    assert float(assignment.iou[0, anchor]) == pytest.approx(1.0)
    terms = yolox_loss(levels_of(raw), objects, STRIDES, l1=True)
    assert float(terms.box) == pytest.approx(0.0, abs=1e-4)
    assert float(terms.l1) == pytest.approx(0.0, abs=1e-4)
    assert float(terms.total) < 0.1


def test_the_class_target_is_the_iou():
    raw = torch.zeros(1, ANCHORS, 6)
    predictions = Predictions.flatten(levels_of(raw), STRIDES)
    objects = one_image([[24.0, 8.0, 40.0, 24.0]], [0])
    assignment = assign(predictions, objects)
    iou = assignment.iou[assignment.positive]
    terms = yolox_loss(levels_of(raw), objects, STRIDES)
    assert float(terms.classes) == pytest.approx(math.log(2))  # at logit 0 whatever the target
    assert float(terms.box) == pytest.approx(float(BOX_WEIGHT * (1 - iou**2).mean()), rel=1e-5)
    assert float(terms.objectness) == pytest.approx(ANCHORS * math.log(2) / int(assignment.positive.sum()), rel=1e-5)


def test_images_without_objects_only_teach_that_nothing_is_there():
    raw = random_raw(2, 3).requires_grad_()
    empty = Objects.pad([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2)
    terms = yolox_loss(levels_of(raw), empty, STRIDES, l1=True)
    assert [term.item() for term in (terms.box, terms.classes, terms.l1)] == [0.0, 0.0, 0.0]
    terms.total.backward()
    assert raw.grad is not None
    assert raw.grad[..., 4].abs().min() > 0
    assert raw.grad[..., 5:].abs().max() == 0


def test_padding_changes_nothing():
    raw = random_raw(2, 3, seed=3)
    boxes = [torch.tensor([[4.0, 4.0, 30.0, 40.0]]), torch.tensor([[10.0, 8.0, 50.0, 60.0], [30.0, 2.0, 60.0, 20.0]])]
    classes = [torch.tensor([2]), torch.tensor([0, 1])]
    together = assign(Predictions.flatten(levels_of(raw), STRIDES), Objects.pad(boxes, classes))
    for image in range(2):
        alone = assign(
            Predictions.flatten(levels_of(raw[image : image + 1]), STRIDES),
            Objects.pad([boxes[image]], [classes[image]]),
        )
        assert torch.equal(together.positive[image], alone.positive[0])
        assert torch.equal(together.iou[image], alone.iou[0])


def assign_slowly(predictions: Predictions, boxes: Tensor, classes: Tensor) -> dict[int, int]:
    """Anchor → object of one image, in loops, as section 2.1 of the paper describes it."""
    centers = (predictions.grid + 0.5) * predictions.strides[:, None]

    def inside(anchor: int, box: Tensor) -> bool:
        x, y = centers[anchor].tolist()
        return bool(box[0] < x < box[2] and box[1] < y < box[3])

    def central(anchor: int, box: Tensor) -> bool:
        x, y = centers[anchor].tolist()
        reach = CENTER_RADIUS * float(predictions.strides[anchor])
        return abs(x - float(box[0] + box[2]) / 2) < reach and abs(y - float(box[1] + box[3]) / 2) < reach

    near = [a for a in range(len(centers)) if any(inside(a, box) or central(a, box) for box in boxes)]
    ious = pairwise_iou(boxes[None], predictions.boxes)[0]
    scores = (predictions.classes[0].sigmoid() * predictions.objectness[0].sigmoid()[:, None]).sqrt().double()
    wishes: dict[int, list[tuple[float, int]]] = {}
    for number, box in enumerate(boxes):
        onehot = torch.nn.functional.one_hot(classes[number], scores.shape[1]).double()
        costs = []
        for anchor in near:
            cost = float(torch.nn.functional.binary_cross_entropy(scores[anchor], onehot, reduction="sum"))
            cost -= 3 * math.log(float(ious[number, anchor]) + 1e-8)
            costs.append((cost + (0 if inside(anchor, box) and central(anchor, box) else 1e5), anchor))
        best_ious = sorted((float(ious[number, anchor]) for anchor in near), reverse=True)[:10]
        for cost, anchor in sorted(costs)[: max(1, int(sum(best_ious)))]:
            wishes.setdefault(anchor, []).append((cost, number))
    return {anchor: min(wish)[1] for anchor, wish in wishes.items()}


corner = st.integers(0, 40)
extent = st.integers(4, 40)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(corner, corner, extent, extent, st.integers(0, 2)), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
)
def test_the_assignment_is_that_of_the_paper(rows: list[tuple[int, int, int, int, int]], seed: int):
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h, _ in rows], dtype=torch.float32)
    classes = torch.tensor([row[4] for row in rows])
    raw = random_raw(1, 3, seed)
    raw[..., 2:4] += 0.7  # boxes of the size of objects, so that several anchors are wanted
    predictions = Predictions.flatten(levels_of(raw), STRIDES)
    assignment = assign(predictions, Objects.pad([boxes], [classes]))
    found = {a: int(assignment.objects[0, a]) for a in assignment.positive[0].nonzero().flatten().tolist()}
    expected = assign_slowly(predictions, boxes, classes)
    assert found.keys() == expected.keys()
    assert all(torch.equal(boxes[found[a]], boxes[expected[a]]) for a in found)  # equal objects may swap


def test_two_images_can_be_learnt_by_heart():
    torch.manual_seed(0)
    module = models.create("yolox_nano", num_classes=2)
    images = torch.full((2, 3, SIDE, SIDE), 60.0)
    images[0, 0, 8:32, 16:40] = 250.0
    images[1, 2, 20:60, 4:36] = 250.0
    objects = Objects.pad(
        [torch.tensor([[16.0, 8.0, 40.0, 32.0]]), torch.tensor([[4.0, 20.0, 36.0, 60.0]])],
        [torch.tensor([0]), torch.tensor([1])],
    )
    optimizer = torch.optim.AdamW(module.parameters(), lr=4e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = yolox_loss(module(images), objects, STRIDES, l1=True).total
        loss.backward()
        optimizer.step()
    predictions = Predictions.flatten([level.detach() for level in module(images)], STRIDES)
    score = predictions.objectness.sigmoid()[..., None] * predictions.classes.sigmoid()
    for image in range(2):
        anchor, found = divmod(int(score[image].argmax()), 2)
        assert found == image
        assert float(paired_iou(predictions.boxes[image, anchor], objects.boxes[image, 0])) > 0.8
        assert float(score[image].max()) > 0.5
