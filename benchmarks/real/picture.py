"""The picture of the README: accuracy against the target's written tokens, on the real pair.

    python benchmarks/real/picture.py docs/images/real.png

From ``report.json`` beside this file; each point has its interval (95 %, clustered by problem).
"""

import argparse
import json
import re
from pathlib import Path

from matplotlib.figure import Figure

SERIES = {  # what is drawn as one line -> the runs that it joins
    "target-only": r"target-only",
    "rewind, draft 16 and target 4 tokens": r"d16-t4-\d+",
    "rewind": r"rewind-largest-.*",
    "rewind, decided by a coin": r"rewind-coin-.*",
    "the paper's mode (continue, mean)": r"continue-mean-.*",
    "draft-only": r"draft-only",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    report = json.loads((Path(__file__).parent / "report.json").read_text(encoding="utf-8"))
    draw(report["runs"]).savefig(options.picture, dpi=130)


def draw(runs: dict[str, dict[str, dict[str, float]]]) -> Figure:
    """One set of axes; a point for each run of ``SERIES``."""
    figure = Figure(figsize=(7.4, 4.4), layout="constrained")
    axes = figure.subplots()
    whole = runs["target-only"]["a_chain"]["target_written"]
    for (label, names), marker in zip(SERIES.items(), "oDsxv^", strict=True):
        found = sorted(
            (100 * run["a_chain"]["target_written"] / whole, run["accuracy"])
            for name, run in runs.items()
            if re.fullmatch(names, name)
        )
        shares = [share for share, _ in found]
        middle = [100 * accuracy["estimate"] for _, accuracy in found]
        below = [100 * (each["estimate"] - each["low"]) for _, each in found]
        above = [100 * (each["high"] - each["estimate"]) for _, each in found]
        axes.errorbar(
            shares,
            middle,
            (below, above),
            marker=marker,
            label=label,
            linewidth=1.2,
            elinewidth=0.7,
        )
    axes.set_xlabel("target tokens written, % of target-only's")
    axes.set_ylabel("accuracy a chain, %")
    axes.set_xlim(left=-3)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="lower right")
    return figure


if __name__ == "__main__":
    main()
