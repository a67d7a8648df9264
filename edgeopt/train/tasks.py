"""The objective that a recipe asks for."""

from __future__ import annotations

from edgeopt.config import TrainConfig
from edgeopt.errors import ConfigError
from edgeopt.spec import ModelSpec
from edgeopt.train.adversarial import Hardened
from edgeopt.train.objective import Classify, Detect, Objective, Taught
from edgeopt.train.pictures import Pictures
from edgeopt.train.together import ALONE, Group


def make_objective(
    spec: ModelSpec,
    config: TrainConfig,
    pictures: Pictures,
    teacher: Taught | None = None,
    group: Group = ALONE,
) -> Objective:
    """Return the objective of the task in `spec`, with a teacher's answers in its loss where there is one.

    Args:
        spec: the model's.
        config: the recipe's.
        pictures: the training set.
        teacher: a network whose outputs are learnt, too, and their weight in the loss.
        group: the processes of whose images the loss is a part.

    Raises:
        ConfigError: an augmentation, a loss or an attack that the task cannot have.
        ModelError: a detector that is not trained here.
    """
    if spec.task == "classification":
        clean = Classify(config, pictures, teacher, group)
        return clean if config.adversarial is None else Hardened(clean, config.adversarial, pictures)
    if config.adversarial is not None:
        raise ConfigError(
            "[train.adversarial] is for classification. Remove it: a detector is not trained under attack"
        )
    return Detect(spec, config, pictures, teacher, group)
