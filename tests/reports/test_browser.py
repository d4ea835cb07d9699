"""The HTML report in headless Chromium: what it shows of chains, and that it is safe."""

import json
from pathlib import Path

import pytest
from browser import Page, chain
from recorded import HOSTILE, SURPRISES

from atts.analysis.report import RunReport
from atts.reports.html import render_page
from atts.text import visible

P0 = "Problem p0, chain 1 of plain"


def test_it_makes_no_request(page: Page) -> None:
    page.log("performance")
    page.show(chain("maths", "m0", 0))
    page.wait_for("document.querySelector('#content math')")
    page.run("document.querySelector('.plot').scrollIntoView()")
    page.wait_for("document.querySelector('.plot svg')")
    events = [json.loads(entry["message"])["message"] for entry in page.log("performance")]
    asked = {
        event["params"]["request"]["url"].partition("#")[0]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert asked == {page.address}


def test_hostile_text_does_nothing_and_is_shown(page: Page) -> None:
    page.show(chain("hostile", f"{visible(HOSTILE)}0", 1))
    page.wait_for("document.getElementById('content').textContent")
    shown = page.run("document.getElementById('content').textContent")
    assert "draft: </script><script>window.hacked=1</script><img src=x" in shown
    assert "\\u202e" in shown
    assert page.run("document.querySelectorAll('img, #content script').length") == 0
    assert page.run("typeof window.hacked") == "undefined"
    # Even where markup got in, the policy would stop it.
    page.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"hacked=1\">')")
    page.run(
        "document.body.append(Object.assign(document.createElement('script'), "
        "{textContent: 'window.hacked = 1'}))"
    )
    assert page.run("typeof window.hacked") == "undefined"
    refused = [entry["message"] for entry in page.log("browser")]
    assert refused
    assert all("Content Security Policy" in message for message in refused)


def test_every_control_has_a_name_and_hidden_ones_are_hidden(page: Page) -> None:
    page.show()
    nameless = (
        "[...document.querySelectorAll('button, select, input, a')].filter(control => "
        "!control.textContent.trim() && !control.labels?.length).length"
    )
    assert page.run(nameless) == 0
    visible = (
        "[...document.querySelectorAll('[hidden]')]"
        ".filter(element => getComputedStyle(element).display != 'none').length"
    )
    assert page.run(visible) == 0


def test_authors_are_told_by_words_and_lines_too(page: Page) -> None:
    page.show(chain("plain", "p0", 1))
    page.open_chain(P0)
    assert page.texts(".segment .author")[:3] == [
        "Draft, replaced, 10 tokens, p = 0.480",
        "Target, 7 tokens",
        "Draft, 10 tokens, p = 0.850",
    ]
    styles = (
        "[...document.querySelectorAll('.segment')].slice(0, 3)"
        ".map(part => getComputedStyle(part).borderLeftStyle)"
    )
    assert page.run(styles) == ["dotted", "double", "solid"]


def test_only_the_mean_score_is_a_perplexity(page: Page) -> None:
    for run, text in (("plain", "score 0.530, perplexity 1.70"), ("rewind", "score 0.520")):
        page.show(chain(run, "p0", 1))
        page.open_chain(f"Problem p0, chain 1 of {run}")
        assert page.texts("h4 span")[0] == text


def test_what_was_cut_off_is_struck_through_behind_what_was_kept(page: Page) -> None:
    page.show(chain("rewind", "p0", 1))
    page.open_chain("Problem p0, chain 1 of rewind")
    assert page.texts(".segment .author") == [
        "Draft, 10 tokens, 4 of them cut off, p = 0.110",
        "Target, 7 tokens",
        "Draft, 10 tokens, p = 0.480",
    ]
    assert page.run("document.querySelectorAll('.segment del').length") == 1
    struck = page.run("document.querySelector('.segment.draft del').textContent")
    assert struck == visible(HOSTILE)
    assert page.texts(".segment.draft .prose")[0] == "draft: 1 + 1 = 2. " + struck
    line = "getComputedStyle(document.querySelector('%s')).textDecorationLine"
    assert page.run(line % ".segment del") == "line-through"
    assert page.run(line % ".segment.draft .prose") == "none"
    parts = "[...document.querySelectorAll('.strip span')]"
    widths = f"{parts}.map(part => [part.className, part.style.flexGrow])"
    assert page.run(widths) == [["draft", "6"], ["cut", "4"], ["target", "7"], ["draft", "10"]]


def test_surprises_are_shown_on_demand(page: Page) -> None:
    page.show(chain("plain", "p0", 1))
    page.open_chain(P0)
    assert page.run("document.getElementById('heat').hidden")  # none were recorded
    page.show(chain("rewind", "p0", 1))
    page.open_chain("Problem p0, chain 1 of rewind")
    first = "document.querySelector('.segment.draft')"
    pieces = f"[...{first}.querySelectorAll('i')]"
    plain = page.texts(".segment.draft .prose")[0]
    assert page.run(f"{pieces}.length") == 0
    assert not page.run("document.getElementById('scale').checkVisibility()")
    page.run("document.getElementById('heat').focus()")
    page.press("\n")
    page.wait_for(f"{pieces}.length")
    assert page.run("document.getElementById('heat').getAttribute('aria-pressed')") == "true"
    assert page.run("document.getElementById('scale').checkVisibility()")
    assert page.texts(".segment.draft .text")[0] == plain
    # Ten tokens, one of which the cut goes through.
    titles = page.run(f"{pieces}.map(piece => piece.title.split(',')[0])")
    begin = len("draft: 1 + 1 = 2. ")
    through = begin * len(SURPRISES) // len(plain)
    nats = [f"{surprise:.2f} nats" for surprise in SURPRISES]
    assert titles == [*nats[: through + 1], *nats[through:]]
    lengths = page.run(f"{pieces}.map(piece => [...piece.textContent].length)")
    assert sum(lengths[: through + 1]) == begin
    whole = [*lengths[:through], lengths[through] + lengths[through + 1], *lengths[through + 2 :]]
    assert max(whole) - min(whole) <= 1
    assert page.run(f"{pieces}[0].title").endswith("evenly over the segment's characters")
    colours = page.run(f"{pieces}.map(piece => getComputedStyle(piece).backgroundColor)")
    by_title = dict(zip(titles, colours, strict=True))
    assert by_title["0.00 nats"] == "rgba(220, 38, 38, 0)"
    assert by_title["3.00 nats"] == "rgba(220, 38, 38, 0.3)"
    assert by_title["7.25 nats"] == "rgba(220, 38, 38, 0.6)"  # as red as can be
    page.click("#next")
    page.open_chain("Problem p0, chain 2 of rewind")
    assert page.run(f"{pieces}.length") > 0
    page.click("#heat")
    page.wait_for(f"{pieces}.length == 0")


def test_a_bar_stands_for_each_token(page: Page) -> None:
    page.show(chain("rewind", "p0", 1))
    page.open_chain("Problem p0, chain 1 of rewind")
    page.click("#heat")
    page.wait_for("document.querySelector('.token-bars')")
    bars = "document.querySelector('.token-bars')"
    drawn = page.run(f"{bars}.querySelector('path').getAttribute('d')").count("M")
    assert drawn == len(SURPRISES)
    described = "Surprises of 10 tokens; the largest is 7.25 nats, of token 7"
    assert page.run(f"{bars}.getAttribute('aria-label')") == described
    # The draft wrote as many tokens as were scored, so the cut is between two bars.
    assert page.run(f"{bars}.querySelector('line').getAttribute('x1')") == "6"
    assert page.texts(".said")[0] == f"{described}; cut before token 7"
    page.run(
        f"{bars}.dispatchEvent(new PointerEvent('pointermove', "
        f"{{clientX: {bars}.getBoundingClientRect().left + 0.65 * {bars}.clientWidth}}))"
    )
    assert page.texts(".said")[0] == "Token 7: 7.25 nats"


def test_surprises_are_those_of_the_first_of_several_segments(page: Page) -> None:
    page.show(chain("ahead", "a0", 0))
    page.open_chain("Problem a0, chain 0 of ahead")
    page.click("#heat")
    page.wait_for("document.querySelector('.token-bars')")
    assert page.texts(".said")[0].endswith("of token 7; cut before token 7")
    text = page.texts(".segment.draft .text")[0]
    first = "document.querySelector('.segment.draft')"
    coloured = page.run(f"[...{first}.querySelectorAll('i')].map(e => e.textContent).join('')")
    assert text.startswith(coloured)
    assert len(coloured) == -(-len(text) // 2)


def test_question_prompt_and_answers_are_shown(page: Page) -> None:
    page.show(chain("plain", "p9", 1))
    page.open_chain("Problem p9, chain 1 of plain")
    assert page.texts(".question .prose") == ["What is 1 + 1 = 2. ?"]
    assert page.texts(".prompt h5") == ["system", "user"]
    assert "\\boxed{}" in page.texts(".prompt .text")[0]
    assert page.texts(".answers h4") == ["Chain's answer", "Reference answer"]
    assert page.texts(".given") == ["3", "2"]
    assert page.texts(".verdict") == ["\u2717 wrong"]


def test_formulas_are_rendered_and_can_do_nothing(page: Page) -> None:
    page.show(chain("maths", "m0", 0))
    page.wait_for("document.querySelector('.segment math')")
    first = "document.querySelector('.segment .prose')"
    shown = page.run(f"{first}.textContent")
    sources = page.run(
        f"[...{first}.querySelectorAll('math')].map(each => "
        "each.querySelector('annotation').textContent)"
    )
    assert sources[:3] == ["x^2 < 3", r"\frac{1}{2} \in \mathbb{R}", "y"]
    assert page.run(f"{first}.querySelector('.displayed mfrac') !== null")
    assert "\u211d" in shown  # no browser draws mathvariant any more
    # What is no formula, or has no end, or is none that KaTeX would render, is text.
    assert "$5 or $7." in shown
    assert shown.endswith("\\[ unclosed")
    assert r"$\def\a{\a\a}\a$" in shown
    assert r"$\href{javascript:hacked=1}{b}$ $\includegraphics{x.png}$" in shown
    assert r"$\htmlStyle{position:fixed}{c}$" in shown
    assert page.run("document.querySelectorAll('#content a, #content img').length") == 0
    assert (
        page.run("document.querySelectorAll('#content [href], #content [style*=fixed]').length")
        == 0
    )
    heights = f"[...{first}.querySelectorAll('mspace')].map(e => e.getBoundingClientRect().height)"
    assert 0 < max(page.run(heights)) < 1000
    page.click("#raw")
    page.wait_for("!document.querySelector('#content math')")
    assert r"So \(x^2 < 3\), \[\frac{1}{2}" in page.texts(".segment .text")[0]
    page.click("#raw")
    page.wait_for("document.querySelector('#content math')")


def test_a_chain_is_read_as_one_text(page: Page) -> None:
    page.show(chain("rewind", "p0", 1))
    page.open_chain("Problem p0, chain 1 of rewind")
    page.click("#running")
    page.wait_for("document.querySelector('.one')")
    assert page.texts(".one") == ["draft: 1 + 1 = 2. target: 1 + 1 = 2. draft: 1 + 1 = 2. "]
    assert page.run("[...document.querySelectorAll('.one span')].map(e => e.className)") == [
        "draft",
        "target",
        "draft",
    ]


def test_an_address_holds_in_another_report(
    page: Page, shown_runs: list[RunReport], tmp_path: Path
) -> None:
    fewer = [shown_runs[3], shown_runs[2]._replace(name="renamed")]
    (tmp_path / "other.html").write_text(render_page(fewer, []), encoding="utf-8")
    other = Page(page.driver, (tmp_path / "other.html").as_uri())
    other.show(chain("rewind", "p1", 2))
    other.open_chain("Problem p1, chain 2 of renamed")
    assert other.texts(".given")[0] == "2"
    other.show(chain("plain", "p1", 2))
    other.open_chain("Not in this report")


def test_chains_of_a_problem_stand_side_by_side(page: Page) -> None:
    page.show(chain("plain", "p2", 1))
    page.open_chain("Problem p2, chain 1 of plain")
    page.click("#beside")
    page.open_chain("Problem p2, side by side")
    columns = "[...document.querySelectorAll('.side')]"
    assert page.texts(".side .verdict") == ["\u2713 right", "\u2717 wrong"]
    tops = page.run(f"{columns}.map(each => each.getBoundingClientRect().top)")
    assert tops[0] == tops[1]
    # Another chain of the second run.
    chosen = f"{columns}[1].querySelectorAll('select')[1]"
    page.run(f"Object.assign({chosen}, {{value: '3'}}).dispatchEvent(new Event('change'))")
    page.wait_for("document.querySelectorAll('.side .failed').length == 1")
    # The address has all of it.
    address = page.run("location.hash")
    page.show(address, width=390)
    page.open_chain("Problem p2, side by side")
    assert page.texts(".side .verdict") == ["\u2713 right", "! failed"]
    tops = page.run(f"{columns}.map(each => each.getBoundingClientRect().top)")
    assert tops[1] > tops[0]
    assert page.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.parametrize("dark", [False, True])
def test_coloured_text_stands_out_from_its_ground(page: Page, dark: bool) -> None:
    page.show(chain("rewind", "p0", 1), dark=dark)
    page.open_chain("Problem p0, chain 1 of rewind")
    assert page.run(f"({_CONTRAST})('.segment del')") >= 4.5
    page.click("#heat")
    page.wait_for("document.querySelector('.segment i')")
    for selector in ("#scale", ".segment i[title^='7.25']", ".segment i[title^='0.00']"):
        assert page.run(f"({_CONTRAST})({json.dumps(selector)})") >= 4.5, selector


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(page: Page, dark: bool) -> None:
    """WCAG 2.2, contrast of at least 4.5 to 1 for text."""
    page.show(chain("plain", "p0", 1), dark=dark)
    page.open_chain(P0)
    for selector in (
        "body",
        "a",
        "figcaption",
        ".segment.target .prose",
        ".over",
        ".segment.replaced .prose",
        ".segment p",
        ".right",
        "#count",
    ):
        found = page.run(f"({_CONTRAST})({json.dumps(selector)})")
        assert found >= 4.5, (selector, found)


_CONTRAST = """selector => {
  const parse = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b]
    .map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const element = document.querySelector(selector);
  const style = getComputedStyle(element);
  const text = parse(element.closest('svg') ? style.fill : style.color);
  let [ground, through] = [[0, 0, 0], 1];  // grounds may be half transparent
  for (let layer = element; layer && through; layer = layer.parentElement) {
    const [r, g, b, alpha = 1] = parse(getComputedStyle(layer).backgroundColor);
    ground = ground.map((c, i) => c + through * alpha * [r, g, b][i]);
    through *= 1 - alpha;
  }
  const [a, b] = [light(text), light(ground)];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""
