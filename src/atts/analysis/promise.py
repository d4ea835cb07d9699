"""What one split calibration promises of the take-over rate, before a run and beside it."""

from atts.config import TakeOverOptions
from atts.conformal.calibration import Calibration
from atts.conformal.split import taken_over
from atts.grading.intervals import Interval, clustered_interval


def promised_rate(
    calibration: Calibration, options: TakeOverOptions, problems: int | None = None
) -> Interval | None:
    """Where the rate lies that ``split`` control will realise by this calibration (95 %).

    The threshold of each group of turns is a quantile of the calibration's scores. To first order
    a run realises eps - sum_i (x_i - eps y_i) / sum_i y_i, with x_i of the y_i scores of problem i
    beyond their thresholds: what one calibration is off by varies as the share of a sample of as
    many problems does (Woodruff 1952, *Journal of the American Statistical Association* 47, for
    quantiles of clustered samples). So it has that share's interval, clustered by problem.

    Args:
        calibration: what would be decided by.
        options: rate and groups; a budget's refusals come on top.
        problems: how many a run evaluates, if it is known: its own variance is counted in. None:
            the rate over all problems like these.

    Returns:
        None if the calibration is conditional: its problems are those of the run, so that their
        number says nothing.
    """
    if calibration.coverage == "conditional":
        return None
    rate = options.rate
    if rate in (0.0, 1.0):
        return Interval(estimate=rate, low=rate, high=rate)
    taken, decisions = zip(*taken_over(calibration, rate, options.by_turn).values(), strict=True)
    return clustered_interval(taken, decisions, expected=problems)
