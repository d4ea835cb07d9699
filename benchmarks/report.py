"""Seconds to make an HTML report, its size, and the time until a chain can be read in Chromium.

The run is made up of recorded chains, by default 100 problems x 16 chains x 4 turns. Scores,
p-values, decisions, lengths of the segments and durations are those of the recorded turns (repeated
where a chain had fewer); the recording has no texts, so each segment is filled with words of the
problem set's questions, in random order, up to its recorded length. Times of requests are the
recorded duration, shared out by length. As ``atts report`` does, the first round grades the
answers and remembers the verdicts; the others find them.

    python benchmarks/report.py [--data ../shared/data] [--turns 4] [--rounds 3] [--json]

Needs the recorded chains and, for the part in the browser, chromium, chromium-driver and selenium.
"""

import argparse
import gzip
import json
import math
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from atts.analysis.report import read_reports
from atts.config import parse_config
from atts.grading.grader import Grader, VerdictCache
from atts.reports.figures import make_figures
from atts.reports.html import render_page
from atts.store.environment import record_environment
from atts.store.run_directory import RunStore
from atts.types import Chain, Decision, Problem, Segment, Timings, Turn

CHARACTERS_A_TOKEN = 3.0
UNSCORED = {
    "ppl": 1.5,
    "percentile": 0.5,
    "rejected": False,
    "draft_chars": 1500,
    "target_chars": 0,
}
"""In place of the turns of a chain that has no perplexity at all."""
TRACE = "traces/math500_emc4_ct1.compact.jsonl.gz"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = os.environ.get("ATTS_DATA") or Path(__file__).parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=default, help="the folder of recorded chains")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="where to leave the page")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        characters = write_run(folder / "run", arguments.data, arguments.turns)
        figures: dict[str, Any] = {"characters in the chains": characters}
        figures["bytes of chains.jsonl"] = (folder / "run/chains.jsonl").stat().st_size
        rounds = [
            make_page(folder / "run", folder / "report.html") for _ in range(arguments.rounds)
        ]
        for part in rounds[0]:
            figures[f"seconds: {part}"] = [round(each[part], 2) for each in rounds]
        figures["bytes of the page"] = (folder / "report.html").stat().st_size
        if shutil.which("chromium") and shutil.which("chromedriver"):
            opened = [open_page(folder / "report.html") for _ in range(arguments.rounds)]
            for part in opened[0]:
                figures[f"seconds in Chromium: {part}"] = [round(each[part], 3) for each in opened]
        if arguments.keep:
            shutil.copyfile(folder / "report.html", arguments.keep)
    if arguments.json:
        print(json.dumps(figures))
        return
    for what, value in figures.items():
        if isinstance(value, list):
            print(f"{what:45} {statistics.median(value):>10,.2f}   {value}")
        else:
            print(f"{what:45} {value:>10,}")


def write_run(directory: Path, data: Path, turns: int) -> int:
    """Write the run directory; the number of characters in its chains."""
    with gzip.open(data / TRACE, "rt", encoding="utf-8") as file:
        recorded = [json.loads(line) for line in file]
    questions = [
        json.loads(line)["question"]
        for line in (data / "problems/math500.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    words = [word for question in questions for word in question.split()]
    rng = random.Random(0)
    problems = {
        each["question_index"]: Problem(
            id=each["question_id"], question=rng.choice(questions), answer=each["gold_answer"]
        )
        for each in recorded
    }
    samples = 1 + max(each["sample_index"] for each in recorded)
    config = parse_config({"samples": samples, "problems": {"source": "math500"}}, "the benchmark")
    characters = 0
    with RunStore.open(directory, config, list(problems.values()), None) as store:
        record_environment(directory, config)
        for each in recorded:
            chain = make_chain(each, problems[each["question_index"]].id, turns, words, rng)
            characters += len(chain.text)
            store.append(chain)
    return characters


def make_chain(
    recorded: dict[str, Any], problem_id: str, turns: int, words: list[str], rng: random.Random
) -> Chain:
    scored = [turn for turn in recorded["turns"] if turn["ppl"]] or [UNSCORED]
    repeated = [scored[turn % len(scored)] for turn in range(turns)]
    length = sum(turn["draft_chars"] + turn["target_chars"] for turn in repeated) or 1
    second = recorded["duration_seconds"] / length  # of a character
    made, now = [], 1.0  # on the clock of the process
    for turn in repeated:
        draft = segment("draft", turn["draft_chars"], now, second, words, rng)
        now = draft.timings.done
        decision = Decision(
            score=math.log(turn["ppl"]),
            p_value=1.0 - turn["percentile"],
            take_over=turn["rejected"],
            threshold=0.4,
            scored_tokens=draft.tokens,
            cached_tokens=0,
            timings=Timings(queued=now, started=now, first_token=now, done=now),
        )
        segments = [draft]
        if turn["rejected"]:
            segments.append(segment("target", turn["target_chars"], now, second, words, rng))
            now = segments[-1].timings.done
        made.append(Turn(segments=tuple(segments), decision=decision))
    answer = recorded["final_answer"]
    return Chain(
        problem_id=problem_id,
        sample=recorded["sample_index"],
        end="answer",
        answer=None if answer in (None, "", "invalid") else str(answer),
        turns=tuple(made),
        started=0.0,
        done=now - 1.0,
    )


def segment(
    author: str, length: int, now: float, second: float, words: list[str], rng: random.Random
) -> Segment:
    return Segment.model_validate(
        {
            "author": author,
            "text": text_of(length, words, rng),
            "tokens": round(length / CHARACTERS_A_TOKEN),
            "finish_reason": "length",
            "cached_tokens": 0,
            "timings": {
                "queued": now,
                "started": now,
                "first_token": now + 0.05 * second * length,
                "done": now + second * length + 1e-6,
            },
        }
    )


def text_of(length: int, words: list[str], rng: random.Random) -> str:
    def enough() -> Iterator[str]:
        left = length
        while left > 0:
            word = rng.choice(words)
            left -= len(word) + 1
            yield word

    return " ".join(enough())[:length]


def make_page(run: Path, page: Path) -> dict[str, float]:
    """Write the page; the seconds of each part."""
    clock = time.perf_counter
    began = clock()
    with Grader(cache=VerdictCache(run.parent / "verdicts.sqlite3")) as grader:
        reported = read_reports([run], grader)
    read = clock()
    figures = make_figures(reported)
    text = render_page(reported, figures)
    rendered = clock()
    page.write_text(text, encoding="utf-8")
    return {
        "read, grade, sum up": read - began,
        "figures and page": rendered - read,
        "in all": clock() - began,
    }


def open_page(page: Path) -> dict[str, float]:
    """Open the page in a fresh browser; seconds since navigation started."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    with webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver"))) as driver:
        driver.get(page.as_uri())
        times: dict[str, float] = driver.execute_async_script(
            """
            const done = arguments[0];
            const timing = performance.getEntriesByType("navigation")[0];
            const listed = timing.domContentLoadedEventEnd / 1000;
            if (!document.querySelector("#rows button")) throw new Error("no list");
            const when = (there) => new Promise((resolve) => {
              const began = performance.now();
              const look = () => (there() ? resolve((performance.now() - began) / 1000)
                                          : requestAnimationFrame(look));
              look();
            });
            const find = document.getElementById("find");
            const text = () => document.querySelector(".segment :is(.text, .prose)")?.textContent;
            (async () => {
              document.querySelector("#rows button").click();
              const first = await when(text);
              const shown = text();
              document.getElementById("next").click();
              const next = await when(() => text() !== shown);
              const typed = performance.now();
              find.value = "x";
              find.dispatchEvent(new Event("input", {bubbles: true}));
              const filtered = (performance.now() - typed) / 1000;
              document.querySelector(".plot").scrollIntoView();
              const drawn = await when(() => document.querySelector(".plot .xtick"));
              done({"until the list answers": listed,
                    "from a click to the first chain's text": first,
                    "from a click to the next chain's text": next,
                    "from a letter in the filter to the list": filtered,
                    "until the first figure is drawn": drawn});
            })();
            """
        )
    return times


if __name__ == "__main__":
    main()
