"""The HTML report in headless Chromium: list, keys, menu, figures, paper, and who is read to."""

import json
from pathlib import Path

import pytest
from browser import Page, chain
from recorded import HOSTILE

from atts.analysis.report import RunReport
from atts.reports.html import render_page
from atts.text import visible

ARROWS = {"left": "\ue012", "up": "\ue013", "right": "\ue014", "down": "\ue015"}
DRAWN = "holder => holder.querySelector('.main-svg .xtick')"
ENTER, ESCAPE, TAB = "\ue007", "\ue00c", "\ue004"
COUNT = "document.getElementById('count').textContent"


def choose(page: Page, field: str, value: str) -> None:
    page.run(
        f"Object.assign(document.getElementById('{field}'), {{value: {json.dumps(value)}}})"
        ".dispatchEvent(new Event('input', {bubbles: true}))"
    )


def test_all_runs_are_filtered_and_sorted(page: Page) -> None:
    page.show()
    assert page.run(COUNT) == "66 of 66 chains, 39 of them right"
    assert page.run("document.querySelectorAll('#rows tr').length") == 25
    page.click("#forth")
    page.click("#forth")
    assert page.run("document.querySelectorAll('#rows tr').length") == 16
    page.run("document.getElementById('find').focus()")
    page.press("p2")
    assert page.run(COUNT) == "8 of 66 chains, 3 of them right"
    choose(page, "run", "2")
    assert page.run(COUNT) == "4 of 66 chains, 0 of them right"
    choose(page, "run", "")
    choose(page, "outcome", "wrong")
    assert page.run(COUNT) == "3 of 66 chains, 0 of them right"
    choose(page, "outcome", "")
    choose(page, "find", "")
    choose(page, "between", "yes")  # only p2 is right in one run, and not in the other
    assert page.run(COUNT) == "8 of 66 chains, 3 of them right"
    page.click("#columns th:nth-child(3) button")
    page.click("#columns th:nth-child(3) button")
    sort = "document.querySelector('#columns th:nth-child(3)').getAttribute('aria-sort')"
    assert page.run(sort) == "descending"
    assert page.texts("#rows td:nth-child(3)") == list("33221100")
    assert page.run("document.getElementById('method').parentElement.hidden")  # there is one


def test_columns_that_say_nothing_are_left_out(
    page: Page, shown_runs: list[RunReport], tmp_path: Path
) -> None:
    run = shown_runs[3]
    turns = [
        turn.model_copy(update={"segments": turn.segments[:1], "decision": None})
        for turn in run.run.chains[0].turns
    ]
    drafted = run.run.chains[0].model_copy(update={"turns": tuple(turns)})
    alone = run._replace(graded=run.graded._replace(run=run.run._replace(chains=(drafted,))))
    (tmp_path / "alone.html").write_text(render_page([alone], []), encoding="utf-8")
    other = Page(page.driver, (tmp_path / "alone.html").as_uri())
    other.show()
    assert other.texts("#columns th") == [
        "Problem",
        "Chain",
        "Outcome",
        "Turns",
        "Draft tokens",
        "Seconds",
    ]
    hidden = "['run', 'method', 'between'].every(id => !document.getElementById(id).offsetWidth)"
    assert other.run(hidden)


def test_a_chain_is_read_by_keyboard_alone(page: Page) -> None:
    page.show()
    page.press(TAB)
    assert page.focused() == "Skip to the content"
    page.press(ENTER)
    assert page.run("document.activeElement.id") == "main"
    page.run("document.getElementById('between').focus()")
    for _ in range(60):
        page.press(TAB)
        if page.focused() == "Read problem p0, chain 0 of plain":
            break
    page.press(ENTER)
    page.open_chain("Problem p0, chain 0 of plain")
    assert page.focused() == "Problem p0, chain 0 of plain"
    page.press(TAB)
    assert page.focused() == "Next chain"  # there is no previous one
    page.press(ENTER)
    page.open_chain("Problem p0, chain 1 of plain")
    page.run("document.getElementById('close').focus()")
    page.press(ENTER)
    assert page.run("document.getElementById('chain').hidden")
    assert page.focused() == "Read problem p0, chain 1 of plain"


def test_keys_are_shortcuts(page: Page) -> None:
    page.show()
    page.press("j", "j")
    assert page.focused() == "Read problem p0, chain 1 of plain"
    page.press("k", "k")
    assert page.focused() == "Read problem p0, chain 0 of plain"
    page.press(ARROWS["down"], ENTER)
    page.open_chain("Problem p0, chain 1 of plain")
    page.press(ARROWS["right"])
    page.open_chain("Problem p0, chain 2 of plain")
    page.press("j")
    assert page.focused().startswith("Turn 0")
    page.press("n")
    assert page.focused().startswith("Turn 2")  # turn 1 is not taken over
    page.press("k")
    assert page.focused().startswith("Turn 1")
    page.press(ARROWS["left"])
    page.open_chain("Problem p0, chain 1 of plain")
    page.press(ESCAPE)
    assert page.run("document.getElementById('chain').hidden")
    page.press("?")
    assert page.run("document.getElementById('help').open")
    page.press(ESCAPE)
    assert not page.run("document.getElementById('help').open")
    page.press(ARROWS["right"])
    assert page.texts("#page") == ["Page 2 of 3"]


def test_keys_are_left_to_who_types(page: Page) -> None:
    page.show()
    page.press("/")
    assert page.run("document.activeElement.id") == "find"
    page.press("j?n/")
    assert page.run("document.getElementById('find').value") == "j?n/"
    assert not page.run("document.getElementById('help').open")
    page.press(ESCAPE)
    assert page.run("document.activeElement.id") != "find"


def test_the_menu_stays_and_marks_the_section(page: Page) -> None:
    page.show()
    marked = "document.querySelector('#sections [aria-current]').textContent"
    assert page.run(marked) == "Summary"
    page.run("document.getElementById('rates').scrollIntoView()")
    page.wait_for(f"{marked} == 'Take-over rate'")
    assert page.run("document.getElementById('menu').getBoundingClientRect().top") == 0
    page.show("#chains", width=390)
    page.wait_for("document.getElementById('here').textContent == 'Chains'")
    assert page.run("document.getElementById('menu').getBoundingClientRect().top") == 0
    links = "document.querySelector('#sections').checkVisibility()"
    assert not page.run(links)
    page.click("#menu-button")
    assert page.run(links)
    page.click("#sections a")
    assert not page.run(links)


def test_figures_tell_and_zoom(page: Page) -> None:
    page.show()
    from selenium.webdriver import ActionChains

    holder = "document.querySelector('[data-figure=rate-by-turn]')"
    page.run(f"{holder}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    page.wait_for(f"{holder}.querySelector('.scatterlayer .point')")
    point = page.run(f"{holder}.querySelectorAll('.scatterlayer .point')[1]")
    ActionChains(page.driver).move_to_element(point).perform()
    page.wait_for(f"{holder}.querySelector('.hovertext')")
    said = page.run(f"{holder}.querySelector('.hovertext').textContent")
    assert "turn: 1take-over rate: 0 (" in said
    assert said.startswith(("plain", "rewind", "maths", "ahead"))  # whichever lies on top
    zoomed = f"!{holder}.parentElement.querySelector('.unzoom').hidden"
    assert not page.run(zoomed)
    ground = page.run(f"{holder}.querySelector('.nsewdrag')")
    drag = ActionChains(page.driver).move_to_element(ground).click_and_hold()
    drag.move_by_offset(-90, -40).release().perform()
    page.wait_for(zoomed)
    page.run(f"{holder}.parentElement.querySelector('.unzoom').click()")
    page.wait_for(f"!({zoomed})")
    narrow = page.run(f"{holder}.clientWidth")
    page.run(f"{holder}.parentElement.querySelector('.enlarge').click()")
    page.wait_for(f"{holder}.querySelector('svg').clientWidth > 1.5 * {narrow}")


def test_a_finger_on_a_figure_asks_or_scrolls(page: Page) -> None:
    touch = page.driver.execute_cdp_cmd
    touch("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        page.show(width=390)
        holder = "document.querySelector('[data-figure=rate-by-turn]')"
        page.wait_for(f"{holder}.querySelector('.scatterlayer .point')")
        page.run(f"{holder}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = page.run(f"{holder}.querySelector('.scatterlayer .point').getBoundingClientRect()")
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

        def finger(kind: str, *at: float) -> None:
            points = [{"x": x, "y": y} for y in at]
            touch("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        finger("touchStart", y)
        finger("touchEnd")
        page.wait_for(f"{holder}.querySelector('.hovertext')")
        before = page.run("scrollY")
        finger("touchStart", y)
        for step in range(10):
            finger("touchMove", y - 20 * step)
        finger("touchEnd")
        page.wait_for(f"scrollY > {before} + 100")
    finally:
        touch("Emulation.setTouchEmulationEnabled", {"enabled": False})


def test_every_figure_is_drawn_in_the_colours_of_the_system(full_page: Page) -> None:
    ink = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    full_page.show()  # and not scroll: they are drawn when there is nothing else to do
    full_page.wait_for(f"[...document.querySelectorAll('.plot')].every({DRAWN})")
    assert full_page.run("document.querySelectorAll('.plot').length") == 12
    assert full_page.run(ink) == "rgb(27, 31, 36)"
    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    full_page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    full_page.wait_for(f"{ink} == 'rgb(232, 234, 237)'")
    assert full_page.run("document.querySelectorAll('.plot a').length") == 0  # of the hostile names


def test_a_phone_hides_nothing(page: Page) -> None:
    page.show(chain("hostile", f"{visible(HOSTILE)}0", 1), width=390)
    page.wait_for("document.querySelector('#content .turns')")
    fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert page.run(fits)
    outside = """[...document.querySelectorAll('#rows td, .sheet td, tbody th')].filter(cell => {
      const box = cell.getBoundingClientRect();
      return cell.checkVisibility() && (box.right > innerWidth || box.width == 0);
    }).length"""
    assert page.run(outside) == 0
    named = (
        "[...document.querySelectorAll('#rows tr:first-child td')].map(cell => cell.dataset.label)"
    )
    assert page.run(named) == [
        "Problem",
        "Run",
        "Chain",
        "Outcome",
        "Answer",
        "Turns",
        "Taken over",
        "Draft tokens",
        "Target tokens",
        "Seconds",
    ]


@pytest.mark.parametrize("width", [320, 768, 1024])
def test_no_screen_needs_scrolling_sideways(page: Page, width: int) -> None:
    page.show(chain("rewind", "p0", 1), width=width)
    page.open_chain("Problem p0, chain 1 of rewind")
    assert page.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_paper_has_the_open_chain_the_figures_and_no_controls(full_page: Page) -> None:
    full_page.show(chain("plain", "p0", 1), dark=True)
    full_page.open_chain("Problem p0, chain 1 of plain")
    full_page.wait_for("window.Plotly")
    full_page.run("dispatchEvent(new Event('beforeprint'))")
    assert full_page.run(f"[...document.querySelectorAll('.plot')].every({DRAWN})")
    full_page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = "getComputedStyle(document.querySelector('%s')).display"
    for hidden in ("#filter", "#list", "#menu", ".figure-steps", ".steps"):
        assert full_page.run(shown % hidden) == "none"
    assert full_page.run(shown % "#chain") == "block"
    assert full_page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert full_page.run(
        "[...document.querySelectorAll('.plot .main-svg')].every(svg => "
        "svg.getBoundingClientRect().right <= innerWidth)"
    )
    ink = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    full_page.wait_for(f"{ink} == 'rgb(27, 31, 36)'")


AXE = Path(__file__).parent / "vendor" / "axe.min.js"
FINDINGS = """
const done = arguments[0];
axe.run(document, {resultTypes: ['violations']}).then(({violations}) => done(
  violations.map(({id, nodes}) => [id, ...nodes.slice(0, 3).map(node => node.html.slice(0, 200))])
));
"""


@pytest.mark.parametrize(("width", "dark"), [(1400, True), (390, False)])
def test_axe_finds_nothing(full_page: Page, width: int, dark: bool) -> None:
    """https://github.com/dequelabs/axe-core: what machines can tell of WCAG and good practice."""
    full_page.show("#problem=p0&side=plain:1&side=rewind:1", width=width, dark=dark)
    full_page.open_chain("Problem p0, side by side")
    full_page.click("#heat")
    full_page.wait_for("document.querySelector('.token-bars')")
    full_page.run("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    full_page.run("document.querySelector('.plot').scrollIntoView()")
    full_page.wait_for("document.querySelector('.plot svg')")
    full_page.driver.execute_script(AXE.read_text(encoding="utf-8"))
    assert full_page.driver.execute_async_script(FINDINGS) == []
    full_page.click("#help-button")
    assert full_page.driver.execute_async_script(FINDINGS) == []
