"""Fit a classifier on features with scikit-learn: settings by cross-validation, then all pictures."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeopt.config import FitConfig
from edgeopt.errors import DataError, ModelError, requires_extra
from edgeopt.fit.heads import Embedding, Fitted, Hidden, Kernels, Linear
from edgeopt.postprocess.neighbors import Prototypes, unit, with_prototypes
from edgeopt.spec import ClassificationDecoding, ModelSpec, NeighborsDecoding, Preprocessing, TensorSpec, replace

Array: TypeAlias = NDArray[Any]
Classes: TypeAlias = NDArray[np.int64]
Settings: TypeAlias = Mapping[str, float]
Logits: TypeAlias = Callable[[Array], Array]
"""(n, F) features to (n, classes) decision values."""

_GRIDS: Mapping[str, Mapping[str, Sequence[float]]] = {
    "svm": {"C": (1e-3, 1e-2, 1e-1, 1.0)},
    "rbf_svm": {"gamma": (0.5, 1.0, 2.0, 4.0), "C": (1.0, 10.0)},
    "mlp": {"alpha": (1.0, 0.1)},
    "knn": {"neighbors": (1, 3, 5, 10)},
}
"""Settings that are tried, the most regular first: of equals the first is taken. Features have variances about 1, and
cosines of them lie between -1 and 1, so that the same values serve any backbone."""
_TEMPERATURES = np.geomspace(0.01, 10.0, 61)
_LONGEST_MLP = 300
"""Passes of a hidden layer's training; it ends earlier where the loss stops to fall."""
_MOST_COMPARED = 10_000
"""Pictures whose products with each other are held in memory: 800 MB of them."""


class Estimator(Protocol):
    """Fits decision values."""

    def __call__(self, features: Array, classes: Classes, settings: Settings) -> Logits:
        """Return the decision values that these (n, F) features and (n,) classes lead to."""


def require_learnable(counts: Sequence[int], labels: Sequence[str], config: FitConfig, origin: str) -> None:
    """Refuse classes that have too few pictures to be learnt, before anything is computed.

    Args:
        counts: pictures of each class.
        labels: names of the classes.
        config: the recipe's ``[fit]``.
        origin: where the pictures come from.

    Raises:
        DataError: a class without pictures, one with a single one for a classifier that must leave some out, or only
            one class.
    """
    if len(labels) < 2:
        raise DataError(f"{origin} has the only class {', '.join(labels) or 'none'}: a classifier needs two at least")
    if empty := [label for label, count in zip(labels, counts, strict=True) if not count]:
        raise DataError(
            f"{origin} has no picture of {_some(empty)}. Add some, or leave the class out of [model] labels"
        )
    single = [label for label, count in zip(labels, counts, strict=True) if count == 1]
    if single and config.classifier != "knn":
        other = "" if config.regions is not None else ', or take [fit] classifier = "knn", which one is enough for'
        raise DataError(
            f"{origin} has a single picture of {_some(single)}, and '{config.classifier}' leaves some of each class "
            f"out to choose its settings. Give two at least{other}"
        )


def fit_classifier(
    features: Array, classes: Classes, labels: tuple[str, ...], config: FitConfig, backbone_weights: int, targets: str
) -> Fitted:
    """Fit the recipe's classifier.

    Args:
        features: (n, F) of the training pictures.
        classes: (n,) their classes.
        labels: names of the classes.
        config: the recipe's ``[fit]``.
        backbone_weights: number of weights of the network before, which support vectors may not exceed by default.
        targets: engines that it is for, for messages.

    Raises:
        DataError: as `require_learnable`; or features that are not finite.
        ModelError: a Gaussian SVM that is too large.
        MissingExtraError: scikit-learn is not installed.
    """
    counts = np.bincount(classes, minlength=len(labels))
    require_learnable(counts.tolist(), labels, config, "the training set")
    if not np.isfinite(features).all():
        raise DataError("the features of the backbone are not finite. Check its weights and [model] preprocessing")
    requires_extra("sklearn", "build")
    features = features.astype(np.float64)
    scaler = _scaler(features)
    match config.classifier:
        case "knn":
            return _fit_neighbors(scaler, features, classes, labels, config)
        case "rbf_svm":
            return _fit_kernels(scaler, features, classes, labels, config, backbone_weights, targets)
        case "svm":
            return _fit_linear(scaler, features, classes, labels, config)
        case "mlp":
            return _fit_hidden(scaler, features, classes, labels, config)


def _scaler(features: Array) -> Embedding:
    """Return the mean of each feature, and its factor: the variance is made 1 of those that vary as the mean does.

    Those that vary less are not brought up to it. They are what quantization drowns first, and their weights would
    stand so far above all others of a class, which share one scale with them, that those would round to nothing.
    """
    variance = features.var(axis=0)
    if not variance.any():
        raise DataError("the backbone gives all pictures the same features. Check its weights and [fit] features")
    return Embedding(features.mean(axis=0), np.sqrt(2.0 / (variance + variance.mean())))


# Linear


def _fit_linear(
    scaler: Embedding, features: Array, classes: Classes, labels: tuple[str, ...], config: FitConfig
) -> Fitted:
    scaled = (features - scaler.mean) * scaler.scale
    chosen = _validated(scaled, classes, len(labels), config, lambda *given: _linear(*given, config=config)[0], "svm")
    expected, product = _linear(scaled, classes, chosen.settings, config=config)
    weight, bias = product.weight / chosen.temperature, product.bias / chosen.temperature
    return Fitted(
        head=_unscaled(Linear(weight, bias), scaler),
        decoding=ClassificationDecoding(),
        expected=lambda rows: expected((rows - scaler.mean) * scaler.scale) / chosen.temperature,
        score=chosen.score,
        settings={**chosen.settings, "temperature": chosen.temperature},
    )


def _linear(features: Array, classes: Classes, settings: Settings, *, config: FitConfig) -> tuple[Logits, Linear]:
    if len(features) > _MOST_COMPARED:
        return _linear_of_many(features, classes, settings, config=config)
    models = _one_against_all(features @ features.T, classes, settings, config)
    weight = np.stack([model.dual_coef_[0] @ features[model.support_] for model in models], axis=1)
    bias = np.array([float(model.intercept_[0]) for model in models])
    return lambda rows: _decided(models, rows @ features.T), Linear(weight, bias)


def _linear_of_many(
    features: Array, classes: Classes, settings: Settings, *, config: FitConfig
) -> tuple[Logits, Linear]:
    """Fit without the products of all pairs of rows, which takes a hundred times as long where features are many."""
    from sklearn.svm import LinearSVC

    model = LinearSVC(C=settings["C"], class_weight=_weighting(config), dual=False, max_iter=5000)
    with _quiet():
        model.fit(features, classes)
    weight, bias = model.coef_.T, model.intercept_
    if weight.shape[1] == 1:  # two classes have one decision value: half of it speaks for either
        weight, bias = np.concatenate([-weight, weight], 1) / 2.0, np.concatenate([-bias, bias]) / 2.0
    return lambda rows: _both(model.decision_function(rows)), Linear(weight, bias)


def _unscaled(layer: Linear, scaler: Embedding) -> Linear:
    """Return a layer that takes features as they are, instead of scaled ones."""
    weight = scaler.scale[:, None] * layer.weight
    return Linear(weight, layer.bias - scaler.mean @ weight)


def _both(decision: Array) -> Array:
    """Return one value a class, also of two classes."""
    return np.stack([-decision, decision], axis=1) / 2.0 if decision.ndim == 1 else decision


# A hidden layer


def _fit_hidden(
    scaler: Embedding, features: Array, classes: Classes, labels: tuple[str, ...], config: FitConfig
) -> Fitted:
    scaled = (features - scaler.mean) * scaler.scale
    chosen = _validated(scaled, classes, len(labels), config, lambda *given: _hidden(*given, config=config)[0], "mlp")
    expected, head = _hidden(scaled, classes, chosen.settings, config=config)
    last = Linear(head.last.weight / chosen.temperature, head.last.bias / chosen.temperature)
    return Fitted(
        head=Hidden(_unscaled(head.first, scaler), last),
        decoding=ClassificationDecoding(),
        expected=lambda rows: expected((rows - scaler.mean) * scaler.scale) / chosen.temperature,
        score=chosen.score,
        settings={**chosen.settings, "temperature": chosen.temperature},
    )


def _hidden(features: Array, classes: Classes, settings: Settings, *, config: FitConfig) -> tuple[Logits, Hidden]:
    from sklearn.neural_network import MLPClassifier

    model = MLPClassifier((config.hidden,), alpha=settings["alpha"], max_iter=_LONGEST_MLP, random_state=config.seed)
    rows = _repeated(classes) if config.class_weights == "balanced" else np.arange(len(classes))
    with _quiet():
        model.fit(features[rows], classes[rows])
    first, last = (Linear(weight, bias) for weight, bias in zip(model.coefs_, model.intercepts_, strict=True))
    if last.size == 1:
        last = Linear(
            np.concatenate([-last.weight, last.weight], 1) / 2.0, np.concatenate([-last.bias, last.bias]) / 2.0
        )

    def logits(given: Array) -> Array:
        """Return the logarithms of scikit-learn's probabilities, which tell them but for a constant."""
        return np.asarray(model.predict_log_proba(given))

    return logits, Hidden(first, last)


def _repeated(classes: Classes) -> Classes:
    """Return places of pictures in which each class occurs as often as the largest, its pictures in turn."""
    members = [np.flatnonzero(classes == index) for index in np.unique(classes)]
    most = max(map(len, members))
    return np.concatenate([np.resize(each, most) for each in members])


# Kernels


def _fit_kernels(
    scaler: Embedding,
    features: Array,
    classes: Classes,
    labels: tuple[str, ...],
    config: FitConfig,
    backbone_weights: int,
    targets: str,
) -> Fitted:
    if len(features) > _MOST_COMPARED:
        raise ModelError(
            f"'rbf_svm' compares all pictures with each other, and {len(features):,} are too many (at most "
            f'{_MOST_COMPARED:,}). Take [fit] classifier = "svm" or "mlp", or fewer with [data.train] limit'
        )
    embedded = scaler.of(features)
    chosen = _validated(
        embedded, classes, len(labels), config, lambda *given: _kernels(*given, config=config)[0], "rbf_svm"
    )
    expected, head = _kernels(embedded, classes, chosen.settings, config=config)
    vectors = len(head.vectors)
    most = config.support_vectors or max(1, backbone_weights // features.shape[1])
    if vectors > most:
        simple = _fit_linear(scaler, features, classes, labels, config)
        raise ModelError(
            f"the Gaussian SVM has {vectors:,} support vectors of {features.shape[1]:,} features, and {most:,} are "
            f"allowed for {targets}: {head.weights / 1e6:.2f} million weights behind {backbone_weights / 1e6:.2f} "
            f'million. Take [fit] classifier = "svm", which has {simple.head.weights / 1e6:.2f} million and is right '
            f"on {_percent(simple.score)} of the pictures left out where this is on {_percent(chosen.score)}; or "
            '"mlp"; or '
            f"fewer pictures with [data.train] limit; or allow it with [fit] support_vectors = {vectors}"
        )
    temperature = chosen.temperature
    return Fitted(
        head=Kernels(
            scaler, head.vectors, head.gamma, head.coefficients / temperature, np.asarray(head.bias) / temperature
        ),
        decoding=ClassificationDecoding(),
        expected=lambda rows: expected(scaler.of(rows)) / temperature,
        score=chosen.score,
        settings={**chosen.settings, "temperature": temperature},
        rows=vectors,
    )


def _kernels(embedded: Array, classes: Classes, settings: Settings, *, config: FitConfig) -> tuple[Logits, Kernels]:
    """Fit one SVM a class against all others, which share their support vectors."""
    gamma = settings["gamma"]

    def kernel(rows: Array) -> Array:
        return np.asarray(np.exp(2.0 * gamma * (rows @ embedded.T - 1.0)))

    models = _one_against_all(kernel(embedded), classes, settings, config)
    used = np.unique(np.concatenate([model.support_ for model in models]))
    coefficients = np.zeros((len(embedded), len(models)))
    for index, model in enumerate(models):
        coefficients[model.support_, index] = model.dual_coef_[0]
    bias = np.array([float(model.intercept_[0]) for model in models])
    unscaled = Embedding(np.zeros(embedded.shape[1]), np.ones(embedded.shape[1]))
    return lambda rows: _decided(models, kernel(rows)), Kernels(
        unscaled, embedded[used], gamma, coefficients[used], bias
    )


def _one_against_all(products: Array, classes: Classes, settings: Settings, config: FitConfig) -> list[Any]:
    """Fit an SVM for each class against all others, from the (n, n) products of all rows, which they share."""
    from sklearn.svm import SVC

    models = []
    for index in range(int(classes.max()) + 1):
        model = SVC(C=settings["C"], kernel="precomputed", class_weight=_weighting(config))
        models.append(model.fit(products, classes == index))
    return models


def _decided(models: Sequence[Any], products: Array) -> Array:
    """Return (m, classes) decision values of rows, from their (m, n) products with those that were fitted."""
    return np.stack([model.decision_function(products) for model in models], axis=1)


# Prototypes


def _fit_neighbors(
    scaler: Embedding, features: Array, classes: Classes, labels: tuple[str, ...], config: FitConfig
) -> Fitted:
    embedded = scaler.of(features)
    groups = [_condensed(embedded[classes == index], config) for index in range(len(labels))]
    decoding = with_prototypes(NeighborsDecoding(temperature=1.0), groups)
    kept = np.repeat(np.arange(len(groups)), [len(each) for each in groups])
    counts = np.bincount(kept, minlength=len(labels))
    judged = counts[kept] > 1  # a class of one has none left without it
    best: tuple[float, NeighborsDecoding] | None = None
    for neighbors in _GRIDS["knn"]["neighbors"]:
        tried = replace(decoding, neighbors=int(neighbors))
        values = _left_out(tried, labels)[judged]
        score = _score(values, kept[judged], config) if judged.any() else 0.0
        if best is None or score > best[0] + 1e-9:
            best = score, replace(tried, temperature=_temperature(values, kept[judged]) if judged.any() else 0.1)
    assert best is not None
    score, decoding = best
    condensed = "" if len(kept) == len(classes) else f"{len(classes)} pictures became {len(kept)} prototypes"
    return Fitted(
        head=scaler,
        decoding=decoding,
        expected=scaler.of,
        score=score if judged.any() else None,
        settings={"neighbors": decoding.neighbors, "temperature": decoding.temperature},
        rows=len(kept),
        notes=(condensed,) if condensed else (),
    )


def _condensed(rows: Array, config: FitConfig) -> Array:
    """Return a class's embeddings, or of too many the directions of their means."""
    if len(rows) <= config.prototypes:
        return rows
    from sklearn.cluster import KMeans

    with _quiet():
        found = KMeans(config.prototypes, n_init=1, random_state=config.seed).fit(rows)
    return unit(found.cluster_centers_)


def _left_out(decoding: NeighborsDecoding, labels: tuple[str, ...]) -> Array:
    """Return (P, classes) logits of each prototype by all others."""
    prototypes = Prototypes(_of_embedding(decoding, labels))
    return prototypes.logits_of(prototypes.cosines_among())


def _of_embedding(decoding: NeighborsDecoding, labels: tuple[str, ...]) -> ModelSpec:
    """Return a specification with nothing but the classes."""
    tensor = TensorSpec(name="embedding", shape=("N", 1))
    return ModelSpec(
        name="prototypes", task="classification", input=tensor, outputs=(tensor,), preprocessing=Preprocessing(),
        decoding=decoding, labels=labels,
    )  # fmt: skip


# Choosing


@dataclass(frozen=True)
class _Chosen:
    """Settings, their score on pictures left out, and the temperature that makes probabilities of their values."""

    settings: Settings
    score: float
    temperature: float


def _validated(features: Array, classes: Classes, count: int, config: FitConfig, fit: Estimator, kind: str) -> _Chosen:
    """Choose the settings by cross-validation; every class is in every fold."""
    from sklearn.model_selection import StratifiedKFold

    folds = min(config.folds, int(np.bincount(classes, minlength=count).min()))
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=config.seed).split(features, classes))
    best: _Chosen | None = None
    for settings in _grid(kind):
        values = np.zeros((len(classes), count))
        for learnt, left_out in splits:
            values[left_out] = fit(features[learnt], classes[learnt], settings)(features[left_out])
        score = _score(values, classes, config)
        if best is None or score > best.score + 1e-9:
            best = _Chosen(settings, score, _temperature(values, classes))
    assert best is not None
    return best


def _grid(kind: str) -> Iterator[Settings]:
    grid = _GRIDS[kind]
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _score(values: Array, classes: Classes, config: FitConfig) -> float:
    """Return the share of right answers; of balanced classes the mean of theirs."""
    right = values.argmax(axis=1) == classes
    if config.class_weights == "none":
        return float(right.mean())
    return float(np.mean([right[classes == index].mean() for index in np.unique(classes)]))


def _temperature(values: Array, classes: Classes) -> float:
    """Return what decision values are divided by for the likeliest probabilities (Guo et al. 2017)."""
    shifted = values - values.max(axis=1, keepdims=True)
    own = np.take_along_axis(shifted, classes[:, None], axis=1)[:, 0]
    losses = [float((np.log(np.exp(shifted / t).sum(axis=1)) - own / t).mean()) for t in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])


def _weighting(config: FitConfig) -> str | None:
    return "balanced" if config.class_weights == "balanced" else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence scikit-learn about solvers that stop at their limit: cross-validation judges what they found."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _percent(share: float | None) -> str:
    return "an unknown share" if share is None else f"{100 * share:.1f} %"


def _some(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
