"""What a server measures of itself, for Prometheus."""

from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from atts.analysis.spans import offsets, phase_seconds
from atts.runs.activity import RECENT
from atts.solving.deciders import Variant
from atts.types import Chain, Problem, Turn

P_VALUES = tuple(n / 20 for n in range(1, 21))
"""Bounds of the histogram: uniform p-values fill all of its bins alike."""


class Pool(Protocol):
    """What is looked at when the figures are asked for."""

    @property
    def in_flight(self) -> int: ...

    @property
    def waiting(self) -> int: ...

    @property
    def capacity(self) -> int: ...

    @property
    def variants(self) -> Sequence[Variant]: ...


class Metrics:
    """Counts what the chains of a solver do; see ``atts.solving.solver.Observer``."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "atts_requests", "Replies by HTTP status", ["path", "status"], registry=self.registry
        )
        self._chains = Counter(
            "atts_chains", "Chains that have ended", ["method", "end"], registry=self.registry
        )
        self._aborted = Counter(
            "atts_chains_aborted", "Chains whose client went away", registry=self.registry
        )
        self._p_values = Histogram(
            "atts_p_value",
            "Conformal p-values of the draft's segments",
            ["method"],
            buckets=P_VALUES,
            registry=self.registry,
        )
        self._tokens = Counter(
            "atts_tokens",
            "Tokens written, by author and by whether they became part of a chain",
            ["method", "author", "kept"],
            registry=self.registry,
        )
        self._scored = Counter(
            "atts_tokens_scored",
            "Tokens that the target read in order to decide",
            ["method"],
            registry=self.registry,
        )
        self._seconds = Counter(
            "atts_chain_seconds",
            "Seconds of chains that have ended, by what they were spent on",
            ["method", "phase"],
            registry=self.registry,
        )

    def watch(self, pool: Pool) -> None:
        """Tell how full a pool is, and how its deciders keep their rates, from now on."""
        self.registry.register(_OfPool(pool))

    def turn_done(self, variant: Variant, turn: Turn) -> None:
        """Count what was decided."""
        if turn.decision:
            self._p_values.labels(variant.setup.config.method).observe(turn.decision.p_value)

    def chain_done(self, variant: Variant, problem: Problem, chain: Chain) -> None:  # noqa: ARG002
        """Count what a chain came to, and what it cost."""
        method = variant.setup.config.method
        self._chains.labels(method, chain.end).inc()
        kept: Tally[tuple[str, str]] = Tally()
        for segment in chain.segments:
            kept[segment.author, "yes"] += segment.kept_tokens
            kept[segment.author, "no"] += segment.tokens - segment.kept_tokens
        for (author, is_kept), tokens in kept.items():
            self._tokens.labels(method, author, is_kept).inc(tokens)
        self._scored.labels(method).inc(chain.scored_tokens)
        if (offset := offsets([chain]).get(chain.key)) is not None:
            for phase, seconds in phase_seconds(chain, offset).items():
                if seconds:
                    self._seconds.labels(method, phase).inc(seconds)

    def aborted(self, chains: int) -> None:
        """Count chains whose client went away."""
        self._aborted.inc(chains)

    def text(self) -> bytes:
        """In Prometheus's format."""
        return generate_latest(self.registry)


def of_replicas(texts: Mapping[str, bytes]) -> bytes:
    """What several replicas have measured, as one text: each sample says whose it is.

    ``texts`` are those of ``Metrics.text``, by the names of the replicas.
    """
    together: dict[str, Metric] = {}
    for name, text in sorted(texts.items()):
        for family in text_string_to_metric_families(text.decode()):
            empty = Metric(family.name, family.documentation, family.type)
            kept = together.setdefault(family.name, empty)
            for sample in family.samples:
                labels = {**sample.labels, "replica": name}
                kept.add_sample(sample.name, labels, sample.value)
    registry = CollectorRegistry()
    registry.register(_Collected(list(together.values())))
    return generate_latest(registry)


class _Collected(Collector):
    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


class _OfPool(Collector):
    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, told, value in (
            ("atts_chains_in_flight", "Chains that have begun and not ended", self._pool.in_flight),
            ("atts_chains_waiting", "Chains that wait for room to begin", self._pool.waiting),
            ("atts_chains_capacity", "Chains that may be in flight", self._pool.capacity),
        ):
            yield GaugeMetricFamily(name, told, value)
        # Of the variants of one method and nominal rate, all decisions of the moment together.
        nominal = GaugeMetricFamily(
            "atts_take_over_rate_nominal",
            "Take-over rate that is aimed at",
            labels=["method", "rate"],
        )
        now = GaugeMetricFamily(
            "atts_take_over_rate",
            "Share of the newest decisions in which the target took over",
            labels=["method", "rate"],
        )
        found: dict[tuple[str, str], list[int]] = {}
        for variant in self._pool.variants:
            activity = variant.activity
            aimed = variant.rate
            key = (variant.setup.config.method, "" if aimed is None else f"{aimed:g}")
            counts = found.setdefault(key, [0, 0])
            counts[0] += activity.recent_take_overs
            counts[1] += min(activity.decisions, RECENT)
            if aimed is not None:
                nominal.add_metric(key, aimed)
        for key, (taken, decided) in found.items():
            if decided:
                now.add_metric(key, taken / decided)
        yield nominal
        yield now
