"""The documentation: what it tells to type, look at and follow is there."""

import importlib
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import atts
from atts.cli.app import app
from atts.config import Config, load_config

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "training" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
INDENTED = re.compile(r"(?:(?<=\n\n)|(?<=\A))((?: {4}.*\n|\n)+)")
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)*=.*")
NAMED = re.compile(r"(?<![\w./~-])[\w-]+/[\w+./-]*")
FOLDERS = {"benchmarks", "configs", "deploy", "docs", "src", "tests", "training"}


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Language and text of each block of code."""
    text = text_of(page)
    yield from FENCED.findall(text)
    for block in INDENTED.findall(FENCED.sub("", text)):
        yield "", re.sub(r"^ {4}", "", block, flags=re.M)


def commands() -> Iterator[Any]:
    """Every command line of ``atts`` in a block, and in a span."""
    for page in PAGES:
        lines: list[str] = []
        for language, block in blocks(page):
            if language in {"", "bash", "console"}:
                lines += re.sub(r" *\\\n *", " ", block).splitlines()
        lines += SPAN.findall(FENCED.sub("", text_of(page)))
        for line in lines:
            if found := re.match(r"\s*(?:[A-Z_]+=\S+ )*atts ((?:-|[a-z]).*)", line):
                name = f"{page.relative_to(ROOT)}: {line.strip()[:70]}"
                yield pytest.param(found[1], id=name)


def parsed(line: str) -> tuple[str, list[str]]:
    """The words of a command line, read by the command that it names: an unknown option raises."""
    words = shlex.split(re.sub(r"\[(-[^]]*)\]", r"\1", line), comments=True)
    if words[-1].startswith("--"):
        words.append("VALUE")  # in a text, an option may stand alone
    command: Any = typer.main.get_command(app)
    context = command.make_context("atts", [], resilient_parsing=True)
    while hasattr(command, "resolve_command") and words and not words[0].startswith("-"):
        name, command, words = command.resolve_command(context, words)
        if command is None:
            raise LookupError(f"No such command: {name}")
        context = command.make_context(name, [], resilient_parsing=True, parent=context)
    context.resilient_parsing = False
    command.make_parser(context).parse_args(args=list(words))
    if context.parent is not None and not hasattr(command, "resolve_command"):
        values = [re.sub(r"\|.*", "", word) for word in words]  # of --format md|csv, one
        try:
            command.make_context(context.info_name, values, parent=context.parent)
        except Exception as error:
            if "is not one of" in str(error):  # all else is about files that are not here
                raise
    return context.command_path, words


@pytest.mark.parametrize("line", list(commands()))
def test_a_command_line_is_understood(line: str) -> None:
    _, words = parsed(line)
    settings = []
    for word in words:
        _, colon, own = word.partition(":")
        candidates = own.split(",") if colon and "=" in own else [word]
        settings += [each for each in candidates if SETTING.fullmatch(each)]
        if word.startswith("configs/"):
            assert (ROOT / word).is_file(), word
    load_config(None, [each for each in settings if not re.search(r"\.\.\.|=[A-Z]$", each)])


def test_an_unknown_option_and_an_unknown_command_are_noticed() -> None:
    for line in ("run --nothing", "servers nothing", "nothing"):
        with pytest.raises(Exception, match="No such"):
            parsed(line)
    with pytest.raises(Exception, match="'pdf' is not one of"):
        parsed("report tests --format pdf")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_holds_what_it_names(page: Path, tmp_path: Path) -> None:
    text = text_of(page)
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.M))
    code = "\n".join([*SPAN.findall(text), *(block for _, block in blocks(page))])
    made = " ".join(re.findall(r"(?:^|`)make ((?:[a-z][a-z-]+ ?)+)", code, re.M)).split()
    assert set(made) <= targets
    missing = {
        name
        for name in NAMED.findall(code)
        if not (ROOT / name).exists()
        and (
            name.split("/")[0] in FOLDERS
            or (
                name.endswith(".py")
                and (ROOT / "src" / "atts" / name).parent.is_dir()
                and not (ROOT / "src" / "atts" / name).is_file()
            )
        )
    }
    assert not missing
    for language, block in blocks(page):
        if language == "python":
            compile(block, page.name, "exec")
        elif language == "toml":
            tomllib.loads(block)
        elif language == "yaml":
            config = tmp_path / "block.yaml"
            config.write_text(block, encoding="utf-8")
            load_config(config, [])


def test_what_is_named_of_the_package_is_there() -> None:
    """Modules and what they hold, and every function of ``import atts``."""
    groups = {"atts.methods", "atts.scores", "atts.problems", "atts.events"}  # of entry points
    groups.add("atts.author")  # of a reply of atts serve
    for page in PAGES:
        code = [*SPAN.findall(text_of(page)), *(block for _, block in blocks(page))]
        names = set(re.findall(r"(?<![\w./~-])atts(?:\.\w+)+(?![\w./=-])", "\n".join(code)))
        for name in names - groups:
            module: Any = atts
            for part in name.split(".")[1:]:
                try:
                    module = getattr(module, part)
                except AttributeError:
                    module = importlib.import_module(f"{module.__name__}.{part}")


def test_what_is_named_of_the_configuration_is_there() -> None:
    tree: dict[str, Any] = Config().model_dump(mode="json")
    every: set[str] = set()

    def walk(node: object, path: tuple[str, ...]) -> None:
        every.update(".".join(path[start:]) for start in range(len(path)))
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, (*path, key))

    walk(tree, ())
    groups = {name.split(".")[0] for name in every if "." in name}
    for page in PAGES:
        for span in SPAN.findall(FENCED.sub("", text_of(page))):
            key = re.match(r"([a-z_]+(?:\.[a-z_]+)+)(?=$|[=:, ])", span)
            if key and key[1].split(".")[0] in groups:
                file = key[1].rpartition(".")[2] in {"json", "jsonl", "md", "py", "yaml", "sqlite"}
                assert file or key[1] in every, f"{page.name}: {key[1]}"


def test_the_options_of_a_script_are_in_it() -> None:
    for page in PAGES:
        code = "\n".join([*SPAN.findall(text_of(page)), *(block for _, block in blocks(page))])
        for name, rest in re.findall(
            r"((?:benchmarks|training)/[\w/]+\.py)((?:[^\n#|;]|\\\n)*)", code
        ):
            script = text_of(ROOT / name)
            for option in re.findall(r"(?<=\s)(--[a-z][a-z-]*)", rest):
                names = {f'"{option}"', f" {option.removeprefix('--').replace('-', '_')}: "}
                assert any(each in script for each in names), f"{page.name}: {name} {option}"


FIGURE = re.compile(
    r"(?<![\w.,])\d[\d,]*(?:\.\d+)? (?:%|s|ms|us|MB|MiB|x|nats|points)(?!\w)"
    r"|\(-?\d+\.\d+(?:\.\.|-)\+?-?\d+\.\d+\)|\b0\.\d\d+\b"
)
SOURCE = re.compile(r"(?:benchmarks|tests|training)/\w+|(?:`|^ *)(?:python|atts|make) [a-z]", re.M)
UNSOURCED = {
    ("docs/programs.md", "Verdicts"): "limits",
    ("docs/real.md", "The rate"): "its other sections name the files",
    ("docs/simulation.md", "The workload"): "by the comment in src/atts/simulation/workload.py",
    ("docs/statistics.md", "Where exchangeability ends"): "by the formula above them",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_beside_figures_stands_what_makes_them(page: Path) -> None:
    """A file or a command, in the same section."""
    for section in re.split(r"^(?=##? )", text_of(page), flags=re.M):
        title, _, body = section.partition("\n")
        figures = FIGURE.findall(FENCED.sub("", body))
        if len(figures) > 1 and (str(page.relative_to(ROOT)), title.strip("# ")) not in UNSOURCED:
            assert SOURCE.search(body), (title, figures)


def anchors(page: Path) -> set[str]:
    """As GitHub and the site make them of headings."""
    headings = re.findall(r"^#+ +(.+)$", FENCED.sub("", text_of(page)), re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCED.sub("", text_of(page))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        goal = (page.parent / path).resolve() if path else page
        assert goal.exists(), link
        assert not anchor or anchor in anchors(goal), link


def test_the_table_of_the_readme_is_that_of_the_runs() -> None:
    runs = json.loads(text_of(ROOT / "benchmarks" / "real" / "report.json"))["runs"]
    whole = runs["target-only"]["a_chain"]["target_written"]
    rows = re.findall(
        r"^\| (.+) \| ([\d.]+ \(.+\)) \| (\d+) \|$", text_of(ROOT / "README.md"), re.M
    )
    told = [(accuracy, share) for _, accuracy, share in rows]
    names = (
        "target-only", "d16-t4-07", "best-0.7-t16-grow", "rewind-largest-0.7", "rewind-coin-0.7",
        "continue-mean-0.4", "draft-only",
    )  # fmt: skip
    assert told == [
        (
            "{estimate:.1f} ({low:.1f}-{high:.1f})".format(
                **{key: 100 * value for key, value in runs[name]["accuracy"].items()}
            ),
            f"{100 * runs[name]['a_chain']['target_written'] / whole:.0f}",
        )
        for name in names
    ]


def leaves(node: object) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, list):
        for each in node:
            yield from leaves(each)
    elif isinstance(node, dict):
        yield from leaves(list(node.values()))


def test_every_page_is_on_the_path_of_one_reader() -> None:
    """The site has the paths as its tabs, the start page as its paragraphs, in the same order."""
    tree = yaml.safe_load(re.sub(r"!!python\S+", "", text_of(ROOT / "mkdocs.yml")))
    start, *tabs = tree["nav"]
    assert [next(iter(tab)) for tab in tabs] == ["Try", "Serve", "Evaluate", "Extend", "Understand"]
    pages = [str(page.relative_to(ROOT / "docs")) for page in sorted((ROOT / "docs").rglob("*.md"))]
    assert sorted([start, *leaves(tabs)]) == sorted(pages), "mkdocs.yml"
    paths = re.split(r"^\*\*(\w+)\.\*\*", text_of(ROOT / "docs" / "index.md"), flags=re.M)[1:]
    methods = LINK.findall(text_of(ROOT / "docs" / "methods" / "README.md"))
    for (name, links), tab in zip(zip(paths[::2], paths[1::2], strict=True), tabs, strict=True):
        told = LINK.findall(links)
        assert told == [page for page in leaves(tab[name]) if page in told], name
        rest = [page for page in leaves(tab[name]) if page not in told]
        assert all(page.removeprefix("methods/") in methods for page in rest), name


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.name)
def test_a_page_begins_with_whom_it_is_for(page: Path) -> None:
    first = text_of(page).split("\n\n")[1]
    assert first.startswith("For whoever ")
