"""A network, with everything that has to be known of it."""

from torch import nn

from edgeopt.spec import CodeDecoding, ModelSpec, Normalization, Preprocessing, Resize, TensorSpec


def tiny(channels: int = 8) -> tuple[nn.Module, ModelSpec]:
    """[model] source = "shop.network:tiny", with [model] arguments."""
    module = nn.Sequential(
        nn.Conv2d(3, channels, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(channels, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    spec = ModelSpec(
        name="fruit",
        task="classification",
        input=TensorSpec(name="images", shape=("N", 3, 16, 16)),
        outputs=(TensorSpec(name="logits", shape=("N", 3)),),
        preprocessing=Preprocessing(steps=(Resize(size=(16, 16)),), normalization=Normalization()),
        decoding=CodeDecoding(call="shop.decoding:softened", arguments={"temperature": 2.0}),
        labels=("apple", "lime", "plum"),
    )
    return module, spec
