"""The networks of the comparison: two with published weights, and ResNet-50 with random ones for its latency alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeopt.config import Config, ModelConfig, find_recipe
from edgeopt.spec import replace

_RECIPES = Path(__file__).resolve().parents[1] / "recipes"
_SEED_IMAGES = 16
_FEW_IMAGES = 32
"""For calibration where accuracy means nothing."""


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        name: of its results.
        title: of its columns.
        recipe: where its images are, and the network itself where `random` is empty.
        random: the architecture that random weights are made for. Accuracy then means nothing and is not measured.
    """

    name: str
    title: str
    recipe: str
    random: str = ""


NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        Network("mobilenet-v2", "MobileNetV2", "mobilenet-v2.toml"),
        Network("yolox-nano-coco", "YOLOX-nano", "yolox-nano-coco.toml"),
        Network("resnet50", "ResNet-50", "mobilenet-v2.toml", random="edgeopt:resnet50"),
    )
}


def recipe(network: Network, images: int, folder: Path) -> tuple[Config, Path]:
    """The recipe and the folder that its paths start from.

    Args:
        network: which.
        images: for calibration.
        folder: random weights are kept there.
    """
    overrides = [f"calibrate.images={_FEW_IMAGES if network.random else images}"]
    if network.random:
        overrides.append("quantize.repairs=[]")  # they move no quantizer, so they change no latency
    config, root = find_recipe(str(_RECIPES / network.recipe), overrides)
    if not network.random:
        return config, root
    model = ModelConfig(source=network.random, weights=str(_random_weights(network, folder).resolve()))
    return replace(config, name=network.name, model=model), root


def _random_weights(network: Network, folder: Path) -> Path:
    """Initial weights with BatchNorm statistics of noise, so that activations keep their size through the depth."""
    path = folder / f"{network.name}.safetensors"
    if path.is_file():
        return path
    import torch
    from safetensors.torch import save_file

    from edgeopt.source import resolve

    module = resolve(ModelConfig(source=network.random), folder).module
    assert module is not None
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # a plain average, of one batch
    noise = torch.randn(_SEED_IMAGES, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        module.train()(noise)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path)
    return path
