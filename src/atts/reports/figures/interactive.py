"""Figures as data for Plotly (https://plotly.com/javascript/reference/), which the page has.

A colour is ``var(--NAME)``: the page knows its shades, light and dark. Plotly takes a subset of
HTML in every text, so a text of unknown origin is escaped; none is a template: hover labels are
plain.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from atts.reports.figures.base import Area, Axis, Bars, Figure, Line, Look, Mark

_PIXELS = 112
"""Of an inch of a figure's height: it is wider in the page than in a paper."""
_DIGITS = 5

_LINES: Mapping[str, str] = {
    "solid": "solid",
    "dashed": "dash",
    "dash-dot": "dashdot",
    "dotted": "dot",
    "long": "8px,2px",
    "long-dot": "5px,2px,2px,2px",
    "fine": "2px,2px",
    "longest": "12px,3px",
}
_MARKERS: Mapping[str, str] = {
    "circle": "circle",
    "square": "square",
    "up": "triangle-up",
    "diamond": "diamond",
    "down": "triangle-down",
    "plus": "cross",
    "cross": "x",
    "star": "star",
}


def for_plotly(figure: Figure) -> dict[str, Any]:
    """The traces and the layout of a figure; numbers have five digits.

    >>> from atts.reports.figures.base import Axis, Figure, Line, Look
    >>> line = Line("a<b", Look("run0"), [0.0], [1 / 3])
    >>> made = for_plotly(Figure("f", "F", "", (), (), Axis("k"), Axis("rate"), [line]))
    >>> made["data"][0]["name"], made["data"][0]["hovertext"]
    ('a&lt;b', ['k: 0<br>rate: 0.33333'])
    """
    traces = [trace for mark in figure.marks for trace in _traces(mark, figure)]
    shapes = [
        {
            "type": "line",
            "layer": "below" if rule.look.colour == "faint" else "above",
            **(
                {"x0": rule.at, "x1": rule.at, "yref": "paper", "y0": 0, "y1": 1}
                if rule.upright
                else {"y0": rule.at, "y1": rule.at, "xref": "paper", "x0": 0, "x1": 1}
            ),
            "line": _stroke(rule.look),
        }
        for rule in figure.rules
    ]
    return {
        "data": traces,
        "layout": {
            "height": round(_PIXELS * figure.height),
            "showlegend": bool(figure.names),
            "xaxis": _axis(figure.x),
            "yaxis": _axis(figure.y),
            **({"shapes": shapes} if shapes else {}),
        },
    }


def _traces(mark: Mark, figure: Figure) -> list[dict[str, Any]]:
    base: dict[str, Any] = {
        "name": escape(mark.name),
        "showlegend": bool(mark.name),
        "hoverinfo": "text+name" if len(figure.names) else "text",
        "hovertext": _tips(mark, figure),
    }
    if isinstance(mark, Bars):
        return [base | _bars(mark)]
    base |= {"type": "scatter", "x": _numbers(mark.x), "y": _numbers(mark.y)}
    if isinstance(mark, Area):
        return [
            base
            | {
                "mode": "lines",
                "stackgroup": "areas",
                "line": {"width": 0},
                "fillcolor": _colour(mark.look),
                "fillpattern": _pattern(mark.look),
            }
        ]
    return _line(mark, base)


def _line(mark: Line, base: dict[str, Any]) -> list[dict[str, Any]]:
    modes = (["lines"] if mark.look.line else []) + (["markers"] if mark.look.marker else [])
    shape = "hv" if mark.steps else "linear"
    line = base | {"mode": "+".join(modes), "line": {**_stroke(mark.look), "shape": shape}}
    # A band, or the ground under a line, goes with the line when the legend hides it.
    ground = {
        "type": "scatter",
        "mode": "lines",
        "line": {"width": 0, "shape": shape},
        "fillcolor": _colour(mark.look),
        "opacity": 0.13,
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": base["name"],
    }
    if mark.look.marker:
        symbol = _MARKERS[mark.look.marker]
        line["marker"] = {"symbol": symbol, "size": 7, "color": _colour(mark.look)}
    if mark.low and not mark.band:
        middle = mark.x if mark.across else mark.y
        line["error_x" if mark.across else "error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": _numbers([high - at for at, high in zip(middle, mark.high, strict=True)]),
            "arrayminus": _numbers([at - low for at, low in zip(middle, mark.low, strict=True)]),
            "thickness": 1.2,
            "width": 3,
        }
    grounds = []
    if mark.band:
        grounds.append(
            ground
            | {
                "x": _numbers([*mark.x, *reversed(mark.x)]),
                "y": _numbers([*mark.high, *reversed(mark.low)]),
                "fill": "toself",
            }
        )
    if mark.filled:  # the opacity of a trace does not go for a fill down to 0, but for a polygon
        grounds.append(
            ground
            | {
                "x": _numbers([*mark.x, mark.x[-1], mark.x[0]]),
                "y": _numbers([*mark.y, 0, 0]),
                "fill": "toself",
            }
        )
    if grounds:
        line["legendgroup"] = base["name"]
    return [*grounds, line]


def _bars(mark: Bars) -> dict[str, Any]:
    return {
        "type": "bar",
        "orientation": "h",
        "x": _numbers(mark.length),
        "y": _numbers(mark.y),
        "base": _numbers(mark.begin),
        "width": mark.thickness,
        "marker": {"color": _colour(mark.look), "pattern": _pattern(mark.look)},
    }


def _tips(mark: Mark, figure: Figure) -> list[str]:
    """What is said of each point."""
    if isinstance(mark, Bars):
        names = dict(figure.y.ticks)
        rows = [names.get(round(at), "") for at in mark.y]
        return [
            f"{escape(name)}<br>{_said(length)} {escape(figure.x.title)}"
            for name, length in zip(rows, mark.length, strict=True)
        ]
    tips = []
    lying = dict(figure.y.ticks)
    for index, (x, y) in enumerate(zip(mark.x, mark.y, strict=True)):
        reach = ""
        if isinstance(mark, Line) and mark.low:
            reach = f" ({_said(mark.low[index])} to {_said(mark.high[index])})"
        if isinstance(mark, Line) and mark.across:
            tips.append(f"{escape(lying.get(round(y), ''))}<br>{_said(x)}{reach} {figure.x.title}")
            continue
        called = f"{figure.x.title}: {_said(x)}"
        if isinstance(mark, Line) and mark.tips:
            called = mark.tips[index]
        tips.append(f"{escape(called)}<br>{escape(figure.y.title)}: {_said(y)}{reach}")
    return tips


def _axis(axis: Axis) -> dict[str, Any]:
    made: dict[str, Any] = {"title": {"text": escape(axis.title)}}
    if axis.ticks:
        made |= {
            "tickmode": "array",
            "tickvals": [at for at, _ in axis.ticks],
            "ticktext": [escape(text) for _, text in axis.ticks],
        }
    if axis.whole:
        made |= {"tickformat": "d"}
    if axis.doubling:
        made |= {"type": "log"}
    elif axis.low is not None and axis.high is not None:
        made |= {"range": [axis.low, axis.high]}
    elif axis.low is not None:  # Plotly forgets half a range when the window changes its size
        made |= {"rangemode": "tozero"}
    return made


def _colour(look: Look) -> str:
    return f"var(--{look.colour})"


def _stroke(look: Look) -> dict[str, Any]:
    return {
        "color": _colour(look),
        "dash": _LINES.get(look.line, "solid"),
        "width": 1.2 * look.width,
    }


def _pattern(look: Look) -> dict[str, Any]:
    ground = {"bgcolor": _colour(look), "fgcolor": "var(--ink)"} if look.hatch else {}
    return {"shape": look.hatch, "size": 7, "solidity": 0.12, **ground}


def _numbers(values: Sequence[float]) -> list[float | None]:
    """JSON has no infinity, and five digits are more than can be seen."""
    return [
        float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
        for value in map(float, values)
    ]


def _said(value: float) -> str:
    """A number in words: no exponents where they can be done without.

    >>> _said(1 / 3), _said(12345.678), _said(2)
    ('0.33333', '12,346', '2')
    """
    value = float(value)
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.{_DIGITS}g}"
