"""The HTML report in headless Chromium: it is driven as a reader drives it.

Needs Debian's packages chromium and chromium-driver; skipped where they are absent.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from recorded import HOSTILE, SURPRISES, write_run

from atts.analysis.report import read_report
from atts.grading.grader import Grader
from atts.reports.figures import make_figures
from atts.reports.html import render_page
from atts.text import visible

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not CHROMIUM or not DRIVER:
    pytest.skip("needs the packages chromium and chromium-driver", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.chrome.webdriver import WebDriver  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402


@pytest.fixture(scope="module")
def driver() -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=Service(DRIVER)) as driver:
        yield driver


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    mean = {"score": {"kind": "mean"}}
    write_run(folder / "plain", problems=10, samples=4, turns=3, take_over=mean)
    write_run(folder / "hostile", text=HOSTILE, names=HOSTILE)
    rewind = {"mode": "rewind", "score": {"kind": "largest-surprise"}}
    write_run(folder / "rewind", cut=HOSTILE, take_over=rewind)
    with Grader() as grader:
        runs = [
            read_report("plain", folder / "plain", grader),
            read_report(HOSTILE, folder / "hostile", grader),
            read_report("rewind", folder / "rewind", grader),
        ]
    drawn = ("accuracy", "rate-by-problem", "phases")
    figures = [figure for figure in make_figures(runs) if figure.name in drawn]
    (folder / "report.html").write_text(render_page(runs, figures), encoding="utf-8")
    return (folder / "report.html").as_uri()


@pytest.fixture
def page(driver: WebDriver, address: str) -> Iterator["Page"]:
    page = Page(driver, address)
    page.show()
    yield page
    assert page.log("browser") == [], "the console holds messages"


class Page:
    """The report as it is open in the browser."""

    def __init__(self, driver: WebDriver, address: str) -> None:
        self.driver = driver
        self.address = address

    def show(self, hash_: str = "", width: int = 1280, dark: bool = False) -> None:
        """Load the page anew."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get("about:blank")
        self.driver.get(self.address + hash_)

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since it was last asked for."""
        entries: list[dict[str, Any]] = self.driver.get_log(kind)  # type: ignore[no-untyped-call]
        return entries

    def run(self, script: str) -> Any:  # noqa: ANN401  (whatever JavaScript has)
        return self.driver.execute_script(f"return {script}")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def wait_for(self, script: str) -> None:
        waiting: Callable[[WebDriver], Any] = lambda _: self.run(script)  # noqa: E731
        WebDriverWait(self.driver, 10, poll_frequency=0.02).until(waiting, script)

    def open_chain(self, heading: str) -> None:
        self.wait_for(
            f"document.getElementById('chain-heading').textContent == {json.dumps(heading)}"
        )

    def focused(self) -> str:
        return str(
            self.run(
                "document.activeElement.getAttribute('aria-label') || "
                "document.activeElement.textContent"
            )
        )


def test_it_makes_no_request(page: Page) -> None:
    page.log("performance")
    page.show("#chain=0,1")
    page.open_chain("Problem p0, chain 1")
    events = [json.loads(entry["message"])["message"] for entry in page.log("performance")]
    asked = {
        event["params"]["request"]["url"].partition("#")[0]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    assert asked == {page.address}


def test_hostile_text_does_nothing_and_is_shown(page: Page) -> None:
    page.show("#chain=1,1")
    page.wait_for("!document.getElementById('chain').hidden")
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


def test_the_list_is_filtered_and_sorted(page: Page) -> None:
    count = "document.getElementById('count').textContent"
    assert page.run(count) == "40 of 40 chains, 27 of them right"
    assert page.run("document.querySelectorAll('#rows tr').length") == 25
    page.run("document.getElementById('forth').click()")
    assert page.run("document.querySelectorAll('#rows tr').length") == 15
    page.run("document.getElementById('find').focus()")
    page.press("p9")
    assert page.run(count) == "4 of 4 chains, 0 of them right".replace("of 4", "of 40")
    page.run("document.querySelector('#columns th:nth-child(2) button').click()")
    page.run("document.querySelector('#columns th:nth-child(2) button').click()")
    sort = "document.querySelector('#columns th:nth-child(2)').getAttribute('aria-sort')"
    assert page.run(sort) == "descending"
    rows = "[...document.querySelectorAll('#rows tr')].map(row => row.children[1].textContent)"
    assert page.run(rows) == ["3", "2", "1", "0"]


def test_a_chain_is_read_by_keyboard_alone(page: Page) -> None:
    page.press(Keys.TAB)
    assert page.focused() == "Skip to the content"
    page.press(Keys.ENTER)
    assert page.run("document.activeElement.id") == "main"
    page.run("document.getElementById('taken').focus()")
    for _ in range(60):
        page.press(Keys.TAB)
        if page.focused() == "Read problem p0, chain 0":
            break
    page.press(Keys.ENTER)
    page.open_chain("Problem p0, chain 0")
    assert page.focused() == "Problem p0, chain 0"
    page.press(Keys.TAB)
    assert page.focused() == "Next chain"  # there is no previous one
    page.press(Keys.ENTER)
    page.open_chain("Problem p0, chain 1")
    page.run("document.getElementById('close').focus()")
    page.press(Keys.ENTER)
    assert page.run("document.getElementById('chain').hidden")
    assert page.focused() == "Read problem p0, chain 1"


def test_every_control_has_a_name_and_hidden_ones_are_hidden(page: Page) -> None:
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
    page.show("#chain=0,1")
    page.open_chain("Problem p0, chain 1")
    labels = "[...document.querySelectorAll('.segment p')].map(p => p.textContent)"
    assert page.run(labels)[:3] == [
        "Draft, replaced, 10 tokens, p = 0.480",
        "Target, 7 tokens",
        "Draft, 10 tokens, p = 0.850",
    ]
    styles = (
        "[...document.querySelectorAll('.segment')].slice(0, 3)"
        ".map(part => getComputedStyle(part).borderLeftStyle)"
    )
    assert page.run(styles) == ["dotted", "double", "solid"]
    page.run("history.back()")


def test_only_the_mean_score_is_a_perplexity(page: Page) -> None:
    for run, text in ((0, "score 0.530, perplexity 1.70"), (2, "score 0.520")):
        page.show(f"#chain={run},1")
        page.open_chain("Problem p0, chain 1")
        assert page.run("document.querySelector('h4 span').textContent") == text


def test_what_was_cut_off_is_struck_through_behind_what_was_kept(page: Page) -> None:
    page.show("#chain=2,1")
    page.open_chain("Problem p0, chain 1")
    labels = "[...document.querySelectorAll('.segment p')].map(p => p.textContent)"
    assert page.run(labels) == [
        "Draft, 10 tokens, 4 of them cut off, p = 0.110",
        "Target, 7 tokens",
        "Draft, 10 tokens, p = 0.480",
    ]
    assert page.run("document.querySelectorAll('.segment del').length") == 1
    struck = page.run("document.querySelector('.segment.draft del').textContent")
    assert struck == visible(HOSTILE)
    shown = page.run("document.querySelector('.segment.draft .text').textContent")
    assert shown == "draft: 1 + 1 = 2. " + struck
    line = "getComputedStyle(document.querySelector('%s')).textDecorationLine"
    assert page.run(line % ".segment del") == "line-through"
    assert page.run(line % ".segment.draft .text") == "none"
    parts = "[...document.querySelectorAll('.strip span')]"
    widths = f"{parts}.map(part => [part.className, part.style.flexGrow])"
    assert page.run(widths) == [["draft", "6"], ["cut", "4"], ["target", "7"], ["draft", "10"]]


def test_surprises_are_shown_on_demand(page: Page) -> None:
    page.show("#chain=0,1")
    page.open_chain("Problem p0, chain 1")
    assert page.run("document.getElementById('surprises').hidden")  # none were recorded
    page.show("#chain=2,1")
    page.open_chain("Problem p0, chain 1")
    pieces = "[...document.querySelectorAll('.segment.draft')[0].querySelectorAll('i')]"
    text = "document.querySelector('.segment.draft .text').textContent"
    plain = page.run(text)
    assert page.run(f"{pieces}.length") == 0
    assert not page.run("document.getElementById('scale').checkVisibility()")
    page.run("document.getElementById('heat').focus()")
    page.press(Keys.ENTER)
    assert page.run("document.getElementById('heat').getAttribute('aria-pressed')") == "true"
    assert page.run("document.getElementById('scale').checkVisibility()")
    assert page.run(text) == plain
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
    page.run("document.getElementById('next').click()")
    page.open_chain("Problem p0, chain 2")
    assert page.run(f"{pieces}.length") > 0
    page.run("document.getElementById('heat').click()")
    assert page.run(f"{pieces}.length") == 0


@pytest.mark.parametrize("dark", [False, True])
def test_coloured_text_stands_out_from_its_ground(page: Page, dark: bool) -> None:
    page.show("#chain=2,1", dark=dark)
    page.open_chain("Problem p0, chain 1")
    for selector in (".segment del", "#surprises"):
        assert page.run(f"({_CONTRAST})({json.dumps(selector)})") >= 4.5, selector
    page.run("document.getElementById('heat').click()")
    for selector in (".segment i[title^='7.25']", ".segment i[title^='0.00']"):
        assert page.run(f"({_CONTRAST})({json.dumps(selector)})") >= 4.5, selector


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground(page: Page, dark: bool) -> None:
    """WCAG 2.2, contrast of at least 4.5 to 1 for text."""
    page.show("#chain=0,1", dark=dark)
    page.open_chain("Problem p0, chain 1")
    for selector in (
        "body",
        "a",
        "figcaption",
        "svg text",
        ".segment.target .text",
        ".over",
        ".segment.replaced .text",
        ".segment p",
        ".right",
        "#count",
    ):
        found = page.run(f"({_CONTRAST})({json.dumps(selector)})")
        assert found >= 4.5, (selector, found)


@pytest.mark.parametrize("width", [320, 360, 768])
def test_a_narrow_screen_needs_no_scrolling_sideways(page: Page, width: int) -> None:
    page.show("#chain=1,1", width=width)
    page.wait_for("!document.getElementById('chain').hidden")
    assert page.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_print_has_the_open_chain_and_no_controls(page: Page) -> None:
    page.show("#chain=0,1", dark=True)
    page.open_chain("Problem p0, chain 1")
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown = "getComputedStyle(document.querySelector('%s')).display"
    assert page.run(shown % "#filter") == page.run(shown % "#list") == "none"
    assert page.run(shown % "#chain") == "block"
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


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
