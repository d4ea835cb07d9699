"""A solution as a notebook shows it."""

from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from atts.text import visible
from atts.types import Author, Chain

if TYPE_CHECKING:
    from atts.solving.solution import Solution

LONGEST = 20_000
"""Characters of a chain that are shown: its beginning and its end."""

COLOURS: dict[Author, str] = {"draft": "#0072b2", "target": "#d55e00"}
"""Of the text's authors; told apart by those who see no red, too."""


def as_html(solution: "Solution") -> str:
    """A table of the votes, with each chain behind it, its authors in colour.

    Whatever a model wrote is text there, and nothing else.
    """
    rate = solution.take_over_rate
    facts = [
        solution.method,
        f"{len(solution.done)} chains",
        *(f"{count:,} tokens by the {who}" for who, count in solution.tokens.items() if count),
        *([f"take-over rate {rate:.2f}"] if rate is not None else []),
        f"{solution.seconds:.1f} s",
    ]
    answer = "no answer" if solution.answer is None else solution.answer
    rows = Markup("").join(
        Markup("<tr><td>{}</td><td>{}</td><td>{}</td></tr>").format(
            visible(vote.answer), len(vote.chains), ", ".join(map(str, vote.chains))
        )
        for vote in solution.votes
    )
    legend = Markup(" ").join(
        Markup('<span style="color:{}">{}</span>').format(colour, author)
        for author, colour in COLOURS.items()
    )
    chains = Markup("").join(_chain(chain) for chain in solution.chains)
    html = Markup(
        '<div><p><b style="font-size:1.3em">{}</b></p><p>{}</p>'
        "<table><tr><th>answer</th><th>votes</th><th>chains</th></tr>{}</table>"
        "<p>written by {}</p>{}</div>"
    )
    return str(html.format(visible(answer), " \N{MIDDLE DOT} ".join(facts), rows, legend, chains))


def _chain(chain: Chain) -> Markup:
    pieces = [
        (segment.author, segment.text)
        for segment in chain.segments
        if segment.kept and segment.text
    ]
    left_out = sum(len(text) for _, text in pieces) - LONGEST
    if left_out > 0:
        pieces = _without_middle(pieces)
    text = Markup("").join(
        Markup('<span style="color:{}">{}</span>').format(COLOURS[author], visible(part))
        for author, part in pieces
    )
    answer = "no answer" if chain.answer is None else chain.answer
    ended = f"failed: {chain.error}" if chain.end == "failed" else chain.end
    return Markup(
        "<details><summary>chain {}: {} ({})</summary>"
        '<pre style="white-space:pre-wrap">{}</pre></details>'
    ).format(chain.sample, visible(answer), escape(visible(ended)), text)


def _without_middle(pieces: list[tuple[Author, str]]) -> list[tuple[Author, str]]:
    half = LONGEST // 2
    end = sum(len(text) for _, text in pieces) - half
    shown: list[tuple[Author, str]] = []
    at = 0
    for author, text in pieces:
        first, last = text[: max(0, half - at)], text[max(0, end - at) :]
        if first:
            shown.append((author, first))
        if last:
            if at <= end:
                shown.append((author, "\n[...]\n"))
            shown.append((author, last))
        at += len(text)
    return shown
