"""LeNet-5 for 28 x 28 grey images."""

from __future__ import annotations

from torch import Tensor, nn


class LeNet5(nn.Module):
    """LeCun et al. 1998, with today's ReLU and max pooling in place of tanh and trainable subsampling.

    Five layers with weights: two convolutions and three dense ones. The first convolution pads by 2, so that a 28 x 28
    digit takes the place of the paper's 32 x 32 one.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Linear(16 * 5 * 5, 120),
            nn.ReLU(inplace=True),
            nn.Linear(120, 84),
            nn.ReLU(inplace=True),
            nn.Linear(84, num_classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 1, 28, 28) float32 to logits (N, classes) float32."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits
