"""Measure how alike two models' outputs are, whatever the truth is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgeopt.metrics.discrepancy import divergence
from edgeopt.spec import Struct


class AgreementMetrics(Struct, tag="agreement"):
    """Agreement of one model's answers with the float model's, on images without labels. It is no accuracy."""

    agreement: float
    """Share of the images that both put into the same class; of detectors Dice's coefficient of what both find."""
    per_class: tuple[float | None, ...]
    """F1 of each class (classes) with the float model's answers for the truth; None where it gives the class to
    nothing."""
    support: tuple[int, ...]
    """Images or boxes to which the float model gives each class (classes)."""


def agreement(a: ArrayLike, b: ArrayLike) -> float:
    """Return the share of images that two models put into the same class.

    Args:
        a: (n,) class indices, n > 0.
        b: (n,) class indices of the same images.
    """
    first, second = np.asarray(a), np.asarray(b)
    if first.shape != second.shape or first.size == 0:
        raise ValueError(f"agreement needs two equally long, not empty vectors, not {first.shape} and {second.shape}")
    return float((first == second).mean())


def kl(p_logits: NDArray[Any], q_logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return the Kullback-Leibler divergence of ``softmax(q)`` from ``softmax(p)``, in nats.

    Args:
        p_logits: (n, classes) of the reference.
        q_logits: (n, classes) of the other model.

    Returns:
        (n,) float64, not negative.
    """
    p, q = (np.asarray(each, np.float64) for each in (p_logits, q_logits))
    found: NDArray[np.float64] = divergence(p, q, "softmax")
    return found


def sqnr_db(reference: NDArray[Any], value: NDArray[Any]) -> float:
    """Return the signal-to-quantization-noise ratio in dB: ``10 log10(sum(reference^2) / sum((reference - value)^2))``.

    Returns:
        Infinity where both are equal, minus infinity where the reference is zero and the value is not.
    """
    signal = np.asarray(reference, np.float64)
    noise = signal - value
    noise_power, signal_power = float(np.vdot(noise, noise)), float(np.vdot(signal, signal))
    if noise_power == 0.0:
        return float("inf")
    if signal_power == 0.0:
        return float("-inf")
    return float(10.0 * np.log10(signal_power / noise_power))
