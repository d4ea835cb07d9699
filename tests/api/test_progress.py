"""Progress of a call: shown where somebody can see it."""

import sys
from types import ModuleType
from typing import Any

import pytest

from atts.api.progress import showing


class Handle:
    def __init__(self, shown: list[Any]) -> None:
        self.shown = shown

    def update(self, content: dict[str, str], raw: bool) -> None:
        assert raw
        self.shown.append(content["text/plain"])


def test_a_notebook_has_a_line_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []

    def display(content: dict[str, str], raw: bool, display_id: bool) -> Handle:
        assert raw
        assert display_id
        shown.append(content["text/plain"])
        return Handle(shown)

    module = ModuleType("IPython.display")
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr("rich.console.Console.is_jupyter", True, raising=False)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    with showing(None, 2) as count:
        count()
        count()
    assert shown == [
        "solving: 0 of 2 chains",
        "solving: 1 of 2 chains",
        "solving: 2 of 2 chains",
        "",
    ]


def test_where_nobody_looks_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    for wanted in (None, False):
        with showing(wanted, 2) as count:
            count()
    assert capsys.readouterr() == ("", "")


def test_what_is_wanted_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with showing(True, 2) as count:
        count()
        count()
    assert "2/2" in capsys.readouterr().err
