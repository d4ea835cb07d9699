"""Quantiles of the beta and of Student's distribution.

``scipy.special`` has both, but takes longer to import than everything else that a table needs.
"""

import math

_EPSILON = 1e-15
_TINY = 1e-300
_MOST_STEPS = 100
_MOST_TERMS = 100_000


def beta_quantile(probability: float, a: float, b: float) -> float:
    """The x at which I_x(a, b), the distribution function of Beta(a, b), is ``probability``.

    Newton's method, with bisection wherever a step would leave what still brackets the solution.
    Exact to about 1e-12.

    Raises:
        ValueError: the probability is not in (0, 1), or a or b is not above 0.

    >>> round(beta_quantile(0.975, 1, 22), 4)
    0.1544
    """
    if not 0.0 < probability < 1.0 or not (a > 0.0 and b > 0.0):
        raise ValueError(f"no quantile {probability} of Beta({a}, {b})")
    low, high, x = 0.0, 1.0, a / (a + b)
    for _ in range(_MOST_STEPS):
        if not low < x < high:
            x = (low + high) / 2.0
        density, below = _beta(x, a, b)
        if below < probability:
            low = x
        else:
            high = x
        step = (below - probability) / max(density, _TINY)
        if abs(step) < 1e-14 or high - low < 1e-14:
            break
        x -= step
    return min(max(x, low), high)


def student_quantile(probability: float, degrees: float) -> float:
    """The quantile above the median of Student's distribution.

    By t^2 / (degrees + t^2), which has a beta distribution. Infinite with no degree of freedom.

    Args:
        probability: in [0.5, 1).
        degrees: of freedom, at least 0.

    >>> round(student_quantile(0.975, 9), 3)
    2.262
    """
    if degrees <= 0.0:
        return math.inf
    if probability == 0.5:
        return 0.0
    share = beta_quantile(2.0 * probability - 1.0, 0.5, degrees / 2.0)
    return math.sqrt(degrees * share / (1.0 - share))


def _beta(x: float, a: float, b: float) -> tuple[float, float]:
    """Density and distribution function of Beta(a, b) at x in (0, 1)."""
    density = math.exp(
        math.lgamma(a + b)
        - math.lgamma(a)
        - math.lgamma(b)
        + (a - 1.0) * math.log(x)
        + (b - 1.0) * math.log1p(-x)
    )
    front = density * x * (1.0 - x)
    if x < (a + 1.0) / (a + b + 2.0):
        return density, front * _continued_fraction(x, a, b) / a
    return density, 1.0 - front * _continued_fraction(1.0 - x, b, a) / b


def _continued_fraction(x: float, a: float, b: float) -> float:
    """Of I_x(a, b) (Abramowitz and Stegun, *Handbook of Mathematical Functions*, 26.5.8), by the
    method of Lentz (1976, *Applied Optics* 15).
    """
    d = 1.0 / _not_zero(1.0 - (a + b) * x / (a + 1.0))
    c, value = 1.0, d
    for m in range(1, _MOST_TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0)),
        ):
            d = 1.0 / _not_zero(1.0 + term * d)
            c = _not_zero(1.0 + term / c)
            value *= c * d
        if abs(c * d - 1.0) < _EPSILON * 4:
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
