"""The plan of a sweep: a TOML file of models, settings and targets becomes trials, each a recipe of its own."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, field

from edgeopt.config import Config, find_recipe, read_toml, toml_value
from edgeopt.errors import ConfigError, EdgeoptError
from edgeopt.pipeline.provenance import code_hash
from edgeopt.pipeline.workspace import content_key
from edgeopt.spec import PositiveInt, Struct

_TARGETS = "compile.targets"
_LOOKED_AT = 1000
"""Trials of a model in which a recipe is looked for."""
Indices = tuple[int, ...]
"""A trial's place on each axis: model, target, then the settings in their order."""


class SweptModel(Struct):
    """One model of a sweep."""

    recipe: str | None = None
    """Its recipe, as `edgeopt build` takes it. Default: the sweep's."""
    set: dict[str, Any] = field(default_factory=dict)
    """Keys of that recipe to change, by dotted key."""


class SweepConfig(Struct):
    """A whole sweep file."""

    recipe: str | None = None
    """Recipe of the models that name none; paths start from the sweep file's folder."""
    models: dict[str, SweptModel] = field(default_factory=dict)
    """Models by name. Default: the recipe's own."""
    settings: dict[str, list[Any] | dict[str, Any]] = field(default_factory=dict)
    """Values to try by dotted key: a list, or a table of named values."""
    targets: tuple[str, ...] = ()
    """Targets to build for, one at a time. ``trt@device:orin-nano`` runs only on a worker with that label. Default: the
    targets of each recipe together."""
    trials: PositiveInt | None = None
    """Most trials: of a larger grid, Optuna chooses. Default: the whole grid."""
    cpus: Annotated[float, Meta(gt=0)] = 1.0
    """Processor cores that a trial takes of a Ray cluster."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of Optuna's choices."""
    store: str | None = None
    """Address of finished stages and bundles for workers that share no folder, as ``s3://bucket/sweeps`` or another
    that fsspec knows. Credentials are those of the environment. Default: all workers share the folders of the sweep."""


class Trial(Struct):
    """One build of a sweep."""

    key: str
    """Hash of its recipe and `code`, but not of files that the recipe names, nor of installed versions."""
    code: str
    """Hash of the code of edgeopt that builds."""
    model: str
    target: str
    """Target with its labels as the sweep file has it; empty for the targets of the recipe."""
    settings: dict[str, str]
    """Values by dotted key, as tables show them."""
    config: Config | None
    """The recipe; None where the values make none."""
    root: str
    """Folder that its relative paths start from."""
    problem: str = ""
    """Reason why there is no recipe."""
    store: str | None = None
    """Address of the sweep's store."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels that a worker must have."""
        return labels_of(self.target)


@cache
def building_code() -> str:
    """Return the hash of the code of edgeopt that builds, as this process has it."""
    return code_hash(["edgeopt.pipeline.build"])


def labels_of(target: str) -> tuple[str, ...]:
    """Return the labels of a target as the sweep file has it."""
    return tuple(target.split("@")[1:])


@dataclass(frozen=True)
class Plan:
    """A sweep with all of its axes.

    Attributes:
        name: of the sweep, that of its file.
        root: folder that relative paths of recipes start from.
        config: content of the file.
        models: by name.
    """

    name: str
    root: Path
    config: SweepConfig
    models: Mapping[str, SweptModel]

    @property
    def targets(self) -> tuple[str, ...]:
        """Targets; one that is empty stands for the recipes' own."""
        return self.config.targets or ("",)

    @cached_property
    def settings(self) -> dict[str, list[tuple[str, Any]]]:
        """Values with their names, by dotted key."""
        return {key: _named(values) for key, values in self.config.settings.items()}

    @property
    def sizes(self) -> Indices:
        """Length of each axis."""
        return (len(self.models), len(self.targets), *map(len, self.settings.values()))

    @property
    def grid_size(self) -> int:
        """Number of different trials."""
        return math.prod(self.sizes)

    @property
    def count(self) -> int:
        """Number of trials that the sweep makes at most."""
        return min(self.grid_size, self.config.trials or self.grid_size)

    def grid(self) -> Iterator[Indices]:
        """List all places, models alternating: neighbours share no training that one would wait for."""
        models, targets, *settings = map(range, self.sizes)
        for *chosen, target, model in itertools.product(*settings, targets, models):
            yield (model, target, *chosen)

    def trial(self, indices: Indices) -> Trial:
        """Return the trial at a place; one whose values make no recipe has the reason."""
        model_name = list(self.models)[indices[0]]
        target = self.targets[indices[1]]
        chosen = [values[index] for values, index in zip(self.settings.values(), indices[2:], strict=True)]
        model = self.models[model_name]
        changes = {**model.set, **{key: value for key, (_, value) in zip(self.settings, chosen, strict=True)}}
        if target:
            changes[_TARGETS] = [target.partition("@")[0]]
        overrides = [f"{key}={toml_value(value)}" for key, value in changes.items()]
        config: Config | None = None
        root, problem = self.root, ""
        try:
            config, root = find_recipe(_recipe(model, self.config), overrides, self.root)
        except EdgeoptError as error:
            problem = str(error)
        determinants = {
            "model": model_name,
            "target": target,
            "overrides": overrides,
            "recipe": config,
            "root": str(root),
        }
        return Trial(
            key=content_key("trial", {**determinants, "code": building_code()})[:16],
            code=building_code(),
            model=model_name,
            target=target,
            settings={key: name for key, (name, _) in zip(self.settings, chosen, strict=True)},
            config=config,
            root=str(root),
            problem=problem,
            store=self.config.store,
        )


def read_plan(path: Path) -> Plan:
    """Read a sweep file.

    Raises:
        ConfigError: it cannot be read, an axis is empty or has a value twice, one key's value is lost to another's, a
            model has no recipe, or no trial at all makes one.
    """
    config = read_toml(path, SweepConfig)
    for key, values in config.settings.items():
        if not values:
            raise ConfigError(f"{path}: [settings] {key} has no values. Give at least one, or remove it")
        if isinstance(values, dict) and "." not in key:
            raise ConfigError(
                f"{path}: [settings] {key} is a table. Write dotted keys between quotation marks, as "
                f'"{key}.{next(iter(values))}" = […]'
            )
    for axis, names in (
        *((f"[settings] {key}", [name for name, _ in _named(values)]) for key, values in config.settings.items()),
        ("targets", config.targets),
    ):
        if doubled := [name for name in names if list(names).count(name) > 1]:
            raise ConfigError(f"{path}: {axis} has {doubled[0]} twice. Remove one of them")
    for key, values in config.settings.items():
        seen = dict[str, str]()
        for name, value in _named(values):
            if (first := seen.setdefault(text := toml_value(value), name)) != name:
                raise ConfigError(
                    f"{path}: [settings] {key}: '{first}' and '{name}' are one value, {text}. Remove one of them"
                )
    models = config.models or {path.stem if config.recipe is None else Path(config.recipe).stem: SweptModel()}
    if missing := [name for name, model in models.items() if model.recipe is None and config.recipe is None]:
        raise ConfigError(f"{path}: model '{missing[0]}' has no recipe. Give one with `recipe`")
    _refuse_lost(path, config, models)
    plan = Plan(path.stem, path.resolve().parent, config, models)
    _refuse_hopeless(plan)
    return plan


def _recipe(model: SweptModel, config: SweepConfig) -> str:
    reference = config.recipe if model.recipe is None else model.recipe
    assert reference is not None
    return reference


def _refuse_lost(path: Path, config: SweepConfig, models: Mapping[str, SweptModel]) -> None:
    """Refuse a key whose value never counts, since a later one sets it or the table that it is in."""
    later = [(key, f"[settings] {key}") for key in config.settings]
    if config.targets:
        later.append((_TARGETS, "`targets`"))
    for name, model in models.items():
        changed = [*((key, f"[models.{name}] {key}") for key in model.set), *later]
        for (early, lost), (late, setter) in itertools.combinations(changed, 2):
            if f"{early}.".startswith(f"{late}."):
                raise ConfigError(f"{path}: {lost} is lost: {setter} sets it in each trial. Remove one of them")


def _refuse_hopeless(plan: Plan) -> None:
    """Refuse a model no trial of which makes a recipe, as for a key that is not there.

    Of a large grid trials are looked at that chance draws.
    """
    chance = random.Random(plan.config.seed)  # noqa: S311 - a sample, no secret
    sizes = plan.sizes[1:]
    drawn = math.prod(sizes) > _LOOKED_AT
    for number, name in enumerate(plan.models):
        places: Iterable[Indices] = itertools.product(*map(range, sizes))
        if drawn:
            places = (tuple(map(chance.randrange, sizes)) for _ in range(_LOOKED_AT))
        problem = ""
        for place in places:
            problem = plan.trial((number, *place)).problem
            if not problem:
                break
        if problem:
            none = f"none of {_LOOKED_AT} trials" if drawn else "no trial"
            raise ConfigError(f"{none} of model '{name}' makes a recipe: {problem}")


def _named(values: Sequence[Any] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return values with names: their own, or as TOML has them."""
    if isinstance(values, Mapping):
        return list(values.items())
    return [(each if isinstance(each, str) else toml_value(each), each) for each in values]
