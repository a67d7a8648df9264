"""Rare classes: how often they are sampled, losses, offsets of logits, and what is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeopt.boxes import Boxes
from edgeopt.bundle.classes import balance as classes_of
from edgeopt.bundle.records import Accuracy, ClassificationOutcomes, PackedArray
from edgeopt.config import DataConfig, DataSource
from edgeopt.dataset import Dataset, Sample, load_splits
from edgeopt.dataset.samples import ArrayPicture
from edgeopt.errors import ConfigError, ModelError
from edgeopt.evaluate import operating_point
from edgeopt.evaluate.extra import balanced_accuracy, worst_recall
from edgeopt.metrics import classification_report, confusion_matrix
from edgeopt.postprocess import Classification, class_scores, decode
from edgeopt.spec import ClassificationDecoding, ModelSpec, Preprocessing, Temperature, TensorSpec, replace

torch = pytest.importorskip("torch", reason="training takes torch")

from edgeopt.config import parse_config  # noqa: E402
from edgeopt.pipeline.balancing import prior_offsets, require_classes, threshold_offsets  # noqa: E402
from edgeopt.train.losses import ClassBalanced, LogitAdjusted, focal  # noqa: E402
from edgeopt.train.sampling import epoch_order, image_weights  # noqa: E402

BLANK = ArrayPicture(np.zeros((2, 2), np.uint8))


def classes(*counts: int) -> Dataset:
    targets = np.repeat(np.arange(len(counts)), counts).tolist()
    samples = tuple(Sample(str(index), target, BLANK) for index, target in enumerate(targets))
    return Dataset("classification", tuple("abcdef"[: len(counts)]), samples)


def scenes(*shown: tuple[int, ...]) -> Dataset:
    samples = tuple(
        Sample(
            str(index),
            Boxes(np.zeros((len(each), 4), np.float32), np.array(each, np.int64), np.zeros(len(each), np.bool_)),
            BLANK,
        )
        for index, each in enumerate(shown)
    )
    return Dataset("detection", ("a", "b"), samples)


def share(dataset: Dataset, sampling: str) -> np.ndarray:
    """How often each class comes up in 50 epochs, as a share."""
    truth = np.array([sample.target for sample in dataset])
    drawn = [truth[epoch_order(dataset, sampling, np.random.default_rng(epoch))] for epoch in range(50)]
    return np.bincount(np.concatenate(drawn), minlength=len(dataset.labels)) / (50 * len(dataset))


def test_an_epoch_shows_each_image_once_by_default() -> None:
    order = epoch_order(classes(5, 3), "shuffle", np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(8))
    assert order.tolist() == np.random.default_rng(0).permutation(8).tolist(), "as before there was a choice"


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ("balanced", [1 / 3, 1 / 3, 1 / 3]),
        ("square_root", np.sqrt([90, 9, 1]) / np.sqrt([90, 9, 1]).sum()),
        ("repeat_factor", np.array([90, 9 * np.sqrt(100 / 27), np.sqrt(100 / 3)]) / 113.094),
    ],
)
def test_rare_classes_come_up_as_often_as_their_sampling_says(sampling: str, expected: list[float]) -> None:
    np.testing.assert_allclose(share(classes(90, 9, 1), sampling), expected, atol=0.01)


@pytest.mark.parametrize("sampling", ["balanced", "square_root", "repeat_factor"])
def test_equal_classes_are_sampled_equally(sampling: str) -> None:
    order = epoch_order(classes(10, 10), sampling, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(20))


def test_an_image_of_objects_counts_as_its_rarest() -> None:
    weights = image_weights(scenes((0,), (0,), (0, 1), (0,), ()), "repeat_factor")
    assert weights[2] == weights.max()
    assert weights[0] == weights[1] == weights[4] == 1.0
    np.testing.assert_allclose(weights[2], np.sqrt(0.5 / 0.2))


def test_the_focal_loss_forgets_what_is_right() -> None:
    logits, labels = torch.tensor([[8.0, 0.0], [0.0, 0.1]]), torch.tensor([0, 0])
    plain = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    found = focal(logits, labels)
    p = torch.softmax(logits, 1)[:, 0]
    torch.testing.assert_close(found, ((1 - p) ** 2 * plain).mean())


def test_class_balanced_weights_follow_the_effective_numbers() -> None:
    """Of few images one over their number; of very many alike, no more than one over 10,000."""
    logits, labels = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([0, 1])
    found = ClassBalanced(np.array([100, 1]))(logits, labels)
    weights = torch.tensor([1.0, 100.0], dtype=torch.float32)
    torch.testing.assert_close(
        found, torch.nn.functional.cross_entropy(logits, labels, weight=weights), rtol=1e-2, atol=0
    )


def test_logit_adjustment_learns_logits_of_equal_classes() -> None:
    """With shares of 9 to 1 and no other information, adjusted logits end equal, plain ones 9 to 1."""
    logits = torch.zeros(1, 2, requires_grad=True)
    labels = torch.tensor([0] * 9 + [1])
    optimizer = torch.optim.SGD([logits], lr=1.0)
    loss = LogitAdjusted(np.array([9, 1]))
    for _ in range(300):
        optimizer.zero_grad()
        torch.autograd.backward(loss(logits.expand(10, 2), labels))
        optimizer.step()
    assert abs(float((logits[0, 0] - logits[0, 1]).detach())) < 0.01


# Offsets


def spec(decoding: ClassificationDecoding, count: int = 2) -> ModelSpec:
    tensor = TensorSpec(name="scores", shape=("N", count))
    return ModelSpec(
        name="test", task="classification", input=tensor, outputs=(tensor,), preprocessing=Preprocessing(),
        decoding=decoding, labels=tuple("abcdef"[:count]),
    )  # fmt: skip


def test_prior_offsets_undo_the_shares_of_the_training_set() -> None:
    np.testing.assert_allclose(np.diff(prior_offsets(np.array([99, 1, 0]), 1.0)), [np.log(99), 0.0], atol=1e-9)
    np.testing.assert_allclose(np.diff(prior_offsets(np.array([99, 1]), 0.5)), [0.5 * np.log(99)])


@pytest.mark.parametrize(
    ("activation", "applied", "given"),
    [("softmax", "none", np.log([[0.9, 0.1]])), ("none", "softmax", np.array([[0.9, 0.1]]))],
)
def test_offsets_move_probabilities_alike_before_and_after_a_softmax(activation, applied, given) -> None:
    decoding = ClassificationDecoding(activation=activation, applied=applied, offsets=(0.0, float(np.log(81.0))))
    scores = class_scores({"scores": given.astype(np.float32)}, spec(decoding), [])
    np.testing.assert_allclose(scores, [[0.1, 0.9]], atol=1e-5)
    (result,) = decode({"scores": given.astype(np.float32)}, spec(decoding), [None])
    assert result.label == "b"


@pytest.mark.parametrize(
    ("activation", "applied", "given"),
    [("sigmoid", "none", np.array([[0.0, 0.0]])), ("none", "sigmoid", np.array([[0.5, 0.5]]))],
)
def test_offsets_of_independent_classes_move_each_alone(activation, applied, given) -> None:
    decoding = ClassificationDecoding(activation=activation, applied=applied, offsets=(0.0, float(np.log(3.0))))
    scores = class_scores({"scores": given.astype(np.float32)}, spec(decoding), [])
    np.testing.assert_allclose(scores, [[0.5, 0.75]], atol=1e-5)


def test_an_alignment_is_applied_to_what_offsets_give() -> None:
    decoding = ClassificationDecoding(offsets=(0.0, 2.0))
    aligned = replace(spec(decoding), alignment=Temperature(value=2.0))
    scores = class_scores({"scores": np.zeros((1, 2), np.float32)}, aligned, [])
    np.testing.assert_allclose(scores[0, 1] / scores[0, 0], np.exp(1.0), rtol=1e-5)


def test_offsets_of_another_number_of_classes_are_refused() -> None:
    decoding = ClassificationDecoding(offsets=(0.0, 1.0, 2.0))
    with pytest.raises(ModelError, match="3 offsets for 2 classes"):
        class_scores({"scores": np.zeros((1, 2), np.float32)}, spec(decoding), [])


def test_thresholds_win_back_a_class_whose_scores_are_low() -> None:
    """A class that is never the best, but whose score tells it: its threshold lies far below the other's."""
    rng = np.random.default_rng(0)
    truth = np.tile([0] * 18 + [1, 1], 10)
    rare = np.where(truth == 1, rng.uniform(0.2, 0.4, 200), rng.uniform(0.0, 0.15, 200))
    scores = np.stack([1.0 - rare, rare], axis=1)
    assert (scores.argmax(axis=1) == 0).all()
    moved = np.log(scores) + threshold_offsets(scores, truth)
    assert (moved.argmax(axis=1) == truth).mean() == 1.0


def test_thresholds_by_recalls_find_a_class_that_costs_others_more_than_it_brings() -> None:
    """A class of 20 images that hardly differ from 400 others: its F1 is best where most of them are missed."""
    rng = np.random.default_rng(0)
    truth = np.tile([0] * 20 + [1], 20)
    logits = np.where(truth == 1, 1.0, 0.0) + rng.normal(size=len(truth)) * 0.8 - 4.0
    scores = np.stack([1.0 - 1.0 / (1.0 + np.exp(-logits)), 1.0 / (1.0 + np.exp(-logits))], axis=1)
    worst = {}
    for goal in ("macro_f1", "recalls"):
        best = (np.log(scores) + threshold_offsets(scores, truth, goal)).argmax(axis=1)
        worst[goal] = min(float((best[truth == index] == index).mean()) for index in (0, 1))
    assert worst["recalls"] > 0.6 > worst["macro_f1"]


def test_a_goal_without_thresholds_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"goal = 'recalls' is of thresholds\. Add thresholds = true"):
        parse_config('name = "x"\n[model]\nsource = "edgeopt:lenet5"\n[balance]\nprior = 1.0\ngoal = "recalls"')


def test_offsets_that_other_images_do_not_confirm_are_not_taken() -> None:
    """Scores that know nothing: whatever helps on one half is chance, and on the other it does not."""
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, 200)
    right = np.eye(4)[truth] * 8.0 + rng.normal(size=(200, 4))
    scores = np.exp(right) / np.exp(right).sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(threshold_offsets(scores, truth), 0.0)


def test_a_class_that_validation_does_not_show_stays_where_it_is() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], 30)
    scores = rng.dirichlet(np.ones(3), 60)
    assert threshold_offsets(scores, truth)[2] == 0.0


def test_moving_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="moves nothing"):
        parse_config('name = "x"\n[model]\nsource = "edgeopt:lenet5"\n[balance]\nthresholds = false')


def test_a_model_without_class_probabilities_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\[balance\] moves the logits of classes, and 'test' has none"):
        require_classes(spec(ClassificationDecoding(activation="none")))


def test_label_smoothing_goes_with_cross_entropy_alone() -> None:
    with pytest.raises(ConfigError, match="belong to cross_entropy"):
        parse_config('name = "x"\n[model]\nsource = "edgeopt:lenet5"\n[train]\nloss = "focal"\nlabel_smoothing = 0.1')


def test_metrics_speak_for_the_rare() -> None:
    def answer(index: int) -> Classification:
        return Classification(np.array([index]), np.ones(1, np.float32), ("ab"[index],))

    results, truths = [answer(0)] * 10, [0] * 8 + [1] * 2
    assert balanced_accuracy(results, truths) == 0.5
    assert worst_recall(results, truths) == 0.0


def test_figures_by_class_have_intervals_and_name_the_worst_class() -> None:
    """90 of 100 images right, all ten wrong ones of the rare class."""
    true, best = np.repeat([0, 1], (90, 10)), np.zeros(100, np.int64)
    report = classification_report(confusion_matrix(true, best, 2), ("common", "rare"))
    outcomes = ClassificationOutcomes(
        true=PackedArray.of(true),
        top=PackedArray.of(best[:, None]),
        scores=PackedArray.of(np.ones((100, 1), np.float32)),
    )
    found = Accuracy(
        task="classification", metric="top1", value=0.9, images=100, unreadable=0, data="x", metrics=report,
        outcomes=outcomes,
    )  # fmt: skip
    balance = classes_of(found)
    assert balance is not None
    assert balance.balanced_accuracy.estimate == 0.5
    assert balance.worst == "rare"
    assert balance.worst_support == 10
    assert balance.worst_recall.high == 0.0
    assert balance.macro_f1.low < balance.macro_f1.estimate < balance.macro_f1.high
    (sentence,) = operating_point(found)
    assert sentence.startswith("balanced accuracy 50.00 % [50.0, 50.0], macro F1 47.37 % [")
    assert sentence.endswith("worst class 'rare': 0.0 % [0.0, 0.0] of its 10 images right")


@pytest.mark.parametrize(("classes", "expected"), [("even", [5, 5]), ("proportional", [8, 2])])
def test_calibration_images_may_be_held_out_evenly(tmp_path: Path, classes: str, expected: list[int]) -> None:
    """Of forty images of one class and ten of the other."""
    for label, count in (("common", 40), ("rare", 10)):
        (tmp_path / label).mkdir()
        for number in range(count):
            pixels = np.full((2, 2, 3), (number, len(label), 0), np.uint8)
            assert cv2.imwrite(str(tmp_path / label / f"{number}.png"), pixels)
    source = DataSource(format="image_folder", path=str(tmp_path))
    data = DataConfig(train=source, validation=None, holdout=0.1, calibration_classes=classes)  # type: ignore[arg-type]
    found = load_splits(data, tmp_path, calibration_images=50, minimum_images=10)
    assert found.calibration is not None
    assert found.calibration.class_counts().tolist() == expected
    assert found.test is not None
    assert found.test.class_counts().tolist() == [4, 1], "what is measured on keeps the shares"
