"""Make the weights that the recipe `digit-scenes` starts from, which ship with the package.

Run as ``python -m benchmarks.demo_weights`` (half an hour on two calm cores): it trains the shipped recipe
`digit-scenes-scratch` and writes ``edgeopt/recipes/digit-scenes.safetensors``. Convolutions are kept in half precision,
which halves the file; everything else stays as it is. Another machine or release of torch rounds otherwise, so that a
new training gives weights of the same accuracy, not the same numbers.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from safetensors.torch import load_file, save_file

from edgeopt.cli.boundary import errors_reported
from edgeopt.cli.console import StageDisplay
from edgeopt.config import find_recipe
from edgeopt.pipeline import train_model

RECIPE = "digit-scenes-scratch"
WEIGHTS = Path(__file__).resolve().parents[1] / "edgeopt" / "recipes" / "digit-scenes.safetensors"


def main() -> None:
    """Train, and write the file."""
    config, root = find_recipe(RECIPE)
    with tempfile.TemporaryDirectory() as folder, StageDisplay() as display:
        pack(train_model(config, root, Path("build") / RECIPE, Path(folder) / "trained.safetensors", display), WEIGHTS)
    print(f"{WEIGHTS}: {WEIGHTS.stat().st_size / 1e6:.2f} MB")


def pack(trained: Path, out: Path) -> None:
    """Write the weights of `trained` to `out`, convolutions in half precision."""
    state = load_file(trained)
    save_file({name: value.half() if value.ndim == 4 else value for name, value in state.items()}, out)


if __name__ == "__main__":
    with errors_reported():
        main()
