"""RetinaFace with a MobileNet of a quarter of the channels (Deng et al. 2019), for weights that come without code.

A network of somebody's own, as a recipe names it: ``source = "faces:RetinaFace"``. Its layers are called as in the
weights of the project Face-Detector-1MB-with-landmark.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

_WIDTH = 64
_HEADS = {"BboxHead": 4, "ClassHead": 2, "LandmarkHead": 10}


def convolved(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*convolved(inputs, inputs, 3, stride, inputs), *convolved(inputs, outputs, 1))


class Context(nn.Module):
    """Single-stage headless (Najibi et al. 2017): three sizes of surroundings side by side."""

    def __init__(self) -> None:
        super().__init__()
        half, quarter = _WIDTH // 2, _WIDTH // 4
        self.conv3X3, self.conv5X5_1 = convolved(_WIDTH, half)[:2], convolved(_WIDTH, quarter)
        self.conv5X5_2, self.conv7X7_2 = convolved(quarter, quarter)[:2], convolved(quarter, quarter)
        self.conv7x7_3 = convolved(quarter, quarter)[:2]

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        wide = self.conv5X5_1(x)
        return torch.cat([self.conv3X3(x), self.conv5X5_2(wide), self.conv7x7_3(self.conv7X7_2(wide))], 1).relu()


class RetinaFace(nn.Module):
    """Boxes, scores behind their softmax, and landmarks of two priors a cell, for inputs of multiples of 32 pixels."""

    def __init__(self) -> None:
        super().__init__()
        steps = [(8, 16), (16, 32, 2), (32, 32), (32, 64, 2), (64, 64)]
        first = nn.Sequential(convolved(3, 8, 3, 2), *(separable(*step) for step in steps))
        second = nn.Sequential(separable(64, 128, 2), *(separable(128, 128) for _ in range(5)))
        third = nn.Sequential(separable(128, 256, 2), separable(256, 256))
        self.body = nn.ModuleDict({"stage1": first, "stage2": second, "stage3": third})
        sides = {f"output{level}": convolved(32 << level, _WIDTH, 1) for level in (1, 2, 3)}
        self.fpn = nn.ModuleDict(sides | {f"merge{level}": convolved(_WIDTH, _WIDTH) for level in (1, 2)})
        self.ssh1, self.ssh2, self.ssh3 = Context(), Context(), Context()
        for name, columns in _HEADS.items():
            heads = [nn.ModuleDict({"conv1x1": nn.Conv2d(_WIDTH, 2 * columns, 1)}) for _ in range(3)]
            self.add_module(name, nn.ModuleList(heads))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # noqa: D102
        levels, images = [], x.shape[0]
        for level in (1, 2, 3):
            x = self.body[f"stage{level}"](x)
            levels.append(self.fpn[f"output{level}"](x))
        for level in (1, 0):
            wide = functional.interpolate(levels[level + 1], scale_factor=2.0)
            levels[level] = self.fpn[f"merge{level + 1}"](levels[level] + wide)
        seen = [context(level) for context, level in zip((self.ssh1, self.ssh2, self.ssh3), levels, strict=True)]
        boxes, scores, marks = (
            torch.cat([
                head["conv1x1"](each).permute(0, 2, 3, 1).reshape(images, -1, columns)
                for head, each in zip(getattr(self, name), seen, strict=True)
            ], 1)
            for name, columns in _HEADS.items()
        )  # fmt: skip
        return boxes, scores.softmax(-1), marks
