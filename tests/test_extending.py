"""docs/extending.md: what it adds works once it is installed, and nothing else does."""

import asyncio
import importlib
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import atts
from atts import registry
from atts.cli.app import app
from atts.config import Config, load_config
from atts.errors import ConfigError
from atts.methods import METHODS
from atts.problems import load_problems
from atts.problems.registry import SETS

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.S | re.M)
(PYPROJECT,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.S | re.M)
ENTRIES = [
    (group, f"{name} = {value}")
    for group, entries in tomllib.loads(PYPROJECT)["project"]["entry-points"].items()
    for name, value in entries.items()
]

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package of one module, with entry points; gone after the test."""
    every = (registry.METHODS, registry.SCORES, registry.PROBLEMS)

    def installed(code: str, entries: list[tuple[str, str]], name: str = "my_atts") -> None:
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        info = tmp_path / f"{name}-0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
        lines = [f"[{group}]\n{entry}\n" for group, entry in entries]
        (info / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        for each in every:
            each.reload()

    yield installed
    monkeypatch.undo()
    SETS.pop("mine", None)
    sys.modules.pop("my_atts", None)
    sys.modules.pop("other", None)
    for each in every:
        each.reload()


def test_each_takes_under_fifteen_lines() -> None:
    assert len(BLOCKS) == 4
    for block in BLOCKS:
        assert sum(bool(line.strip()) for line in block.splitlines()) < 15


def test_what_the_page_adds_works(install: Install, tmp_path: Path) -> None:
    before = Config().digest()
    install("\n".join(BLOCKS), ENTRIES)
    settings = [
        "method=opening", "opening.tokens=7", "take_over.score.kind=median", "draft.device=cpu",
        "problems.source=mine", f"problems.folder={tmp_path}", "samples=1", "turns.max_turns=1",
    ]  # fmt: skip
    (tmp_path / "mine.jsonl").write_text('{"id": "m", "question": "1+1?", "answer": "2"}\n')
    config = load_config(None, settings)
    assert [problem.id for problem in load_problems(config.problems)] == ["m"]

    silent = importlib.import_module("my_atts").Silent()
    models: dict[atts.types.Author, atts.Model] = {
        "draft": atts.Model(silent, atts.Tokenizer.load(config.draft)),
        "target": atts.Model(silent, atts.Tokenizer.load(config.target)),
    }
    asyncio.run(atts.run(config, models, tmp_path / "run"))
    (chain,) = atts.read_run(tmp_path / "run").chains
    assert [s.author for t in chain.turns for s in t.segments] == ["target", "draft"]

    decided = load_config(None, [*settings, "method=atts", "take_over.control=online"])
    asyncio.run(atts.run(decided, models, tmp_path / "decided"))

    # Its options count for its own runs alone.
    assert Config().digest() == before
    assert config.digest() != load_config(None, [*settings, "opening.tokens=8"]).digest()
    shown = CliRunner().invoke(app, ["run", "--show-config", "--set", "opening.tokens=9"])
    assert "opening:\n  tokens: 9\n" in shown.stdout
    with pytest.raises(ConfigError, match=r"did you mean opening\.tokens\?"):
        load_config(None, ["opening.token=3"])
    listed = CliRunner().invoke(app, ["problems", "list"])
    assert "My own problems" in listed.stdout


def test_without_the_package_its_names_are_unknown() -> None:
    assert "opening" not in METHODS
    with pytest.raises(ConfigError) as caught:
        load_config(None, ["method=opening"])
    assert all(repr(name) in str(caught.value) for name in METHODS)
    with pytest.raises(ConfigError, match="opening: unknown key"):
        load_config(None, ["opening.tokens=3"])


@pytest.mark.parametrize(
    ("code", "entry", "message"),
    [
        ("1 / 0", "x = other:METHOD", "x = other:METHOD of other cannot be loaded: ZeroDivision"),
        ("", "x = other:METHOD", "of other cannot be loaded: AttributeError"),
        ("METHOD = 3", "x = other:METHOD", "of other is no Method, but 3"),
        (
            "from atts.methods.method import Method\nMETHOD = Method(name='atts', solve=print)",
            "atts = other:METHOD",
            "is called atts, and there is one of that name already",
        ),
    ],
)
def test_a_broken_package_is_named(install: Install, code: str, entry: str, message: str) -> None:
    install(code, [("atts.methods", entry)], name="other")
    with pytest.raises(ConfigError, match=re.escape(message)):
        Config()
