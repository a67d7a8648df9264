"""Choosing which trials to make: the whole grid, or of a larger one what Optuna suggests."""

from __future__ import annotations

import random
from typing import Any, Protocol

from edgeopt.errors import ConfigError, requires_extra
from edgeopt.sweep.plan import Indices, Plan
from edgeopt.sweep.results import TrialResult

_TRIES = 20
"""Suggestions that may be known already, before a place is drawn at random."""

_IMAGES = ("data.test.", "evaluate.limit.")
"""Beginnings of the keys of a recipe that choose its test images."""


class Chooser(Protocol):
    """Chooses places of the grid, one at a time, each once."""

    def next(self) -> Indices | None:
        """Return a place, or None where there is none left."""

    def told(self, place: Indices, result: TrialResult) -> None:
        """Learn what became of a place."""


class Grid:
    """All places."""

    def __init__(self, plan: Plan) -> None:
        self._places = plan.grid()

    def next(self) -> Indices | None:
        """Return the next one."""
        return next(self._places, None)

    def told(self, place: Indices, result: TrialResult) -> None:
        """Ignore it: all are made anyway."""


class Suggested:
    """Places that Optuna suggests for accuracy and latency together (multi-objective TPE).

    Accuracies compare only on the same images and latencies on one device: each test set has a study of its own for
    each target, and they take turns.

    Args:
        plan: the sweep's.

    Raises:
        MissingExtraError: Optuna is not installed.
        ConfigError: a setting changes the test images.
    """

    def __init__(self, plan: Plan) -> None:
        self._optuna: Any = requires_extra("optuna", "sweep")
        self._optuna.logging.set_verbosity(self._optuna.logging.ERROR)
        self._plan, self._seen = plan, set[Indices]()
        self._random = random.Random(plan.config.seed)  # noqa: S311 - a search, no secret
        if changed := [key for key in plan.settings if f"{key}.".startswith(_IMAGES)]:
            raise ConfigError(
                f"[settings] {changed[0]} changes the test images, and Optuna would compare accuracies on different "
                "ones. Remove `trials`, for the whole grid, or this setting"
            )
        by_data: dict[str, list[int]] = {}
        for model in range(len(plan.models)):
            by_data.setdefault(_data(plan, model), []).append(model)
        self._studies = [
            (self._study(), models, target) for models in by_data.values() for target in range(len(plan.targets))
        ]
        self._turn = 0
        self._asked: dict[Indices, tuple[Any, Any]] = {}

    def _study(self) -> Any:
        sampler = self._optuna.samplers.TPESampler(seed=self._plan.config.seed, multivariate=True, constant_liar=True)
        return self._optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)

    def next(self) -> Indices | None:
        """Return a place that was not returned before."""
        for _ in self._studies:
            study, models, target = self._studies[self._turn % len(self._studies)]
            self._turn += 1
            if (place := self._suggestion(study, models, target)) is not None:
                self._seen.add(place)
                return place
        return None

    def _suggestion(self, study: Any, models: list[int], target: int) -> Indices | None:
        sizes = self._plan.sizes[2:]
        for _ in range(_TRIES):
            trial = study.ask()
            model = trial.suggest_categorical("model", models)
            chosen = (trial.suggest_categorical(str(axis), list(range(size))) for axis, size in enumerate(sizes))
            place = (model, target, *chosen)
            if place not in self._seen:
                self._asked[place] = (study, trial)
                return place
            study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        left = [
            each for each in self._plan.grid() if each[1] == target and each[0] in models and each not in self._seen
        ]
        return self._random.choice(left) if left else None

    def told(self, place: Indices, result: TrialResult) -> None:
        """Tell Optuna accuracy and latency of what the trial is judged by."""
        if place not in self._asked:
            return
        study, trial = self._asked.pop(place)
        best = result.best
        if best is None or best.accuracy is None or best.p50_ms is None:
            study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, [best.accuracy, best.p50_ms])


def _data(plan: Plan, model: int) -> str:
    """Return the data of a model's first trial that makes a recipe."""
    configs = (plan.trial(place).config for place in plan.grid() if place[0] == model)
    return next((repr(config.data) for config in configs if config is not None), "")


def chooser(plan: Plan) -> Chooser:
    """Return the grid where it is small enough, or Optuna's choice."""
    return Grid(plan) if plan.count == plan.grid_size else Suggested(plan)
