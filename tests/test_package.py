"""What installers know: one name, and commands that add what is missing to where atts runs."""

import re
import sys
import tomllib
from importlib.metadata import metadata, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from atts.package import DISTRIBUTION, install

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEXTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "Makefile", "pyproject.toml")),
    *(path for each in ("src", "docs", "configs", "benchmarks", "training")
      for path in sorted((ROOT / each).rglob("*"))
      if path.suffix in {".md", ".py", ".yaml"} and "runs" not in path.parts),
]  # fmt: skip
ANOTHER_PROJECT = re.compile(
    r"""\binstall\b[^\n`&;|:]*?[ '"]atts(?=[\s'"`\[=<>~!)]|$)  # pip install atts
    |(?<![\w-])atts\[[a-z]""",
    re.MULTILINE | re.VERBOSE,
)


def test_the_name_is_that_of_the_project() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    assert version(DISTRIBUTION) == PROJECT["version"]


@pytest.mark.parametrize(
    "text",
    [
        "pip install atts", "`pip install atts` is enough", "uv tool install 'atts[inprocess]'",
        "pip install -U atts>=0.2", 'f"needs it: pip install \'atts[plots]\'"', "# or atts[vllm]",
    ],
)  # fmt: skip
def test_another_projects_name_would_be_seen(text: str) -> None:
    assert ANOTHER_PROJECT.search(text)
    assert not ANOTHER_PROJECT.search(text.replace("atts", DISTRIBUTION))


def test_no_page_and_no_message_installs_another_project() -> None:
    assert len(TEXTS) > 100
    for path in TEXTS:
        found = ANOTHER_PROJECT.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{path.relative_to(ROOT)}: {found.group()}"


def test_every_extra_that_is_named_exists() -> None:
    named = rf"(?:{DISTRIBUTION}|'\.)\[([a-z,]+)\]|\binstall\(['\"](\w+)['\"]\)"
    found = {
        extra
        for path in TEXTS
        for groups in re.findall(named, path.read_text(encoding="utf-8"))
        for extra in "".join(groups).split(",")
    }
    assert {"data", "inprocess", "plots"} <= found
    assert found <= set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize(
    ("receipt", "command"),
    [
        (None, "pip install 'atts-lm[plots]'"),
        ("uv-receipt.toml", "uv pip install --python '/the tools/python' 'atts-lm[plots]'"),
        ("pipx_metadata.json", "pipx inject atts-lm 'atts-lm[plots]'"),
    ],
)
def test_what_is_missing_is_added_to_where_it_runs(
    receipt: str | None, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/the tools/python")
    if receipt:
        (tmp_path / receipt).touch()
    assert install("plots") == command


def test_no_requirement_asks_for_an_extra_that_is_not_there() -> None:
    # pip warns at every installation, of an extra whose name is only spelled in another way, too.
    for each in map(Requirement, PROJECT["dependencies"]):
        assert each.extras <= set(metadata(each.name).get_all("Provides-Extra") or ()), each


def test_the_lock_has_every_package_of_the_checks() -> None:
    extras = PROJECT["optional-dependencies"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tools = [each for each in (*extras["test"], *extras["dev"]) if "==" in each]
    locked = {canonicalize_name(each.split("==")[0]) for each in (*lines, *tools) if "==" in each}
    (own,) = (Requirement(each) for each in extras["dev"] if each.startswith(DISTRIBUTION))
    named = [*PROJECT["dependencies"], *extras["dev"], *(r for e in own.extras for r in extras[e])]
    waiting, seen = [Requirement(each) for each in named], {DISTRIBUTION}
    while waiting:
        each = waiting.pop()
        name = canonicalize_name(each.name)
        environments = [{"extra": extra} for extra in each.extras or ("",)]
        if name in seen:
            continue
        seen.add(name)
        assert name in locked, f"{name} is in neither constraints.txt nor pyproject.toml"
        if name != "torch":  # its builds need different packages
            for text in requires(name) or ():
                further = Requirement(text)
                if further.marker is None or any(map(further.marker.evaluate, environments)):
                    waiting.append(further)
    assert {"anyio", "kiwisolver"} <= seen
