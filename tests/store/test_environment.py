"""What a run records of where it ran."""

import sys
from pathlib import Path

import pytest

from atts.config import Config, parse_config
from atts.errors import StoreError
from atts.package import DISTRIBUTION
from atts.store.environment import (
    ENVIRONMENT,
    read_environments,
    read_speculation,
    record_emptied,
    record_environment,
    record_speculation,
)
from atts.types import Speculation


def test_each_start_adds_an_entry(tmp_path: Path) -> None:
    assert read_environments(tmp_path) == ()
    record_environment(tmp_path, Config())
    record_environment(tmp_path, parse_config({"method": "draft-only"}, "the test"))
    first, second = read_environments(tmp_path)
    assert first.python == ".".join(map(str, sys.version_info[:3]))
    assert first.cpus >= 1
    assert first.memory_bytes > 2**27
    assert {DISTRIBUTION, "numpy", "transformers"} <= set(first.packages)
    assert first.engines == {
        "draft": "inprocess: bundled/draft",
        "target": "inprocess: bundled/target",
    }
    assert list(second.engines) == ["draft"]


def test_it_names_no_machine_and_no_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "somebody-in-particular")
    record_environment(tmp_path, Config())
    text = (tmp_path / ENVIRONMENT).read_text()
    import platform

    assert platform.node() not in text
    assert "somebody-in-particular" not in text


def test_a_corrupt_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / ENVIRONMENT).write_text("[{}]")
    with pytest.raises(StoreError, match=r"environment\.json is corrupt; remove it"):
        read_environments(tmp_path)


def test_versions_recorded_under_a_former_name_of_the_package_are_read() -> None:
    run = Path(__file__).parents[1] / "data/before/suite/bundled/arithmetic/target-only"
    assert [each.packages["atts"] for each in read_environments(run)] == ["0.1.0"]


def test_speculation_is_that_of_all_starts(tmp_path: Path) -> None:
    told = Speculation(passes=3, proposed=12, accepted=7)
    assert read_speculation(tmp_path) == {}
    for speculation in ({"target": told}, {}, {"target": told, "draft": told}):
        record_environment(tmp_path, Config())
        record_speculation(tmp_path, speculation)  # type: ignore[arg-type]
    assert [len(each.speculation) for each in read_environments(tmp_path)] == [1, 0, 2]
    assert read_speculation(tmp_path) == {"target": told + told, "draft": told}


def test_whose_caches_were_emptied_belongs_to_the_newest_start(tmp_path: Path) -> None:
    record_environment(tmp_path, Config())
    record_environment(tmp_path, Config())
    record_emptied(tmp_path, {})
    assert [each.caches_emptied for each in read_environments(tmp_path)] == [{}, {}]
    record_emptied(tmp_path, {"draft": True, "target": False})
    first, second = read_environments(tmp_path)
    assert (first.caches_emptied, second.caches_emptied) == ({}, {"draft": True, "target": False})
