"""What is simulated: a method with settings of its own, or the reference's schedule."""

from typing import NamedTuple

from atts.config import Config, MethodName, apply_setting, method_and_settings, parse_config
from atts.errors import ConfigError
from atts.methods import METHODS

REFERENCE = "reference"
"""The reference implementation's schedule of ``atts``, as a name for the command line."""


class SimulatedMethod(NamedTuple):
    """A method with settings of its own, as the command line names it."""

    name: str
    method: MethodName
    settings: dict[str, str]
    by_problem: bool = False
    """All chains of a problem end before the next problem is begun."""

    @classmethod
    def parse(cls, name: str) -> "SimulatedMethod":
        """``METHOD``, ``METHOD:key=value,...``, or ``reference``: one problem at a time, with at
        most 16 requests of the draft and 4 of the target in flight.

        Raises:
            ConfigError: a setting is not key=value.

        >>> SimulatedMethod.parse("atts:take_over.rate=0.2").settings
        {'take_over.rate': '0.2'}
        """
        if name == REFERENCE:
            limits = {
                "limits.draft_requests": "16",
                "limits.target_requests": "4",
                "limits.overlap": "off",
            }
            return cls(name, "atts", limits, by_problem=True)
        method, settings = method_and_settings(name)
        pairs = {}
        for setting in settings:
            key, equals, value = setting.partition("=")
            if not key or not equals:
                raise ConfigError(f"{name}: {setting!r} is not key=value")
            pairs[key] = value
        if "preset" in pairs:
            raise ConfigError(f"{name}: a preset holds for all that is simulated: use --set preset")
        # Of the steps of other methods a recording says nothing.
        following = [each.name for each in METHODS.values() if each.can_follow]
        if method not in following:
            raise ConfigError(
                f"{method!r} cannot follow recorded turns; choose from "
                f"{', '.join(following)} and {REFERENCE}"
            )
        return cls(name, method, pairs)

    def config(self, config: Config, chains: int) -> Config:
        """The configuration to run with, with ``chains`` in flight.

        Raises:
            ConfigError: a setting is wrong.
        """
        tree = config.model_dump()
        tree["method"] = self.method
        # As many as the command line says, unless a setting lets the number follow the load.
        numbers = ("chains", "chains_min", "draft_requests", "target_requests")
        limits = dict.fromkeys(numbers, chains)
        tree["limits"] |= limits
        for author in ("draft", "target"):  # what is simulated are servers
            tree[author]["engine"] = "sglang"
        # The scores to decide by are those of the very chains that are followed.
        tree["calibration"]["allow_overlap"] = True
        for key, value in self.settings.items():
            apply_setting(tree, f"{key}={value}")
        return parse_config(tree, self.name)
