"""A whole recipe: its tables together, where one is found, and writing one."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edgeopt.config.data import DataConfig
from edgeopt.config.engines import CompileConfig
from edgeopt.config.fitting import FitConfig
from edgeopt.config.measuring import AlignConfig, BalanceConfig, BenchmarkConfig, EvaluateConfig
from edgeopt.config.model import FEATURES, ModelConfig
from edgeopt.config.quantization import BudgetConfig, CalibrateConfig, ExportConfig, PrecisionConfig, QuantizeConfig
from edgeopt.config.toml import parse_toml, read_text
from edgeopt.config.training import CompressConfig, TrainConfig
from edgeopt.config.wording import PLAIN_NAME
from edgeopt.errors import ConfigError, SettingError, did_you_mean, storage_errors
from edgeopt.files import is_file, is_folder
from edgeopt.references import is_code
from edgeopt.spec import Struct, Task, code_in

RECIPE_FILE = "edgeopt.toml"


class Config(Struct):
    """A whole recipe."""

    name: Annotated[str, Meta(pattern=PLAIN_NAME)]
    """Name of the recipe and of its bundle: letters, digits, ``.``, ``_`` and ``-``."""
    model: ModelConfig
    data: DataConfig = DataConfig()
    train: TrainConfig | None = None
    fit: FitConfig | None = None
    compress: CompressConfig | None = None
    export: ExportConfig = ExportConfig()
    calibrate: CalibrateConfig = CalibrateConfig()
    quantize: QuantizeConfig = QuantizeConfig()
    precision: PrecisionConfig = PrecisionConfig()
    budget: BudgetConfig | None = None
    compile: CompileConfig = CompileConfig()
    balance: BalanceConfig | None = None
    align: AlignConfig = AlignConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()

    def __post_init__(self) -> None:
        if self.train is not None and self.train.quantize and not self.quantize.enabled:
            raise SettingError("[train] quantize trains INT8 graphs, and [quantize] enabled = false makes none")
        if self.train is not None and self.train.quantize and self.quantize.file is not None:
            raise SettingError("[train] quantize trains what edgeopt quantized, and [quantize] file is another tool's")
        if self.compress is not None and self.compress.train is not None and self.compress.train.quantize:
            raise SettingError("INT8 graphs are trained as [train] says. Move quantize from [compress.train] there")
        if (self.fit is not None) != (self.model.source == FEATURES):
            raise SettingError(
                f'[fit] and [model] source = "{FEATURES}" go together. Add '
                + ("the latter, with the network as [model] backbone" if self.fit is not None else "a [fit] table")
            )
        for name in ("train", "compress"):
            if self.fit is not None and getattr(self, name) is not None:
                raise SettingError(f"[fit] leaves the network as it is, and [{name}] changes it. Remove one of them")
        if self.fit is not None and self.fit.regions is not None and not self.export.fold_normalization:
            raise SettingError("[fit.regions] reads regions from pixels. Remove [export] fold_normalization = false")
        if self.fit is not None and self.quantize.file is not None:
            raise SettingError("[fit] makes a network that nobody has quantized yet. Remove [quantize] file")
        if self.balance is not None and self.quantize.file is not None:
            raise SettingError(
                "[balance] goes with graphs that edgeopt quantizes, and [quantize] file is another tool's"
            )
        learns = None if self.compress is None else self.compress.train or self.train
        if learns is not None and learns.processes > 1:
            raise SettingError(
                "[compress] trains with a teacher, in one process. Remove [train] processes, or give [compress.train]"
            )
        if self.compress is not None and self.compress.train is None and not self.trains:
            raise SettingError(
                "[compress] ruins a network that is not trained afterwards: say how in [compress.train], or in [train]"
            )

    @property
    def trains(self) -> bool:
        """True if the float network is trained before anything else."""
        return self.train is not None and self.train.epochs > 0


def named_code(config: Config) -> tuple[str, ...]:
    """Return the user's code that a recipe names."""
    sources = (config.data.train, config.data.validation, config.data.test, config.data.calibration)
    formats = [source.format for source in sources if source is not None]
    made = (*config.quantize.repairs, *config.compile.targets, *config.evaluate.metrics)
    networks = (config.model.source, config.model.backbone or "")
    named = (*networks, *formats, *training_code(config), *code_in(config.model.decoder), *made)
    return tuple(name for name in named if is_code(name))


def training_code(config: Config) -> tuple[str, ...]:
    """Return the user's code that a recipe names for its training."""
    tables = (config.train, None if config.compress is None else config.compress.train)
    named = [(*train.augmentation.custom, train.loss) for train in tables if train is not None]
    return tuple(dict.fromkeys(name for names in named for name in names if name is not None))


def find_recipe(reference: str, overrides: Sequence[str] = (), root: Path = Path()) -> tuple[Config, Path]:
    """Find the recipe that a user means, and the folder that its relative paths start from.

    Args:
        reference: a ``.toml`` file, a folder with an ``edgeopt.toml``, or the name of a shipped recipe (whose relative
            paths start from `root`).
        overrides: ``KEY=VALUE`` with a dotted key and a TOML value; a value that is not TOML counts as text.
        root: folder that the reference starts from. Default: the current one.

    Raises:
        ConfigError: nothing of that name, not TOML, an unknown key or a value out of range.
    """
    path = root / reference
    if is_folder(path):
        path /= RECIPE_FILE
    if path.suffix == ".toml" or is_file(path):
        return parse_config(read_text(path), origin=str(path), overrides=overrides), path.resolve().parent
    known = shipped_recipes()
    if reference not in known:
        raise ConfigError(
            f"there is no recipe '{reference}'."
            + did_you_mean(reference, known, "Give a .toml file, or write a starter one with: edgeopt init")
        )
    text = (resources.files("edgeopt") / "recipes" / f"{reference}.toml").read_text(encoding="utf-8")
    return parse_config(text, origin=f"recipe {reference}", overrides=overrides), root.resolve()


def shipped_recipes() -> list[str]:
    """List the recipes in the package."""
    folder = resources.files("edgeopt") / "recipes"
    return sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml"))


def parse_config(text: str, origin: str = RECIPE_FILE, overrides: Sequence[str] = ()) -> Config:
    """Parse a recipe. `origin` names it in errors, `overrides` are as in `find_recipe`."""
    return parse_toml(text, Config, origin, overrides)


def write_starter(path: Path, task: Task, *, replace: bool) -> None:
    """Write a recipe to start from.

    Raises:
        ConfigError: the file is there and `replace` is false.
        StorageError: it cannot be written.
    """
    text = (resources.files("edgeopt") / "templates" / f"{task}.toml").read_text(encoding="utf-8")
    write_recipe(path, text, replace=replace)


def write_recipe(path: Path, text: str, *, replace: bool) -> None:
    """Write a recipe's text.

    Raises:
        ConfigError: the file is there and `replace` is false.
        StorageError: it cannot be written.
    """
    if path.exists() and not replace:
        raise ConfigError(f"{path} is there already: choose another name with --out, or replace it with --force")
    with storage_errors(path):
        path.write_text(text, encoding="utf-8")


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of edgeopt.toml, for editors."""
    return msgspec.json.schema(Config)
