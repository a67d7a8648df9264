"""Write the recipe of a model and its images: from what the model tells, what labelled images decide, and the user."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edgeopt.config import DataSource, ModelConfig, data_source, parse_config, toml_value
from edgeopt.dataset import Dataset
from edgeopt.dataset.loading import checked, listed
from edgeopt.dataset.starter import relative_source
from edgeopt.dataset.survey import Role, survey
from edgeopt.errors import ConfigError, DataError
from edgeopt.files import named_path
from edgeopt.identify import Identification, Question
from edgeopt.pipeline.deciding import IMAGES, Decision, decide
from edgeopt.pipeline.recipe_text import Key, recipe_text
from edgeopt.pipeline.sources import is_self_telling
from edgeopt.references import importable
from edgeopt.source.identified import identify_file
from edgeopt.source.specification import PUBLISHED_LABELS
from edgeopt.spec import Preprocessing, Struct, replace

_BUILT = ("timm:", "torchvision:", "edgeopt:")
_MOST_NAMES = 10
_DATA = Question(
    "data", "there are no images to calibrate and measure with", "--data FOLDER, instances.json or data.yaml"
)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Everything that a user says about a model on the command line.

    Attributes:
        source: a model file, or ``[model] source``.
        data: images: a folder, or a label file. Without labels INT8 is measured against the float model.
        calibration: a folder of images without labels.
        labels: class names between commas, a file of them, or the name of a published list.
        normalization: name of a usual one, for a classifier whose file says nothing.
        overrides: ``KEY=VALUE``, as `config.find_recipe` takes them.
    """

    source: str
    data: str | None = None
    calibration: str | None = None
    labels: str | None = None
    normalization: str | None = None
    overrides: Sequence[str] = ()

    @property
    def is_file(self) -> bool:
        """The model is a file that tells about itself."""
        return is_self_telling(Path(self.source))


@dataclass(frozen=True)
class ModelRecipe:
    """A recipe, and what it rests on.

    Attributes:
        text: of the recipe.
        found: what the model file tells; None for a network that is built by name.
        decision: the reading that images chose, where they had to.
    """

    text: str
    found: Identification | None
    decision: Decision | None


@dataclass
class _Model:
    """The recipe's ``[model]`` as it is completed, and the keys that nobody has said, with what tells them."""

    config: ModelConfig
    keys: dict[str, Key] = field(default_factory=dict)

    def tell(self, name: str, value: Any, why: str, written: Any = None) -> None:
        """Complete a key that is not said."""
        if getattr(self.config, name) is None:
            self.config = replace(self.config, **{name: value})
            self.keys[name] = Key(value if written is None else written, why)


def is_model(reference: str) -> bool:
    """Return True if a reference means a model rather than a recipe."""
    path = Path(reference)
    return is_self_telling(path) or path.suffix.lower() == ".pt2" or reference.startswith(_BUILT)


def model_recipe(wanted: Wanted, root: Path) -> ModelRecipe:
    """Write a recipe that builds from a model and its images.

    Args:
        wanted: the model, the images and what else the user says.
        root: the folder that the recipe's paths start from.

    Raises:
        ConfigError: what a build needs is neither in the file nor given; the message lists all of it.
        EdgeoptError: the model or the images cannot be read.
    """
    model = _said(wanted, root)
    sets = {} if wanted.data is None else _sets(wanted.data)
    with importable(root, *(source.format for source in sets.values())):  # it is the user who names this code
        return _written(model, wanted, sets, root)


def _written(model: _Model, wanted: Wanted, sets: dict[Role, DataSource], root: Path) -> ModelRecipe:
    given = next(iter(sets.values()), None)
    found = decision = None
    if wanted.is_file:
        data_labels = () if given is None else _labels_of(given)
        found = identify_file(named_path(root, model.config.source), model.config.input_size, data_labels)
        decision = _complete(model, found, wanted, given, root)
        sets = _fitting(model.config, sets, data_labels)
    elif given is None:
        raise ConfigError(_asking(wanted.source, [_DATA]))
    elif wanted.normalization is not None:
        raise ConfigError(
            f"--normalization goes with model files that ONNX or TensorFlow wrote; of {wanted.source} say it with "
            "--set 'model.preprocessing={ steps = [{ type = \"resize\", size = [224, 224] }], normalization = {} }'"
        )
    quantized = model.config.source if found is not None and found.quantized else None
    chosen = _tables(wanted, sets) if quantized is None else {"test": _test_of(sets)}
    tables = {role: relative_source(source, root) for role, source in chosen.items()}
    return ModelRecipe(recipe_text(model.config.source, model.keys, tables, quantized), found, decision)


def _said(wanted: Wanted, root: Path) -> _Model:
    """Return the ``[model]`` that the user gives by options."""
    is_path = Path(wanted.source).exists()
    source = Path(os.path.relpath(wanted.source, root)).as_posix() if is_path else wanted.source
    text = f'name = "model"\n[model]\nsource = {toml_value(source)}\n'
    model = _Model(parse_config(text, "the options", wanted.overrides).model)
    if wanted.labels is not None:
        names: Any = tuple(name.strip() for name in wanted.labels.split(",") if name.strip())
        if wanted.labels in PUBLISHED_LABELS:
            names = wanted.labels
        elif Path(wanted.labels).is_file():
            names = Path(os.path.relpath(wanted.labels, root)).as_posix()
        model.tell("labels", names, "as --labels says")
    return model


def _sets(reference: str) -> dict[Role, DataSource]:
    """Find the sets behind what the user points at."""
    if Path(reference).suffix == ".toml" or not Path(reference).exists():
        return {"test": data_source(reference)}
    return survey(Path(reference)).sets


def _labels_of(source: DataSource) -> tuple[str, ...]:
    """Return the class names of the data; empty where their label files have none."""
    try:
        return listed(source, Path()).labels
    except DataError:
        return ()


def _complete(
    model: _Model, found: Identification, wanted: Wanted, given: DataSource | None, root: Path
) -> Decision | None:
    """Complete ``[model]`` by everything that a build needs; return the decision of images where there had to be one.

    Raises:
        ConfigError: something is still open.
    """
    if found.labels is not None:
        model.tell("labels", found.labels.value, found.labels.why)
    if found.input_size is not None:
        model.tell("input_size", found.input_size.value, found.input_size.why)
    if wanted.normalization is not None:
        preprocessing = _usual(found, wanted.normalization)
        model.tell("preprocessing", preprocessing, "as --normalization says", _short(preprocessing))
    if found.settled is not None:
        _tell_reading(model, found, found.settled.name)
    open_keys = [each for each in found.questions if not _is_answered(model.config, each.key)]
    decision = None
    measurable = {"model.decoding", "model.preprocessing"} if given is None or given.format != "images" else set()
    if open_keys and found.candidates and {each.key for each in open_keys} <= measurable and given is not None:
        decision = decide(model.config, root, found, _some_images(given, model.config, root))
        _tell_reading(model, found, decision.best.reading, decision)
        open_keys = []
    if given is None:
        open_keys.append(_DATA)
    if open_keys:
        raise ConfigError(_asking(wanted.source, open_keys))
    return decision


def _is_answered(model: ModelConfig, key: str) -> bool:
    """Return True if the user has said a key; no option makes another file of the source."""
    return key != "model.source" and bool(getattr(model, key.removeprefix("model."), None))


def _tell_reading(model: _Model, found: Identification, name: str, decision: Decision | None = None) -> None:
    """Complete ``[model]`` by a reading's decoding and preprocessing."""
    candidate = next(each for each in found.candidates if each.name == name)
    why = candidate.why if decision is None else decision.sentence()
    plain = set(candidate.decoding) == {"preset"}
    model.tell("decoding", candidate.decoder, why, candidate.name if plain else dict(candidate.decoding))
    if candidate.preprocessing is not None:
        prepared = candidate.preprocessing
        model.tell("preprocessing", prepared.value, prepared.why, _short(prepared.value))
    elif decision is not None and decision.best.model.preprocessing is not None:
        preprocessing = decision.best.model.preprocessing
        model.tell("preprocessing", preprocessing, decision.sentence(), _short(preprocessing))


def _usual(found: Identification, name: str) -> Preprocessing:
    if name not in found.possible:
        raise ConfigError(f"--normalization {name} is not needed: the file settles it. See: edgeopt inspect")
    return found.possible[name]


def _asking(source: str, questions: Sequence[Question]) -> str:
    lines = "\n".join(f"  {each.key}: {each.what}. Give {each.example}" for each in questions)
    return f"{source} does not say everything that a build needs:\n{lines}"


def _names(model: ModelConfig, root: Path) -> tuple[str, ...]:
    from edgeopt.source.specification import read_labels

    return read_labels(model, root)


def _some_images(source: DataSource, model: ModelConfig, root: Path) -> Dataset:
    """Load a few images, evenly over the classes, with the model's labels."""
    few = replace(source, limit=min(source.limit or 1 << 30, max(IMAGES.values())), other_classes="leave_out")
    return checked(listed(few, Path(), _names(model, root) or None))


def _fitting(model: ModelConfig, sets: dict[Role, DataSource], data_labels: tuple[str, ...]) -> dict[Role, DataSource]:
    """Leave out classes that the model does not have, where the data have some of its own."""
    labels = model.labels if isinstance(model.labels, tuple) else PUBLISHED_LABELS.get(model.labels or "")
    if labels is None or not data_labels or set(data_labels) <= set(labels):
        return sets
    if not set(data_labels) & set(labels):
        raise DataError(
            f"the model's classes ({_listed(labels)}) and those of the data ({_listed(data_labels)}) have no name in "
            "common. Name the model's classes as the data do, in the model's order: --labels a,b,c"
        )
    return {role: replace(source, other_classes="leave_out") for role, source in sets.items()}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMES]) + (" …" if len(names) > _MOST_NAMES else "")


def _tables(wanted: Wanted, sets: dict[Role, DataSource]) -> dict[str, DataSource]:
    """Return the recipe's tables of data: test images apart from those that calibrate."""
    tables: dict[str, DataSource] = {}
    first = next(iter(sets.values()))
    if wanted.calibration is not None:
        tables["test"] = _test_of(sets)
        tables["calibration"] = _unlabelled(wanted.calibration)
    elif len(sets) == 1:
        tables["train"] = first
    else:
        tables["test"] = _test_of(sets)
        tables["train"] = sets.get("train") or sets["validation"]
    if "validation" in sets and sets["validation"] not in tables.values():
        tables["validation"] = sets["validation"]
    return tables


def _test_of(sets: dict[Role, DataSource]) -> DataSource:
    return sets.get("test") or sets.get("validation") or sets["train"]


def _unlabelled(reference: str) -> DataSource:
    """Return the images of a folder, whatever labels are near."""
    path = Path(reference).resolve()
    return DataSource(format="images", path=str(path)) if path.is_dir() else data_source(reference)


def _short(struct: Struct) -> dict[str, Any]:
    """Return the keys of a table that differ from the defaults."""
    plain: Any = struct
    tag = plain.__struct_config__.tag
    written: dict[str, Any] = {} if tag is None else {"type": tag}
    for each in msgspec.structs.fields(plain):
        value = getattr(struct, each.name)
        if each.default is not msgspec.NODEFAULT and value == each.default:
            continue
        if isinstance(value, tuple):
            value = [_short(part) if isinstance(part, Struct) else part for part in value]
        written[each.name] = _short(value) if isinstance(value, Struct) else value
    return written
