"""The HTML report as text: well formed, self-contained, and safe from what models write."""

import base64
import gzip
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import HOSTILE, write_run

from atts.analysis.report import RunReport, read_report
from atts.grading.grader import Grader
from atts.reports.figures import make_figures
from atts.reports.html import render_page
from atts.reports.html.chains import pack, script_safe
from atts.reports.html.scripts import hash_source
from atts.reports.summary_table import comparison_rows

VOID = {"meta", "input", "br", "link"}


class Outline(HTMLParser):
    """What a page is made of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: dict[str | None, str] = {}
        self._script: str | None = None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._script = dict(attrs).get("id")
            self.scripts[self._script] = ""
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[self._script] += data


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "plain")
    write_run(
        folder / "hostile",
        text=HOSTILE,
        names=HOSTILE,
        prompt={"system": HOSTILE.replace("\0", "")},
    )
    with Grader() as grader:
        runs = [
            read_report("plain", folder / "plain", grader),
            read_report(HOSTILE, folder / "hostile", grader),
        ]
        drawn = (
            "accuracy",
            "rate-by-problem",
            "phases",
            "timeline-1",
        )  # that name runs or problems
        return render_page(runs, [each for each in make_figures(runs) if each.name in drawn])


@pytest.fixture(scope="module")
def outline(html: str) -> Outline:
    return Outline(html)


def test_it_is_well_formed(outline: Outline) -> None:
    assert outline.open == []
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_nothing_hostile_became_markup(outline: Outline, html: str) -> None:
    assert not [tag for tag, _ in outline.tags if tag in ("img", "iframe", "object", "embed")]
    handlers = [name for _, attributes in outline.tags for name in attributes if name[:2] == "on"]
    assert handlers == []
    assert "{{ 7*7 }} javascript" in html  # a template inside a text stays text
    # Control characters and text direction overrides are shown, not sent.
    assert not set(html) & set("\x00\x1b\u202e\r")


def test_it_needs_no_network(outline: Outline) -> None:
    for tag, attributes in outline.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
            if value := attributes.get(name):
                assert value.startswith("#"), (tag, value)
        assert "url(http" not in (attributes.get("style") or "")


def test_the_policy_lets_only_our_scripts_and_styles_run(outline: Outline, html: str) -> None:
    (policy,) = [
        attributes["content"] or ""
        for tag, attributes in outline.tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    scripts = [outline.scripts[None].encode()]
    for name in ("plotly", "katex"):  # as the page unpacks them
        packed = base64.b64decode(outline.scripts[f"library-{name}"])
        scripts.append(gzip.decompress(packed))
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert policy.split("; ") == [
        "default-src 'none'",
        f"script-src {' '.join(map(hash_source, scripts))}",
        f"style-src {hash_source(style.encode())} {hash_source(b'')}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert not [attributes for _, attributes in outline.tags if "style" in attributes]
    assert "innerHTML" not in outline.scripts[None]
    assert "eval(" not in outline.scripts[None]


def test_every_executable_script_is_ours(outline: Outline) -> None:
    kinds = [attributes.get("type") for tag, attributes in outline.tags if tag == "script"]
    assert kinds.count(None) == 1
    assert set(kinds) == {None, "application/json", "application/octet-stream"}


def test_licences_go_with_the_libraries(outline: Outline) -> None:
    for name, holder in (("plotly", "Plotly Technologies"), ("katex", "Khan Academy")):
        text = gzip.decompress(base64.b64decode(outline.scripts[f"library-{name}"])).decode()
        assert holder in text[:1500]
        assert "The above copyright notice" in text[:1500]


def test_the_chains_are_all_there(outline: Outline) -> None:
    listing: dict[str, Any] = json.loads(outline.scripts["listing"])
    assert [run["address"] for run in listing["runs"]] == ["plain", "hostile"]
    assert listing["runs"][0]["name"] == "plain"
    assert listing["runs"][0]["method"] == "atts"
    rows = listing["chains"]
    assert [sum(row[0] == run for row in rows) for run in (0, 1)] == [12, 12]
    assert rows[1] == [0, 0, 1, "right", "2", 2, 1, 20, 7, 16.5]
    name, question, elements = listing["problems"][0]
    assert (name, question) == ("p0", "What is 1 + 1 = 2. ?")
    assert elements == {"0": "text-0-0"}  # the other run has other problems
    content = json.loads(gzip.decompress(base64.b64decode(outline.scripts[elements["0"]])))
    assert content["gold"] == "2"
    assert [role for role, _ in content["prompt"]] == ["system", "user"]
    assert content["prompt"][1][1] == "What is 1 + 1 = 2. ?"
    chain = content["chains"][1]
    assert chain["turns"][0]["segments"] == [
        ["draft", False, 10, "draft: 1 + 1 = 2. "],
        ["target", True, 7, "target: 1 + 1 = 2. "],
    ]
    assert chain["turns"][0]["decision"] == [0.52, 0.11, 0.4, True]


def test_a_problem_is_one_in_all_runs_that_have_it(tmp_path: Path) -> None:
    for folder in ("a/run", "b/run"):
        write_run(tmp_path / folder, problems=2, samples=1)
    write_run(tmp_path / "other", problems=2, samples=1, text="2 + 2?")
    folders = [tmp_path / name for name in ("a/run", "b/run", "other")]
    with Grader() as grader:
        runs = [read_report(str(number), each, grader) for number, each in enumerate(folders)]
    listing = json.loads(pack(runs).listing)
    # One of the same id, but another question, is another problem.
    assert [[name, list(elements)] for name, _, elements in listing["problems"]] == [
        ["p0", ["0", "1"]],
        ["p1", ["0", "1"]],
        ["p0", ["2"]],
        ["p1", ["2"]],
    ]
    # Of folders of one name the whole path is the address.
    addresses = [run["address"] for run in listing["runs"]]
    assert addresses == [
        str(tmp_path.resolve() / "a/run"),
        str(tmp_path.resolve() / "b/run"),
        "other",
    ]


def test_more_choices_than_letters_have_no_prompt(tmp_path: Path) -> None:
    write_run(tmp_path / "run", problems=1, samples=1)
    with Grader() as grader:
        run = read_report("run", tmp_path / "run", grader)
    (problem,) = run.run.problems
    many = problem.model_copy(update={"choices": tuple(map(str, range(30)))})
    graded = run.graded._replace(run=run.run._replace(problems=(many,)))
    packed = pack([run._replace(graded=graded)])
    assert json.loads(gzip.decompress(base64.b64decode(packed.texts[0][1])))["prompt"] == []


def packed_turns(run: RunReport) -> list[dict[str, Any]]:
    """The turns of the first chain, as the page holds them."""
    content = json.loads(gzip.decompress(base64.b64decode(pack([run]).texts[0][1])))
    turns: list[dict[str, Any]] = content["chains"][0]["turns"]
    return turns


def test_what_was_cut_off_and_the_surprises_are_there(tmp_path: Path) -> None:
    rewind = {"mode": "rewind", "score": {"kind": "largest-surprise"}}
    write_run(tmp_path / "run", cut="then \u202e\x1b[31m", take_over=rewind)
    with Grader() as grader:
        run = read_report("run", tmp_path / "run", grader)
    taken, left = packed_turns(run)
    assert taken["segments"] == [
        ["draft", True, 10, "draft: 1 + 1 = 2. ", "then \\u202e\\x1b[31m", 4],
        ["target", True, 7, "target: 1 + 1 = 2. "],
    ]
    assert left["segments"] == [["draft", True, 10, "draft: 1 + 1 = 2. "]]
    for turn in (taken, left):
        assert turn["decision"][4:] == [[0, 2, 0, 150, 0, 25, 725, 50, 50, 300], 10]
    table = dict(comparison_rows([run.summary]))
    assert table["  cut off"] == [f"{12 * 4}"]


def test_surprises_without_bounds_are_still_json(tmp_path: Path) -> None:
    write_run(tmp_path / "run", problems=1, samples=1, turns=1)
    with Grader() as grader:
        run = read_report("run", tmp_path / "run", grader)
    (chain,) = run.run.chains
    decision = chain.turns[0].decision
    assert decision
    boundless = decision.model_copy(update={"surprises": (math.inf, math.nan, 120.0)})
    turn = chain.turns[0].model_copy(update={"decision": boundless})
    recorded = run.run._replace(chains=(chain.model_copy(update={"turns": (turn,)}),))
    (packed,) = packed_turns(run._replace(graded=run.graded._replace(run=recorded)))
    assert packed["decision"][4] == [9999, 9999, 9999]


def test_it_can_be_heard_and_driven_by_keyboard(outline: Outline) -> None:
    tags = [tag for tag, _ in outline.tags]
    assert tags.count("main") == tags.count("h1") == 1
    assert {"header", "nav", "footer"} <= set(tags)
    assert dict(outline.tags[0][1])["lang"] == "en"
    for tag, attributes in outline.tags:
        if "plot" in (attributes.get("class") or "").split():
            assert attributes["role"] == "img"
            assert attributes["aria-labelledby"]
            assert attributes["aria-describedby"]
        if tag == "th":
            assert attributes["scope"] in ("col", "row")
        if tag == "nav" or attributes.get("role") == "region":
            assert attributes["aria-label"]
        if attributes.get("role") == "region":
            assert attributes["tabindex"] == "0"
    labelled = {attributes["for"] for tag, attributes in outline.tags if tag == "label"}
    fields = {attributes["id"] for tag, attributes in outline.tags if tag in ("input", "select")}
    assert labelled == fields
    assert tags.count("table") - 1 == tags.count("caption") - 1 > 5


def test_the_same_runs_give_the_same_data(tmp_path: Path) -> None:
    write_run(tmp_path / "run", problems=1, samples=1, turns=1)
    with Grader() as grader:
        run = read_report("run", tmp_path / "run", grader)
    assert pack([run]) == pack([run])


@given(st.text() | st.lists(st.text()) | st.dictionaries(st.text(), st.integers() | st.text()))
def test_json_in_a_script_stays_there(content: object) -> None:
    text = script_safe(content)
    assert json.loads(text) == content
    assert not set(text) & set("<>&\u2028\u2029")
