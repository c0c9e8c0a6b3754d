"""Post-hoc calibrators: maps from a model's logits to log-probabilities that say how often it is right, fitted on
labelled points apart from those that set a conformal threshold.

"CalArena", Berta, Holzmüller, Bach, Jordan 2026, https://arxiv.org/abs/2605.30188, compares them; `ets`, `vector`,
`matrix`, `svs` and `sms` are those of its authors' package, `probmetrics`, which is imported when the first of them is
fitted. The others are few lines here:

    identity     softmax(z): fits nothing, and still gives up its share of the points, so it is what that share costs
    temperature  softmax(z / T), T of 1/20..20 by the least log loss (Guo et al. 2017, https://arxiv.org/abs/1706.04599)
    isotonic     each class against the rest by scikit-learn's isotonic regression of p_c (Zadrozny, Elkan 2002)
    beta         each class against the rest by sigmoid(a ln p_c - b ln(1 - p_c) + c), a, b >= 0 (Kull, Silva Filho,
                 Flach 2017, https://proceedings.mlr.press/v54/kull17a.html)

Fitted on no point, each of them is the identity. A class that no fitted point has is given no probability by
`vector`, `matrix`, `isotonic` and `beta`, each the maximum of a likelihood; so these, fitted on n points, are mixed
with the uniform distribution, which weighs as much as one point: (n p + 1/C) / (n + 1), which is `probmetrics`' own
rule ("-mix"). `svs` and `sms` begin with a temperature so mixed. What then is still below `LEAST` is raised to it, so
that every log-probability is finite.

All are deterministic: none draws a random number, and the library's compute with one thread. With two, SciPy's SLSQP,
by which `ets` finds its weights, ends elsewhere from the sixth digit on.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax

from fl_sim.conformal.calibrator_plan import MOST_TEMPERATURE
from fl_sim.conformal.reliability import log_softmax
from fl_sim.conformal.scores import checked_labels
from fl_sim.randomness import one_thread

LEAST = 1e-30  # of a probability

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]
Calibrator = Callable[[ArrayLike], Floats]  # fitted: logits (n, C) -> log-probabilities (n, C), finite


# ------------------------------------------------------------------------------------------------------ calibrators


@dataclass(frozen=True)
class Temperature:
    """log softmax(z / T); the identity for T = 1."""

    temperature: float = 1.0

    def __call__(self, logits: ArrayLike) -> Floats:
        """Log-probabilities (n, C) of logits (n, C)."""
        return log_softmax(_checked(logits) / self.temperature)


@dataclass(frozen=True, eq=False)
class OneVsRest:
    """A map of [0, 1] for each class, from its probability p_c to how often it is the label: normalised, and mixed with
    the uniform distribution as the module says. A row in which every map gives 0 is uniform."""

    maps: tuple[Callable[[Floats], Floats], ...]  # (C,)
    num_fitted: int

    def __call__(self, logits: ArrayLike) -> Floats:
        """Log-probabilities (n, C) of logits (n, C)."""
        p = softmax(_checked(logits), axis=1)
        rates = np.stack([one(p[:, c]) for c, one in enumerate(self.maps)], axis=1)
        total = rates.sum(axis=1, keepdims=True)
        rates = np.where(total > 0, rates / np.where(total > 0, total, 1.0), 1 / len(self.maps))
        return _logarithm((self.num_fitted * rates + 1 / len(self.maps)) / (self.num_fitted + 1))


@dataclass(frozen=True, eq=False)
class Library:
    """A fitted calibrator of `probmetrics`."""

    fitted: Any
    stayed: bool = False  # it found no minimum, and left the probabilities as they were

    def __call__(self, logits: ArrayLike) -> Floats:
        """Log-probabilities (n, C) of logits (n, C)."""
        z = _checked(logits)
        if not len(z):
            return np.zeros(z.shape)
        with _one_thread():
            return _logarithm(self.fitted.predict_proba(softmax(z, axis=1)))


def fit(name: str, logits: ArrayLike, labels: ArrayLike) -> Calibrator:
    """Fit the calibrator of that name to logits (n, C) and labels (n,) of 0..C-1; n = 0 gives the identity.

    Raises:
        ValueError: logits that are not finite numbers (n, C), or labels that are not theirs.
    """
    z = _checked(logits)
    y = checked_labels(labels, *z.shape)
    return FITS[name](z, y) if len(y) else Temperature()


def best_temperature(logits: ArrayLike, labels: Labels) -> float:
    """The T of 1/20..20 with the least mean of -log softmax(z / T)_y over logits (n, C) and labels (n,); 1 where no
    row prefers a class to another. The loss is convex in 1/T, so its slope has one root.

    Raises:
        ValueError: logits that are not finite numbers (n, C).
    """
    from scipy.optimize import brentq

    z = _checked(logits)
    z = z - z.max(axis=1, keepdims=True, initial=-np.inf)
    if not z.any():
        return 1.0
    chosen = z[np.arange(len(labels)), labels].mean()

    def slope(log_inverse: float) -> float:
        return float((z * softmax(math.exp(log_inverse) * z, axis=1)).sum(axis=1).mean() - chosen)

    end = math.log(MOST_TEMPERATURE)
    if slope(-end) >= 0:
        return MOST_TEMPERATURE
    if slope(end) <= 0:
        return 1 / MOST_TEMPERATURE
    return math.exp(-brentq(slope, -end, end, xtol=1e-12))


# ---------------------------------------------------------------------------------------------------------- fitting


def _one_versus_rest(
    fit_one: Callable[[Floats, Labels], Callable[[Floats], Floats]], logits: Floats, labels: Labels
) -> OneVsRest:
    """A class that no label is, or that all are, has a map that says so."""
    p, maps = softmax(logits, axis=1), []
    for c in range(logits.shape[1]):
        hit = (labels == c).astype(np.int64)
        maps.append(
            fit_one(p[:, c], hit) if 0 < hit.sum() < len(hit) else partial(np.full_like, fill_value=float(hit[0]))
        )
    return OneVsRest(tuple(maps), len(labels))


def _isotonic(p: Floats, hit: Labels) -> Callable[[Floats], Floats]:
    from sklearn.isotonic import IsotonicRegression

    predict: Callable[[Floats], Floats] = IsotonicRegression(out_of_bounds="clip").fit(p, hit).predict
    return lambda shares: predict(shares) if len(shares) else shares


def _beta(p: Floats, hit: Labels) -> Callable[[Floats], Floats]:
    """The least log loss over a, b >= 0 and c. It is convex, so where the least over all a and b is outside, that on
    the edge is the better one of a = 0 and b = 0, or their corner."""
    x = _beta_features(p)
    best, _ = _logistic(x, hit)
    if best[:2].min() < 0:
        on_edge = [_logistic(x * np.array(columns), hit) for columns in ([0, 1, 1], [1, 0, 1], [0, 0, 1])]
        best, _ = min((fitted for fitted in on_edge if fitted[0][:2].min() >= 0), key=lambda fitted: fitted[1])
    return lambda shares: np.asarray(expit(_beta_features(shares) @ best))


def _beta_features(p: Floats) -> Floats:
    least = np.finfo(np.float64).eps
    inside = np.clip(p, least, 1 - least)
    return np.stack([np.log(inside), -np.log1p(-inside), np.ones(len(p))], axis=1)


def _logistic(x: Floats, hit: Labels) -> tuple[Floats, float]:
    """The weights (d,) of the least log loss of sigmoid(x w), x (m, d), and that loss, by Newton's method. Where points
    are separable the loss falls for ever, and is left after 50 steps; a column of zeros has weight 0."""

    def loss(w: Floats) -> float:
        margin = x @ w
        return float(np.mean(np.logaddexp(0.0, margin) - hit * margin))

    w = np.zeros(x.shape[1])
    now = loss(w)
    for _ in range(50):
        p = expit(x @ w)
        slope = x.T @ (p - hit) / len(hit)
        if np.abs(slope).max() < 1e-12:
            break
        step = np.linalg.solve((x.T * (p * (1 - p))) @ x / len(hit) + 1e-12 * np.eye(len(w)), slope)
        size = 1.0
        while (then := loss(w - size * step)) > now - 1e-4 * size * float(slope @ step) and size > 1e-6:
            size /= 2
        if then >= now:
            break  # as low as rounding lets it be
        w, now = w - size * step, then
    return w, now


def _library(name: str, logits: Floats, labels: Labels) -> Calibrator:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore", FutureWarning)  # of torch, when torchmetrics is imported
        warnings.simplefilter("always", UserWarning)
        from probmetrics import calibrators as theirs  # type: ignore[import-untyped]

        made: dict[str, Callable[[], Any]] = {
            "ets": theirs.ETSCalibrator,
            "vector": lambda: theirs.MixtureCalibrator(theirs.VectorScalingCalibrator()),
            "matrix": lambda: theirs.MixtureCalibrator(theirs.MatrixScalingCalibrator()),
            "svs": theirs.SVSCalibrator,
            "sms": theirs.SMSCalibrator,
        }
        calibrator = made[name]()
        with _one_thread():
            calibrator.fit(softmax(logits, axis=1), labels)
    return Library(calibrator, any("Not updating" in str(warning.message) for warning in caught))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for torch, and for the linear algebra of NumPy and SciPy, which torch knows nothing of."""
    with one_thread(), _pools().limit(limits=1, user_api="blas"):
        yield


@lru_cache(maxsize=1)
def _pools() -> Any:
    """The process's thread pools, looked for once, which takes 10 ms: after `probmetrics` has loaded all of them."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


FITS: dict[str, Callable[[Floats, Labels], Calibrator]] = {
    "identity": lambda logits, labels: Temperature(),
    "temperature": lambda logits, labels: Temperature(best_temperature(logits, labels)),
    "ets": partial(_library, "ets"),
    "vector": partial(_library, "vector"),
    "matrix": partial(_library, "matrix"),
    "svs": partial(_library, "svs"),
    "sms": partial(_library, "sms"),
    "isotonic": partial(_one_versus_rest, _isotonic),
    "beta": partial(_one_versus_rest, _beta),
}


def _checked(logits: ArrayLike) -> Floats:
    z = np.asarray(logits, np.float64)
    if z.ndim != 2 or not z.shape[1]:
        raise ValueError(f"logits of shape {z.shape}: must have shape (n, C)")
    if not np.isfinite(z).all():
        raise ValueError("logits hold NaN or infinite numbers: all must be finite")
    return z


def _logarithm(probabilities: ArrayLike) -> Floats:
    p = np.maximum(np.asarray(probabilities, np.float64), LEAST)
    return np.asarray(np.log(p / p.sum(axis=1, keepdims=True)))
