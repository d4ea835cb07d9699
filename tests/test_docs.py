"""The documentation: what it tells to type, look at and follow is there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from atts.cli.app import app
from atts.config import load_config

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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_holds_what_it_names(page: Path, tmp_path: Path) -> None:
    text = text_of(page)
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.M))
    code = "\n".join([*SPAN.findall(text), *(block for _, block in blocks(page))])
    assert set(re.findall(r"(?:^|`)make ([a-z][a-z-]+)", code, re.M)) <= targets
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
        elif language == "yaml":
            config = tmp_path / "block.yaml"
            config.write_text(block, encoding="utf-8")
            load_config(config, [])


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


def test_the_navigation_of_the_site_has_every_page() -> None:
    tree = yaml.safe_load(re.sub(r"!!python\S+", "", text_of(ROOT / "mkdocs.yml")))

    def leaves(node: object) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        elif isinstance(node, list):
            for each in node:
                yield from leaves(each)
        elif isinstance(node, dict):
            yield from leaves(list(node.values()))

    pages = [str(page.relative_to(ROOT / "docs")) for page in sorted((ROOT / "docs").rglob("*.md"))]
    assert sorted(leaves(tree["nav"])) == sorted(pages), "mkdocs.yml"
