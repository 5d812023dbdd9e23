"""The aggregation rules again, one parameter at a time in exact rational arithmetic.

Slow and meant to be read beside the paper. Residuals are `fractions.Fraction`, so that a residual
is 0 exactly when the equations say so; only square roots and what follows them are float64.
Nothing here is shared with the package.
"""

import math
from fractions import Fraction
from statistics import fmean, median

import numpy as np


def line(values, variant):
    """Slope, intercept and ranks of sorted rational values (Eq. 1-2)."""
    n = len(values)
    x = [Fraction(i + 1 if variant == "paper" else i) for i in range(n)]
    points = list(zip(x, values, strict=True))
    slopes, intercepts = [], []
    for i, (xi, yi) in enumerate(points):
        others = [p for j, p in enumerate(points) if j != i]
        slopes.append(median((yj - yi) / (xj - xi) for xj, yj in others))
        intercepts.append(median((xj * yi - xi * yj) / (xj - xi) for xj, yj in others))
    slope = median(slopes)
    if variant == "paper":
        return slope, median(intercepts), x
    return slope, median(values) - slope * median(x), x


def repeated_median(models):
    """Value of the line of Eq. 1-2 at the centre rank, (N,)."""
    n = len(models)
    if n == 1:
        return np.array(models[0], dtype=np.float64)
    centre = []
    for column in np.asarray(models, dtype=np.float64).T:
        slope, intercept, _ = line(sorted(Fraction(v) for v in column), "paper")
        centre.append(float(intercept + slope * Fraction(n + 1, 2)))
    return np.array(centre)


def parameter(column, variant, lam, delta):
    """One parameter's corrected values, confidences and their standard deviation, by client."""
    n = len(column)
    clients = sorted(range(n), key=lambda k: column[k])  # stable: ties by client
    ordered = [Fraction(column[k]) for k in clients]
    slope, intercept, x = line(ordered, variant)
    fitted = [intercept + slope * xk for xk in x]
    residual = [y - f for y, f in zip(ordered, fitted, strict=True)]
    sizes = sorted(abs(r) for r in residual)
    inflation = 1 + Fraction(5, n - 1)
    if variant == "paper":
        tau = Fraction("1.48") * median(sizes) * inflation
        leverage = [xk**2 / sum(v**2 for v in x) for xk in x]
    else:
        tau = Fraction("1.4826") * median(sizes[1:]) * inflation + Fraction(1, 10**7)
        mean = Fraction(n - 1, 2)
        leverage = [Fraction(1, n) + (xk - mean) ** 2 / sum((v - mean) ** 2 for v in x) for xk in x]
    clip = lam * math.sqrt(2 / n)
    confidence = []
    for r, h in zip(residual, leverage, strict=True):
        if r == 0:
            confidence.append(1.0)
        elif tau == 0 or h == 1:
            confidence.append(0.0)
        else:
            root = math.sqrt(1 - h)
            size = abs(r / tau)
            # A ratio beyond float64's range is a confidence of 0.
            e = float(size) if size < Fraction(10) ** 300 else math.inf
            confidence.append(1.0 if e / root <= clip else root / e * clip)
    if variant == "paper":
        keep = [w > delta for w in confidence]
        confidence = [w if k else 0.0 for w, k in zip(confidence, keep, strict=True)]
    else:
        keep = [w >= delta for w in confidence]
    mean = fmean(confidence)
    divisor = n if variant == "paper" else n - 1
    spread = math.sqrt(sum((w - mean) ** 2 for w in confidence) / divisor)
    corrected_of, confidence_of = [0.0] * n, [0.0] * n
    for rank, client in enumerate(clients):
        corrected_of[client] = float(ordered[rank] if keep[rank] else fitted[rank])
        confidence_of[client] = confidence[rank]
    return corrected_of, confidence_of, spread


def residual_reweighting(models, variant="paper", lam=2.0, delta=0.1):
    """Global model (N,), weights (K,), Eq. 1-11, and the size (N,) of what the model sums up."""
    models = np.asarray(models, dtype=np.float64)
    corrected = np.empty_like(models)
    total = np.zeros(len(models))
    for n, column in enumerate(models.T):
        corrected[:, n], confidence, spread = parameter(list(column), variant, lam, delta)
        total += np.array(confidence) * spread
    if total.max() == 0:
        weights = np.full(len(models), 1 / len(models))
    elif variant == "paper":
        weights = total / total.sum()
    else:
        weights = (total / total.max()) ** 2
        weights /= weights.sum()
    return weights @ corrected, weights, weights @ np.abs(corrected)


def foolsgold_rates(history):
    """FoolsGold's learning rates (K,) of summed updates (K, F), pair by pair."""
    n = len(history)
    cs = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if i != j:
                a, b = history[i], history[j]
                cs[i, j] = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
    v = cs.max(axis=1)
    for i in range(n):
        for j in range(n):
            if v[j] > v[i]:
                cs[i, j] *= v[i] / v[j]
    alpha = np.clip(1 - cs.max(axis=1), 0, 1)
    alpha = alpha / alpha.max()
    with np.errstate(divide="ignore"):
        alpha = np.log(alpha / (1 - alpha)) + 0.5
    return np.clip(alpha, 0, 1)
