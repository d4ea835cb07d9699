"""The control that a configuration asks for."""

from atts.config import AdaptiveOptions, TakeOverOptions, Track
from atts.conformal.adaptive import AdaptiveControl
from atts.conformal.budget import BudgetControl
from atts.conformal.calibration import Calibration
from atts.conformal.control import Control
from atts.conformal.online import OnlineControl
from atts.conformal.split import SplitControl
from atts.errors import CalibrationError, ConfigError


def make_control(options: TakeOverOptions, calibration: Calibration | None) -> Control:
    """Put a control together.

    Raises:
        CalibrationError: ``split`` control has no calibration.
        ConfigError: ``online`` control has one, which it would not use; or the options of
            ``adaptive`` control exclude each other.
    """
    control: Control
    if options.control == "online" and calibration is not None:
        raise ConfigError(
            "take_over.control=online decides without a calibration: leave out "
            "take_over.calibration, or set take_over.control to split or adaptive"
        )
    if calibration is not None:
        control = SplitControl(calibration, options.rate, options.by_turn)
    elif options.control == "split":
        raise CalibrationError(
            "take_over.control=split decides by a calibration: make one with atts calibrate, then "
            "set take_over.calibration to its calibration.json; or set take_over.control to "
            "online or adaptive, which need none"
        )
    else:
        control = OnlineControl(options.rate, options.coverage, options.by_turn)
    if options.control == "adaptive":
        try:
            control = AdaptiveControl(control, options.rate, options.adaptive)
        except ValueError as error:
            raise ConfigError(f"take_over: {error}") from None
    return _within_budget(control, options)


def calibrating_control(options: TakeOverOptions) -> Control:
    """The control of a calibration pass, which has nothing yet to compare with.

    The scores of all turns should come from the policy that they will control: the nominal rate,
    in the groups of the run and within its budget. Ranks among the scores seen before do not keep
    to it by themselves, as segments with high scores tend to arrive late; so a tracker holds the
    rate in each group.
    """
    ranks = OnlineControl(options.rate, options.coverage, options.by_turn)
    track: Track = "all"
    if options.coverage == "conditional":
        track = "turn+problem" if options.by_turn else "problem"
    elif options.by_turn:
        track = "turn"
    tracking = AdaptiveControl(ranks, options.rate, AdaptiveOptions(track=track))
    return _within_budget(tracking, options)


def _within_budget(control: Control, options: TakeOverOptions) -> Control:
    budget = options.budget
    if budget.per_turn is None and budget.in_flight is None:
        return control
    return BudgetControl(control, budget)
