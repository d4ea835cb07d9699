"""Puts the page together."""

from collections.abc import Sequence
from importlib.resources import files
from itertools import compress
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from atts.analysis.report import RunReport
from atts.analysis.spans import PHASES
from atts.config import differing_keys, flatten
from atts.reports.figures import Figure, make_figures
from atts.reports.figures.base import COLOURS
from atts.reports.figures.interactive import for_plotly
from atts.reports.html.chains import pack, script_safe
from atts.reports.html.scripts import hash_source, libraries, own_script
from atts.reports.notes import notes
from atts.reports.summary_table import comparison_rows
from atts.reports.table_layout import ABSENT
from atts.reports.verdict import verdicts
from atts.store.run_directory import config_yaml
from atts.text import visible

_ROWS = 500
"""A figure's numbers stand below it, unless they are more rows than this; files have all."""

Sheet = Sequence[Sequence[str]]
"""A table: a header and rows."""

LIVE = "connect-src 'self'; "
_WAITING = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="refresh" content="3">
<meta name="color-scheme" content="light dark">
<title>atts report</title>
<p>Nothing to report yet: {{ why }}
"""


class ShownFigure(NamedTuple):
    """A figure in the page."""

    name: str
    title: str
    description: str
    sheet: Sheet | None
    """Its numbers; None where they are too many."""


def render_page(
    runs: Sequence[RunReport], figures: Sequence[Figure] | None = None, version: str | None = None
) -> str:
    """The text of the HTML file.

    Args:
        runs: at least one; names differ.
        figures: those of ``make_figures``, if they are made already.
        version: of a page that is served while the runs go on: it asks for ``/version``, and loads
            anew when that is another.
    """
    figures = make_figures(runs) if figures is None else figures
    packed = pack(runs)
    style = _colours() + _file("page.css")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_file("page.html.jinja")).render(
        title=_title(runs),
        version=version,
        policy=_policy(style, version is not None),
        style=Markup(style),  # noqa: S704  (our own file)
        script=Markup(own_script()),  # noqa: S704  (our own files)
        libraries=libraries(),
        runs=runs,
        visible=visible,
        summary=_summary(runs),
        notes=[visible(note) for note in notes(runs)],
        verdicts=[visible(sentence) for sentence in verdicts(runs).values()],
        sections=_sections(figures),
        drawings=Markup(  # noqa: S704  (no character of it can end its element)
            script_safe({figure.name: for_plotly(figure) for figure in figures})
        ),
        late=_late(runs),
        phases=_phases(runs),
        differing=_differing(runs),
        environment=_environment(runs),
        config_yaml=config_yaml,
        listing=Markup(packed.listing),  # noqa: S704  (no character of it can end its element)
        texts=packed.texts,
    )


def render_waiting(why: str) -> str:
    """The text of a page that says why there is no report yet, and looks again."""
    return Environment(autoescape=True).from_string(_WAITING).render(why=visible(why))


def _file(name: str) -> str:
    return (files("atts.reports.html") / name).read_text(encoding="utf-8")


def _policy(style: str, live: bool) -> str:
    """No request to anywhere, or else to where the page is from, and no scripts and no styles but
    these.

    Plotly makes an empty style element, which it fills by script.
    """
    scripts = [hash_source(own_script().encode()), *(library.source for library in libraries())]
    return (
        f"default-src 'none'; script-src {' '.join(scripts)}; "
        f"style-src {hash_source(style.encode())} {hash_source(b'')}; "
        f"{LIVE if live else ''}base-uri 'none'; form-action 'none'"
    )


def _colours() -> str:
    """The colours of the figures as variables: light, and dark where that is preferred."""
    light, dark = (
        "".join(f"--{name}:{shades[index]};" for name, shades in COLOURS.items())
        for index in (0, 1)
    )
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"


def _title(runs: Sequence[RunReport]) -> str:
    if len(runs) == 1:
        return f"atts report: {visible(runs[0].name)}"
    return f"atts report: {len(runs)} runs"


def _summary(runs: Sequence[RunReport]) -> Sheet:
    rows = comparison_rows([run.summary for run in runs], by_turn=False)  # a figure has them
    header = ["", *(visible(run.name) for run in runs)]
    return [header, *([label, *cells] for label, cells in rows)]


def _sections(figures: Sequence[Figure]) -> list[tuple[str, str, list[ShownFigure]]]:
    """The figures by section: an id, a heading, and the figures."""
    sections = (
        ("outcomes", "Outcomes and cost", ("accuracy", "pass-at-k", "frontier", "cost")),
        ("rates", "Take-over rate", ("rate-by-turn", "rate-by-problem", "rate-over-time")),
        ("scores", "Scores and calibration", ("scores-", "p-values-")),
        ("time", "Time", ("phases", "intensity", "timeline-")),
    )
    found = []
    for name, heading, starts in sections:
        shown = [_shown(figure) for figure in figures if figure.name.startswith(starts)]
        if shown:
            found.append((name, heading, shown))
    return found


def _shown(figure: Figure) -> ShownFigure:
    sheet = None
    if len(figure.rows) <= _ROWS:
        cells = [[_cell(value) for value in row] for row in figure.rows]
        sheet = _without_empty([figure.columns, *cells])
    return ShownFigure(
        figure.name,
        visible(figure.title),
        visible(figure.description),
        sheet,
    )


def _without_empty(sheet: Sheet) -> Sheet:
    """A table without the rows and columns that say nothing.

    >>> _without_empty([["run", "a", "b"], ["x", "1", ABSENT], ["y", ABSENT, ABSENT]])
    [['run', 'a'], ['x', '1']]
    """
    header, *rows = sheet
    rows = [row for row in rows if any(cell not in ("", ABSENT) for cell in row[1:])]
    told = [
        place == 0 or any(row[place] not in ("", ABSENT) for row in rows)
        for place in range(len(header))
    ]
    return [list(compress(row, told)) for row in (header, *rows)]


def _cell(value: object) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else visible(str(value))


def _phases(runs: Sequence[RunReport]) -> Sheet:
    times = [{time.phase: time for time in run.profile.phases} for run in runs]
    names = [phase for phase in PHASES if any(phase in of_run for of_run in times)]
    if not names:
        return []
    rows = [
        [
            str(name),
            *(
                f"{of_run[name].seconds:,.1f} ({100 * of_run[name].share:.1f} %)"
                if name in of_run
                else ABSENT
                for of_run in times
            ),
        ]
        for name in names
    ]
    ratios = [run.profile.intensity.r for run in runs]
    rows.append(["r", *(ABSENT if ratio is None else f"{ratio:,.2f}" for ratio in ratios)])
    return _without_empty([["chain-seconds", *(visible(run.name) for run in runs)], *rows])


def _late(runs: Sequence[RunReport]) -> Sheet:
    header = ["run", "problem", "chain", "ended, s", "took, s", "turns", "taken over", "why"]
    rows = [
        [
            visible(run.name),
            visible(late.problem_id),
            str(late.sample),
            f"{late.done:,.1f}",
            f"{late.seconds:,.1f}",
            str(late.turns),
            str(late.take_overs),
            late.why,
        ]
        for run in runs
        for late in run.profile.late_chains
    ]
    return _without_empty([header, *rows]) if rows else []


def _differing(runs: Sequence[RunReport]) -> Sheet:
    """The keys of the configuration in which the runs differ."""
    flat = [flatten(run.run.config.model_dump(mode="json")) for run in runs]
    rows = [
        [key, *(visible(str(one.get(key, ABSENT))) for one in flat)]
        for key in differing_keys(*flat)
    ]
    return [["key", *(visible(run.name) for run in runs)], *rows] if rows else []


def _environment(runs: Sequence[RunReport]) -> Sheet:
    header = ["run", "processor", "memory", "GPUs", "system", "software", "engines"]
    rows = [
        [
            visible(run.name),
            f"{each.cpus} x {visible(each.processor)}",
            f"{each.memory_bytes / 2**30:.0f} GiB",
            visible(", ".join(each.gpus)) or ABSENT,
            visible(each.platform),
            visible(
                ", ".join(
                    [f"Python {each.python}", *(f"{k} {v}" for k, v in each.packages.items())]
                )
            ),
            visible(", ".join(f"{author}: {by}" for author, by in each.engines.items())),
        ]
        for run in runs
        for each in run.environments
    ]
    return _without_empty([header, *rows]) if rows else []
