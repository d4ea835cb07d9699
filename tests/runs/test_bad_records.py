"""One bad record in a run directory: what reads runs goes on, or says what is wrong and where."""

import asyncio
import json
import logging
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded import write_run

from atts.analysis.comparison import NamedRun, compare
from atts.analysis.graded_run import ChainVerdict, GradedRun
from atts.analysis.recording import load_recording, simulated_order
from atts.analysis.replay import ControlSpec, replay_all
from atts.analysis.report import read_report
from atts.errors import AttsError
from atts.exchange.reference import write_folder
from atts.exchange.tables import rows, write_parquet
from atts.grading.grader import Grader, Pair, Verdicts
from atts.reports.chrome_trace import chrome_trace
from atts.reports.comparison_table import to_csv
from atts.reports.figures.decisions import scores
from atts.reports.figures.drawing import draw
from atts.reports.figures.interactive import for_plotly
from atts.reports.html.chains import pack
from atts.runs.regrade import regrade
from atts.store.run_directory import RunStore, read_run
from atts.types import ChainKey


class Quick(Grader):
    """Leaves open what algebra would have to decide: other tests are about that."""

    def _by_algebra(self, pairs: list[Pair]) -> Verdicts:
        return dict.fromkeys(pairs)


def read_all(directory: Path, other: Path, folder: Path) -> GradedRun:
    """What report, profile, export, compare, replay and regrade read of a run, and write of it."""
    grader = Quick(workers=1)
    report = read_report("run", directory, grader)
    json.dumps(report.summary.model_dump(mode="json"))
    pack([report])
    chrome_trace([("run", report.run)])
    write_parquet(folder / "t.parquet", rows(report.graded))
    json.dumps(list(rows(report.graded)))
    files: dict[str, str] = {}
    chains = sorted(report.run.chains, key=lambda chain: chain.key)
    write_folder(report.run.problems, chains, report.run.config.samples, files.__setitem__)
    pair = [NamedRun(each.name, str(each), read_run(each)) for each in (directory, other)]
    to_csv(compare(pair, pair[1].name, grader))
    recording = load_recording(directory, grader)
    arrivals = simulated_order(recording, seed=0, in_flight=4)
    replay_all(recording, arrivals, [ControlSpec.parse("online")], [0.4], folds=2)
    asyncio.run(regrade(directory, "regex", "rules", None, grader, dry_run=True))
    return report.graded


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    write_run(folder / "run", problems=3, samples=3, cut="so 3.", take_over={"mode": "rewind"})
    asyncio.run(regrade(folder / "run", "regex", "rules", None, Quick(workers=1)))
    return folder / "run"


@pytest.fixture(scope="module")
def verdicts(good: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[ChainKey, ChainVerdict]:
    """Of the undamaged run."""
    return read_all(good, good, tmp_path_factory.mktemp("whole")).verdicts


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


DIGITS = "9" * 4400
TEXTS = st.one_of(
    st.sampled_from(
        [
            *("", " ", DIGITS, f"{DIGITS}%", f"{DIGITS}\\%", f"{DIGITS} cm", "9" * 900 + "%"),
            *("1e999999999", "9^{9^{9^9}}", "2^{-99999999999}", "{" * 3000, "\\frac{1}{" * 400),
            *("\x00", "\u202e12", "١٢٣", "²%", "①", "1/0", "0^{-1}", "\\boxed{", "NaN", "\r\n"),
        ]
    ),
    st.text(max_size=20),
    st.text(st.sampled_from("0123456789.,^{}()%\\fracsqt+-*/ e!_½²"), max_size=30),
)
DEEP: Any = 1
for _ in range(300):
    DEEP = [DEEP]
VALUES = st.one_of(
    st.sampled_from([None, True, DEEP, {}, [], 10**400, -(10**400), 2**63, -1, 1e308, -1e308]),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e-320]),
    st.integers(),
    st.floats(),
    TEXTS,
)


def places(value: object, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of each value in a tree."""
    if at:
        yield at
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, each in items:
        yield from places(each, (*at, key))


@st.composite
def changed(draw: st.DrawFn, line: bytes) -> bytes:
    """A line of JSON in which one thing is another, is missing, is too much or is damaged."""
    how = draw(st.sampled_from(["value", "value", "answer", "missing", "key", "bytes", "raw"]))
    if how == "raw":
        raw = [
            b"",
            b"[]",
            b"NaN",
            b"\x00" * 50,
            b"[" * 50_000,
            b'{"a":' * 50_000,
            b"\xff",
            line * 2,
        ]
        return draw(st.sampled_from(raw))
    if how == "bytes":
        damaged = bytearray(line)
        for _ in range(draw(st.integers(1, 3))):
            byte = draw(st.integers(0, 255).filter(lambda value: value != ord("\n")))
            damaged[draw(st.integers(0, len(line) - 1))] = byte
        return bytes(damaged[: draw(st.integers(1, len(line)))])
    tree: Any = json.loads(line)
    if how == "answer" and isinstance(tree, dict):
        tree["answer"] = draw(TEXTS)
        return json.dumps(tree).encode()
    *above, last = draw(st.sampled_from(list(places(tree))))
    holder = tree
    for key in above:
        holder = holder[key]
    if how == "missing":
        del holder[last]
    elif how == "key" and isinstance(holder, dict):
        holder[draw(TEXTS)] = draw(VALUES)
    else:
        holder[last] = draw(VALUES)
    return json.dumps(tree).encode()


ENDLESS = [
    f"{DIGITS}%",
    DIGITS,
    f"{DIGITS}\\%",
    "9^{9^{9^9}}",
    "{" * 3000,
    "1e999999999",
    "\u202e1",
]


def test_answers_without_end_leave_the_others_their_verdicts(
    good: Path, verdicts: dict[ChainKey, ChainVerdict], tmp_path: Path
) -> None:
    run, folder = copied(good, tmp_path / "copy")
    path = run / "chains.jsonl"
    lines = path.read_bytes().splitlines()
    for number, answer in enumerate(ENDLESS):
        lines[number] = json.dumps(json.loads(lines[number]) | {"answer": answer}).encode()
    path.write_bytes(b"\n".join(lines) + b"\n")
    found = read_all(run, good, folder).verdicts
    keys = sorted(found)
    assert all(found[key].outcome in ("ungraded", "wrong") for key in keys[: len(ENDLESS)])
    assert found[keys[0]] == ChainVerdict(ENDLESS[0], "ungraded", "longer than 1,000 characters")
    assert [found[key] for key in keys[len(ENDLESS) :]] == [
        verdicts[key] for key in keys[len(ENDLESS) :]
    ]


@pytest.mark.parametrize("score", ["Infinity", "-Infinity", "1e308"])
def test_a_score_beyond_all_bounds_is_drawn(good: Path, tmp_path: Path, score: str) -> None:
    run, _ = copied(good, tmp_path / "copy")
    text = (run / "chains.jsonl").read_text()
    (run / "chains.jsonl").write_text(re.sub(r'"score":[^,]*', f'"score":{score}', text, count=1))
    figure = scores(read_report("run", run, Quick(workers=1)), 0)
    assert figure is not None
    assert b"<svg" in draw(figure, "svg")
    json.dumps(for_plotly(figure), allow_nan=False)
    assert sum(float(row[2] or 0) for row in figure.rows) == pytest.approx(1.0)


def copied(good: Path, folder: Path) -> tuple[Path, Path]:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(good, folder / "run")
    return folder / "run", folder


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_one_bad_chain_hides_no_other(
    good: Path,
    verdicts: dict[ChainKey, ChainVerdict],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    run, folder = copied(good, tmp_path_factory.getbasetemp() / "bad-chain")
    path = run / "chains.jsonl"
    lines = path.read_bytes().splitlines()
    number = data.draw(st.integers(0, len(lines) - 1))
    kind = data.draw(st.sampled_from(["changed", "changed", "more", "twice"]))
    bad = lines[number] if kind == "twice" else data.draw(changed(lines[number]))
    after = [*lines[:number], bad, *lines[number + (kind == "changed") :]]
    path.write_bytes(b"\n".join(after) + b"\n")
    before = path.read_bytes()

    found = read_all(run, good, folder)

    assert path.read_bytes() == before
    own = ChainKey(*(json.loads(lines[number])[key] for key in ("problem_id", "sample")))
    # A line may have become that of another chain, of which it is the newest then.
    meant = {own, *(key for key in [_key(bad)] if key)}
    for key, verdict in verdicts.items():
        assert key in meant or found.verdicts[key] == verdict
    with RunStore.open(run, found.run.config, found.run.problems, None) as store:
        assert set(store.chains) == set(found.verdicts)


def _key(line: bytes) -> ChainKey | None:
    try:
        tree = json.loads(line)
        return ChainKey(str(tree["problem_id"]), int(tree["sample"]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


FILES = ["problems.jsonl", "grades.jsonl", "environment.json", "config.yaml"]


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), name=st.sampled_from(FILES))
def test_any_other_bad_file_is_told_or_does_not_matter(
    good: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, name: str
) -> None:
    run, folder = copied(good, tmp_path_factory.getbasetemp() / "bad-file")
    path = run / name
    if name.endswith(".jsonl"):
        lines = path.read_bytes().splitlines()
        number = data.draw(st.integers(0, len(lines) - 1))
        lines[number] = data.draw(changed(lines[number]))
        path.write_bytes(b"\n".join(lines) + b"\n")
    elif name.endswith(".json"):
        path.write_bytes(data.draw(changed(json.dumps(json.loads(path.read_bytes())).encode())))
    else:
        text = path.read_bytes()
        at = data.draw(st.integers(0, len(text) - 1))
        path.write_bytes(text[:at] + data.draw(st.binary(max_size=5)) + text[at + 1 :])
    try:
        found = read_all(run, good, folder)
    except AttsError as error:
        assert name in str(error) or name != "problems.jsonl"  # noqa: PT017
        assert len(str(error)) < 5000  # noqa: PT017
    else:
        # A problem that has another id now has no chains.
        assert len(found.verdicts) == 9 or (name == "problems.jsonl" and len(found.verdicts) == 6)
