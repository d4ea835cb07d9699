"""What the report embeds is what was fetched, and goes into the package."""

import hashlib
import json
from importlib.resources import files
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "vendor"
PINS: dict[str, str] = json.loads((HERE / "sha256.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(PINS))
def test_it_has_the_pinned_hash(name: str) -> None:
    folder = HERE if name.startswith("axe") else files("atts.reports.html") / "vendor"
    assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == PINS[name]


def test_nothing_else_is_embedded() -> None:
    embedded = {file.name for file in (files("atts.reports.html") / "vendor").iterdir()}
    assert embedded == {name for name in PINS if not name.startswith("axe")}
