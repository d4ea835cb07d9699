"""What the processes of a run send each other: plain data, between our own processes alone."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from atts import errors
from atts.config import Config
from atts.conformal.control import Control
from atts.errors import AttsError
from atts.methods.decider import Ruling
from atts.runs.activity import Work as Doing
from atts.types import Author, ChainKey, Decision, Gate


class Failure(NamedTuple):
    """An error, by the name of its class in ``atts.errors``."""

    kind: str
    message: str

    @classmethod
    def of(cls, error: AttsError) -> "Failure":
        return cls(type(error).__name__, str(error))

    def error(self, where: str = "") -> AttsError:
        """The error again, with a word of where it was met."""
        kind = getattr(errors, self.kind, AttsError)
        made: AttsError = kind(f"{where}: {self.message}" if where else self.message)
        return made


class Opened(NamedTuple):
    """What a worker is, once its models are open."""

    version: str
    """Of atts, there."""
    room: int
    """Chains that it can have in flight."""


class Work(NamedTuple):
    """What the chains of a run have in common."""

    job: int
    """Its number among those that the workers make one after the other."""
    config: Config
    stream: str
    control: Control | None
    """None: there is none, or it is in the decider."""
    seconds: float
    """Of the run, now."""
    settled: Sequence[str]
    """Problems of which no further chains are needed."""


class Share(NamedTuple):
    """Chains of one problem that begin now."""

    problem_id: str
    samples: Sequence[int]
    finished: Sequence[bytes] = ()
    """Records of its other chains, where its chains wait for each other."""


class Report(NamedTuple):
    """What became of a worker's chains since it was asked last, and what they do now."""

    job: int
    chains: Sequence[bytes]
    """Records of those that have ended, each a line of JSON."""
    failure: Failure | None
    """What ends the run."""
    messages: Sequence[str]
    in_flight: int
    at_work: Mapping[Doing, int]
    waiting: Mapping[Author, int]
    """Requests that wait for a slot."""
    outages: Mapping[str, float]
    """Models whose engine does not answer, and the seconds for which it is still waited for."""
    written: Mapping[Author, int]
    """Tokens since then, as the turns and the take-overs, or not, of what follows."""
    turns: int
    decided: Sequence[bool]
    lost_decider: int | None
    """The number of the decider, if it does not answer any more."""


class Question(NamedTuple):
    """What is to be decided; see ``Decider``."""

    key: ChainKey
    turn: int
    u: float
    score: float | None = None
    """None: it is asked at the gate, before there is one."""
    running: Sequence[float] = ()
    surprise: float | None = None


Gated = tuple[Gate, Ruling | None] | None
"""What the gate says."""


class Decided(NamedTuple):
    """A decision of a chain that is not on record."""

    key: ChainKey
    turn: int
    decision: Decision


class Held(NamedTuple):
    """What a worker knows of the decisions that are not on record."""

    decided: Sequence[Decided]
    take_overs: int
    """How many of their take-overs the target has not finished."""
