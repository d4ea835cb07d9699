"""The control that a configuration asks for."""

from atts.config import AdaptiveOptions, TakeOverOptions
from atts.conformal.adaptive import AdaptiveControl
from atts.conformal.calibration import Calibration
from atts.conformal.control import BudgetControl, Control
from atts.conformal.gate import GatedControl
from atts.conformal.online import OnlineControl
from atts.conformal.split import CalibratingControl, SplitControl
from atts.errors import CalibrationError, ConfigError


def make_control(
    options: TakeOverOptions, calibration: Calibration | None, window: int | None = None
) -> Control:
    """Put a control together; ``window`` is that of ``OnlineControl``.

    Raises:
        CalibrationError: ``split`` control has no calibration.
        ConfigError: ``online`` control or the ``coin`` has one, which it would not use; or the
            options exclude each other: those of ``adaptive`` control, or a gate and ``split``.
    """
    control: Control
    if options.gate.share and options.control == "split":
        raise ConfigError(
            "take_over.gate.share lets segments pass by the ranks of all chains, and "
            "take_over.control=split promises that no chain depends on another: set "
            "take_over.control to adaptive or online, or leave the gate out"
        )
    if options.control in ("online", "coin") and calibration is not None:
        raise ConfigError(
            f"take_over.control={options.control} decides without a calibration: leave out "
            "take_over.calibration, or set take_over.control to split or adaptive"
        )
    if options.control == "coin":  # as the first round of a calibration pass: p is the tie-breaker
        control = CalibratingControl(options.rate, options.by_turn, None)
    elif calibration is not None:
        control = SplitControl(calibration, options.rate, options.by_turn)
    elif options.control == "split":
        raise CalibrationError(
            "take_over.control=split decides by a calibration: make one with atts calibrate, then "
            "set take_over.calibration to its calibration.json; or set take_over.control to "
            "online or adaptive, which need none"
        )
    else:
        control = OnlineControl(options.rate, options.coverage, options.by_turn, window)
    if tracking := tracking_of(options):
        try:
            control = AdaptiveControl(control, options.rate, tracking)
        except ValueError as error:
            raise ConfigError(f"take_over: {error}") from None
    control = _within_budget(control, options)
    return GatedControl(control, options.gate) if options.gate.share else control


def tracking_of(options: TakeOverOptions) -> AdaptiveOptions | None:
    """How the control moves its threshold; None if it keeps it.

    ``online`` does, for scores that are not exchangeable in the order in which they arrive: the
    long segments, which arrive last, have the higher ones. One tracker for each of the groups that
    it ranks in, with steps that fade, so that it settles where they are.
    """
    if options.control == "online":
        return AdaptiveOptions(track="turn" if options.by_turn else "all", step=1.0, decay=0.5)
    return options.adaptive if options.control == "adaptive" else None


def calibrating_control(options: TakeOverOptions, earlier: Calibration | None) -> Control:
    """The control of a round of a calibration pass; ``earlier`` holds the scores of that before."""
    return _within_budget(CalibratingControl(options.rate, options.by_turn, earlier), options)


def _within_budget(control: Control, options: TakeOverOptions) -> Control:
    budget = options.budget
    if budget.per_turn is None and budget.in_flight is None:
        return control
    return BudgetControl(control, budget)
