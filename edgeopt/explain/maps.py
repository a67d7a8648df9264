"""Maps of a picture's places from a network's features: Eigen-CAM and Grad-CAM, and how levels are joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Map: TypeAlias = NDArray[np.float32]
"""(rows, columns), from 0 to 1: how much an answer comes from each place of the network's input."""
Cells: TypeAlias = NDArray[np.float32]
"""(places, channels) features."""


def principal_direction(cells: Cells) -> Cells:
    """Return the (channels,) direction in which features vary most from place to place, of length one.

    It is the first principal component, whose projection is Eigen-CAM (Muhammad and Yeasin, "Eigen-CAM: Class
    Activation Map using Principal Components", 2020). Its sign is free: here stronger features are positive.
    """
    spread = cells - cells.mean(axis=0)
    if not spread.any():
        return np.zeros(cells.shape[1], np.float32)
    gram = spread @ spread.T if len(spread) < spread.shape[1] else spread.T @ spread
    vector = np.linalg.eigh(gram.astype(np.float64))[1][:, -1].astype(np.float32)
    direction = spread.T @ vector if len(spread) < spread.shape[1] else vector
    length = float(np.linalg.norm(direction))
    strength = np.linalg.norm(cells, axis=1)
    sign = -1.0 if float((spread @ direction) @ (strength - strength.mean())) < 0.0 else 1.0
    return np.asarray(direction * np.float32(sign / length))


def projected(cells: Cells, direction: Cells, grid: tuple[int, int]) -> Map:
    """Return how far the features of each place reach along a direction, against the mean of all places."""
    return scaled(((cells - cells.mean(axis=0)) @ direction).reshape(grid))


def grad_cam(cells: Cells, gradients: Cells, grid: tuple[int, int]) -> Map:
    """Return Grad-CAM: channels weighted with their mean gradient (Selvaraju et al., ICCV 2017, equations 1 and 2).

    Args:
        cells: features.
        gradients: of the answer to them, of the same shape.
        grid: (rows, columns) of the places.
    """
    return scaled((cells @ gradients.mean(axis=0)).reshape(grid))


def scaled(values: NDArray[Any]) -> Map:
    """Return what speaks for an answer, with 1 at its largest; zeros where nothing does."""
    positive = np.maximum(values, 0.0).astype(np.float32)
    most = float(positive.max())
    return np.asarray(positive / np.float32(most), np.float32) if most > 0.0 else positive


def joined(maps: Sequence[Map]) -> Map:
    """Return the mean of a detector's levels on the grid of the first, the finest."""
    if len(maps) == 1:
        return maps[0]
    rows, columns = maps[0].shape
    return np.asarray(np.mean([resized(each, rows, columns) for each in maps], axis=0), np.float32)


def resized(values: Map, rows: int, columns: int) -> Map:
    """Return a map on another grid, bilinear."""
    return np.asarray(cv2.resize(values, (columns, rows), interpolation=cv2.INTER_LINEAR), np.float32)


class ChannelScales:
    """Factors by which one network's channels are larger than another's that computes the same.

    Equalization before quantizing multiplies channels and divides what reads them, so that features differ and answers
    do not. A factor for each channel, by least squares over the pictures, makes them comparable again.
    """

    def __init__(self) -> None:
        self._products: list[NDArray[np.float64]] = []
        self._squares: list[NDArray[np.float64]] = []

    def add(self, reference: Sequence[Cells], others: Sequence[Cells]) -> None:
        """Take in both networks' features of a picture, level by level."""
        pairs = zip(reference, others, strict=True)
        products = [(first * other).sum(axis=0, dtype=np.float64) for first, other in pairs]
        squares = [(other * other).sum(axis=0, dtype=np.float64) for other in others]
        if not self._products:
            self._products, self._squares = products, squares
            return
        for total, new in zip((*self._products, *self._squares), (*products, *squares), strict=True):
            total += new

    def of_level(self, level: int) -> Cells:
        """Return the (channels,) factors for the other network; 1 for a channel that is always off, or turned."""
        products, squares = self._products[level], self._squares[level]
        usable = (products > 0.0) & (squares > 0.0)
        factors = np.ones_like(products)
        np.divide(products, squares, out=factors, where=usable)
        return factors.astype(np.float32)
