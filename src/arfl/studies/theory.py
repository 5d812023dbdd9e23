"""The theorem of section 3.2 as an experiment: the error of a one-parameter model, Eq. 12-14."""

import itertools
from collections.abc import Iterable

import numpy as np

from arfl.errors import UserError

_GAMMA = 1.48
_ATTACKS = ("far", "edge")


def aggregate(values: np.ndarray, lam: float, delta: float) -> np.ndarray:
    r"""The simplified rule of Eq. 12-14 for one parameter.

    :math:`e = (y - \tilde y) / (\gamma\,\mathrm{med}|y - \tilde y| (1 + 5/(K-1)))` with the median
    :math:`\tilde y`; :math:`z = \min(1, Z/|e|)` with :math:`Z = \lambda\sqrt{2/K}`, and 0 where
    that is below delta; the result is :math:`\sum z y / \sum z`.

    Args:
        values: (draws, K) the clients' parameters, K at least 2.
        lam: λ, positive.
        delta: δ in [0, 1).

    Returns:
        (draws,) the aggregated parameters.
    """
    n_clients = values.shape[1]
    deviation = values - np.median(values, axis=1, keepdims=True)
    spread = np.median(np.abs(deviation), axis=1, keepdims=True)
    tau = _GAMMA * (1 + 5 / (n_clients - 1)) * spread
    reach, distance = lam * np.sqrt(2 / n_clients) * tau, np.abs(deviation)
    confidence = np.divide(reach, distance, out=np.ones_like(values), where=distance > reach)
    confidence[confidence < delta] = 0
    return (confidence * values).sum(axis=1) / confidence.sum(axis=1)


def simulate(
    n_clients: Iterable[int] = (10, 20, 50, 100, 200),
    n_samples: Iterable[int] = (10, 30, 100, 300, 1000),
    corruption: Iterable[float] = (0.0, 0.1, 0.2, 0.3, 0.4),
    deltas: Iterable[float] = (0.01, 0.1),
    lam: float = 2.0,
    attack: str = "edge",
    n_draws: int = 2000,
    seed: int = 0,
) -> dict[str, list]:
    r"""Error of the aggregated parameter against K, S, the corruption share α and δ.

    An honest client's parameter is the mean of S samples of an exponential distribution with
    mean and standard deviation 1 (sub-exponential and skewed, as the theorem allows): μ = 1. Of
    K clients floor(α K) are corrupted and submit one value each above the honest clients':

    - "edge": where it pulls most, just inside the distance :math:`Z \tau / \delta` at which the
      rule would discard it, with τ of the honest clients (an attacker who sees them all);
    - "far": :math:`10^6`, which the rule discards.

    Each combination is drawn ``n_draws`` times. The bound of Eq. 14 has an unknown constant: the
    columns give its terms, of which the shape can be compared.

    Args:
        n_clients: values of K, each at least 2.
        n_samples: values of S.
        corruption: values of α, below 1/2.
        deltas: values of δ, in (0, 1).
        lam: λ.
        attack: "edge" or "far".
        n_draws: draws for each combination.
        seed: of the random numbers; the same seed gives the same columns.

    Returns:
        Columns of equal length, a row for each (K, S, α, δ): ``n_clients``, ``n_samples``,
        ``corruption``, ``delta``, ``n_corrupted``, ``error`` (mean of abs(model - μ)),
        ``error_standard_error``, ``error_mean`` (the same for the plain mean), ``error_median``
        (for the median), ``rate`` (α/√S + 1/√(SK) + 1/S + 1/(δ√K), the right-hand side of Eq. 14
        with constant 1), and its terms ``rate_corruption``, ``rate_sampling``, ``rate_bias``,
        ``rate_delta``. The last is the proof's :math:`C/(\sqrt K \delta)` with C, which holds the
        spread of the clients, :math:`O(1/\sqrt S)`, taken as 1.

    Raises:
        UserError: if an argument is out of range.
    """
    if attack not in _ATTACKS:
        raise UserError(f"theory: attack must be one of {', '.join(_ATTACKS)}, got {attack!r}")
    names = (
        "n_clients",
        "n_samples",
        "corruption",
        "delta",
        "n_corrupted",
        "error",
        "error_standard_error",
        "error_mean",
        "error_median",
        "rate",
        "rate_corruption",
        "rate_sampling",
        "rate_bias",
        "rate_delta",
    )
    columns: dict[str, list] = {name: [] for name in names}
    combinations = itertools.product(n_clients, n_samples, corruption, deltas)
    for clients, samples, share, delta in combinations:
        if clients < 2 or samples < 1 or not 0 <= share < 0.5 or not 0 < delta < 1:
            raise UserError(
                "theory: needs at least 2 clients and 1 sample, a corruption share in [0, 0.5) "
                f"and a delta in (0, 1), got {clients}, {samples}, {share}, {delta}"
            )
        # What is drawn depends on K and S alone: shares and deltas are compared on the same draws.
        generator = np.random.default_rng((seed, clients, samples))
        values = generator.gamma(samples, 1 / samples, (n_draws, clients))
        # Against 0.3 * 10 = 3.0000000000000004 and 0.29999... alike.
        corrupted = int(np.floor(share * clients + 1e-9))
        if corrupted:
            values[:, :corrupted] = _attack_value(
                values[:, corrupted:], clients, lam, delta, attack
            )
        errors = np.abs(aggregate(values, lam, delta) - 1)
        terms = (
            share / np.sqrt(samples),
            1 / np.sqrt(samples * clients),
            1 / samples,
            1 / (delta * np.sqrt(clients)),
        )
        row = (
            clients,
            samples,
            share,
            delta,
            corrupted,
            errors.mean(),
            errors.std(ddof=1) / np.sqrt(n_draws),
            np.abs(values.mean(axis=1) - 1).mean(),
            np.abs(np.median(values, axis=1) - 1).mean(),
            sum(terms),
            *terms,
        )
        for name, value in zip(names, row, strict=True):
            columns[name].append(value if isinstance(value, int) else float(value))
    return columns


def _attack_value(
    honest: np.ndarray, n_clients: int, lam: float, delta: float, attack: str
) -> np.ndarray:
    """(draws, 1) what the corrupted clients submit."""
    if attack == "far":
        return np.full((len(honest), 1), 1e6)
    centre = np.median(honest, axis=1, keepdims=True)
    spread = np.median(np.abs(honest - centre), axis=1, keepdims=True)
    tau = _GAMMA * (1 + 5 / (n_clients - 1)) * spread
    return centre + 0.99 * lam * np.sqrt(2 / n_clients) * tau / delta
