"""What ``import atts`` offers: the names, when they are loaded, and that docs/python.md runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import atts

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_the_public_names_are_pinned() -> None:
    assert atts.__all__ == [
        "AttsError", "Calibration", "Chain", "Completion", "Config", "Engine",
        "GenerateRequest", "Message", "Model", "Problem", "Sampling", "ScoreRequest", "Scored",
        "Solution", "Solver", "Timings", "Tokenizer", "advise", "asolve", "calibrate", "compare",
        "extract_answer", "load_config", "make_control", "open_models", "p_value",
        "read_records", "read_run", "regrade", "report", "run", "same_answer", "simulate", "solve",
        "tune",
    ]  # fmt: skip
    assert all(getattr(atts, name).__name__ == name for name in atts.__all__)
    assert dir(atts) == sorted(atts.__all__)


def test_the_page_has_every_public_name() -> None:
    page = PAGE.read_text(encoding="utf-8")
    words = {*re.findall(r"\batts\.(\w+)", page), *re.findall(r"`(\w+)", page)}
    assert set(atts.__all__) <= words, set(atts.__all__) - words


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = atts.nothing


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import atts", {"numpy", "pydantic", "asyncio", "torch", "transformers"}),
        ("import atts; [getattr(atts, n) for n in atts.__all__]", {"torch", "transformers"}),
    ],
)
def test_importing_loads_nothing_heavy(code: str, absent: set[str]) -> None:
    found = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "atts" in found.stdout.split()
    assert not absent & set(found.stdout.split())


def test_the_page_runs_as_written(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "\n0.375\n" in done.stdout
    assert done.stdout.endswith(("True\n", "False\n"))
