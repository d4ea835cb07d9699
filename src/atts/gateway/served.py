"""What a server offers: a name for each method, and for each method with a preset."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from atts.config import PRESETS, Config, flatten, parse_config
from atts.errors import CalibrationError, ConfigError, RequestError
from atts.methods import METHODS

_THE_SERVERS = {"limits", "calibration", "draft", "target", "problems", "seed"}
"""Groups of a preset that say nothing of how one question is solved."""


class Offer(NamedTuple):
    """What a name stands for."""

    config: Config
    digest: str


class Served:
    """Configurations by the names that clients ask for: ``METHOD`` or ``METHOD:PRESET``.

    A name without a preset is the server's own configuration with that method.

    >>> served = Served(Config(), lambda config: None)
    >>> served.offer("target-only").config.method, served.offer("atts:paper").config.take_over.mode
    ('target-only', 'continue')
    """

    def __init__(self, config: Config, check: Callable[[Config], object]) -> None:
        """Find out what can be offered.

        Args:
            config: the server's own.
            check: raises ConfigError or CalibrationError for what cannot be solved by.
        """
        self._check = check
        self._refused: dict[str, str] = {}
        self._offered: dict[str, Offer] = {}
        self._find(config)

    @property
    def names(self) -> list[str]:
        """All of them; the server's own method comes first."""
        return list(self._offered)

    def offer(self, name: str, method: str | None = None) -> Offer:
        """What a name stands for; with another method, if one is given.

        Raises:
            RequestError: nothing is served by that name.
        """
        param = "model"
        if method is not None:
            _, colon, preset = name.partition(":")
            param, name = "atts.method", f"{method}{colon}{preset}"
        if found := self._offered.get(name):
            return found
        reason = self._refused.get(name)
        why = f": {reason}" if reason else f"; what is served: {', '.join(self._offered)}"
        raise RequestError(
            f"{param}: no {name!r} is served here{why}",
            param=param,
            code="model_not_found",
            status=404,
        )

    def _find(self, config: Config) -> None:
        methods = [config.method, *(name for name in METHODS if name != config.method)]
        same: dict[str, str] = {}
        for preset in (None, *PRESETS):
            for method in methods:
                name = method if preset is None else f"{method}:{preset}"
                try:
                    made = _variant(config, method, PRESETS[preset] if preset else {})
                    self._check(made)
                except (ConfigError, CalibrationError) as error:
                    self._refused[name] = str(error)
                    continue
                digest = made.digest()
                first = same.setdefault(digest, name)
                if first == name:
                    self._offered[name] = Offer(made, digest)
                else:
                    self._refused[name] = f"it would be the same as {first}"


def _variant(config: Config, method: str, preset: Mapping[str, object]) -> Config:
    tree = config.model_dump()
    chosen = {key: value for key, value in preset.items() if key not in _THE_SERVERS}
    for key, value in flatten(chosen).items():
        *groups, leaf = key.split(".")
        inner = tree
        for group in groups:
            inner = inner[group]
        inner[leaf] = value
    return parse_config(tree | {"method": method}, "the server's configuration")
