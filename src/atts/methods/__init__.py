"""Ways to solve a problem with one or two engines. Each writes to one chain."""

from collections.abc import Iterator, Mapping
from typing import cast

from atts import registry
from atts.config import Config
from atts.methods.method import Method
from atts.types import Author

__all__ = ["METHODS", "Method", "authors_of"]


class _Methods(Mapping[str, Method]):
    """All methods by name, looked up when they are asked for."""

    def __getitem__(self, name: str) -> Method:
        return cast("Method", registry.METHODS.found[name])

    def __iter__(self) -> Iterator[str]:
        return iter(registry.METHODS.found)

    def __len__(self) -> int:
        return len(registry.METHODS.found)


METHODS = _Methods()
"""The methods of this package, and those that other packages register."""


def authors_of(config: Config) -> tuple[Author, ...]:
    """The models that a run needs.

    >>> authors_of(Config(method="best-of-n")), authors_of(Config(method="self-consistency"))
    (('draft', 'target'), ('target',))
    """
    method = METHODS[config.method]
    return method.needs(config) if method.needs else method.authors
