"""Methods, scores and problem sets by name: those of this package, and those of others.

Another package registers its own by an entry point of the group ``atts.methods``, ``atts.scores``
or ``atts.problems`` (docs/extending.md). All are looked up when they are first asked for, so what
lies below, such as the configuration, knows their names and imports nothing of them.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from atts.errors import ConfigError


class Registry:
    """Everything of one kind, by name; ``found`` is what there is, ``reload`` looks again."""

    def __init__(self, group: str, kind: str, home: str) -> None:
        """Nothing is loaded yet.

        Args:
            group: of the entry points of other packages.
            kind: ``module:class`` of what is registered, which has a ``name``.
            home: the module that holds our own, or the package whose modules do.
        """
        self._group = group
        self._kind = kind
        self._home = home

    @cached_property
    def found(self) -> Mapping[str, Any]:
        """Name -> what is registered: our own in the order of their modules, then the others.

        Raises:
            ConfigError: another package's entry cannot be loaded, is not of this kind, or has a
                name that is taken.
        """
        module, _, name = self._kind.partition(":")
        kind = getattr(import_module(module), name)
        found = {
            each.name: each
            for module in _modules(import_module(self._home))
            for each in vars(module).values()
            if isinstance(each, kind)
        }
        for entry in entry_points(group=self._group):
            each = self._load(entry, kind)
            if each.name in found:
                raise ConfigError(
                    f"{_whose(entry)} is called {each.name}, and there is one of that name already"
                )
            found[each.name] = each
        return found

    def reload(self) -> None:
        """Look anew when next asked: for programs that install packages while they run."""
        self.__dict__.pop("found", None)

    def _load(self, entry: EntryPoint, kind: type) -> Any:  # noqa: ANN401
        try:
            each = entry.load()
        except Exception as error:  # whatever the other package does when it is imported
            raise ConfigError(
                f"{_whose(entry)} cannot be loaded: {type(error).__name__}: {error}; mend or "
                "uninstall that package"
            ) from error
        if not isinstance(each, kind):
            raise ConfigError(f"{_whose(entry)} is no {kind.__name__}, but {each!r}")
        return each


def _modules(home: ModuleType) -> Iterator[ModuleType]:
    if hasattr(home, "__path__"):
        for info in iter_modules(home.__path__):
            yield import_module(f"{home.__name__}.{info.name}")
    else:
        yield home


def _whose(entry: EntryPoint) -> str:
    package = entry.dist.name if entry.dist else "another package"
    return f"the {entry.group} entry {entry.name} = {entry.value} of {package}"


METHODS = Registry("atts.methods", "atts.methods.method:Method", "atts.methods")
SCORES = Registry("atts.scores", "atts.conformal.scores:Score", "atts.conformal.scores")
PROBLEMS = Registry("atts.problems", "atts.problems.registry:ProblemSet", "atts.problems.registry")
