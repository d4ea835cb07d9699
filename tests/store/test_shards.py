"""Shares of a run's problems, and directories that hold one."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.config import Config, parse_config
from atts.errors import ConfigError, StoreError
from atts.store.run_directory import RunStore, check_run, read_run
from atts.store.shards import Shard, Share, read_shard, shards_among
from atts.types import Problem

PROBLEMS = [Problem(id=f"p{n}", question=f"{n} + 1?", answer=str(n + 1)) for n in range(5)]
CONFIG = parse_config({"samples": 2}, "the test")


def create(
    directory: Path, share: Share | None, count: int = 5, config: Config = CONFIG
) -> Shard | None:
    """Make a shard's directory, or go on with it."""
    problems = PROBLEMS[:count]
    shard = Shard.of_run(share, problems) if share else None
    mine = [problems[place] for place in share.positions(count)] if share else problems
    check_run(directory, config, mine, None, shard=shard)
    RunStore.open(directory, config, mine, None, shard=shard).close()
    return shard


@given(st.integers(1, 40), st.integers(1, 200))
def test_shares_are_disjoint_complete_and_balanced(of: int, count: int) -> None:
    shares = [list(Share(number, of).positions(count)) for number in range(1, of + 1)]
    assert sorted(place for share in shares for place in share) == list(range(count))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    # Of more problems each has the ones that it had: it can grow.
    more = [list(Share(number, of).positions(count + 7)) for number in range(1, of + 1)]
    assert all(now[: len(share)] == share for share, now in zip(shares, more, strict=True))


@pytest.mark.parametrize(
    "text", ["", "3", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "a/b", " 1/3", "٣/٨", "1/9999999"]
)
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="from 1/8 to 8/8"):
        Share.parse(text)


def test_a_share_has_a_problem() -> None:
    with pytest.raises(ConfigError, match="the run has 5 problems"):
        Shard.of_run(Share(2, 6), PROBLEMS)


def test_a_directory_says_which_share_it_is(tmp_path: Path) -> None:
    shard = create(tmp_path / "shard", Share(2, 3))
    assert read_shard(tmp_path / "shard") == shard
    assert shard is not None
    assert (shard.share, shard.problems) == (Share(2, 3), 5)
    recorded = read_run(tmp_path / "shard")
    assert [problem.id for problem in recorded.problems] == ["p1", "p4"]
    assert recorded.config.digest() == CONFIG.digest()
    create(tmp_path / "whole", None)
    assert read_shard(tmp_path / "whole") is None


@pytest.mark.parametrize(
    ("held", "now", "told"),
    [
        (Share(1, 3), Share(2, 3), "holds shard 1/3, not shard 2/3"),
        (Share(1, 3), Share(1, 2), "holds shard 1/3, not shard 1/2"),
        (Share(1, 3), None, "holds shard 1/3 of a run: go on with it by --shard 1/3"),
        (None, Share(1, 3), "holds a whole run, not shard 1/3"),
    ],
)
def test_another_share_is_refused(
    tmp_path: Path, held: Share | None, now: Share | None, told: str
) -> None:
    create(tmp_path, held)
    with pytest.raises(ConfigError, match=told):
        create(tmp_path, now)
    create(tmp_path, held)


def test_a_shard_grows_with_its_run_even_where_its_own_problems_do_not(tmp_path: Path) -> None:
    first = create(tmp_path, Share(2, 4), count=4)
    grown = create(tmp_path, Share(2, 4), count=5)
    assert first != grown == read_shard(tmp_path)
    assert [problem.id for problem in read_run(tmp_path).problems] == ["p1"]
    more = parse_config({"samples": 3}, "the test")
    create(tmp_path, Share(2, 4), count=5, config=more)
    assert read_run(tmp_path).config.samples == 3


def test_a_directory_that_was_never_begun_is_anybody_s(tmp_path: Path) -> None:
    create(tmp_path, Share(1, 2))
    (tmp_path / "config.yaml").unlink()  # as if killed before it was written
    (tmp_path / "chains.jsonl").unlink()
    create(tmp_path, None)
    assert read_shard(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", '{"number": 0, "of": 1, "problems": 1, "digest": ""}'])
def test_a_corrupt_file_is_told(tmp_path: Path, text: str) -> None:
    create(tmp_path, Share(1, 2))
    (tmp_path / "shard.json").write_text(text)
    with pytest.raises(StoreError, match="is corrupt; restore it"):
        create(tmp_path, Share(1, 2))
    (tmp_path / "shard.json").unlink()
    (tmp_path / "shard.json").mkdir()
    with pytest.raises(StoreError, match="cannot read"):
        read_shard(tmp_path)


def test_folders_stand_for_the_shards_in_them(tmp_path: Path) -> None:
    folder, alone, whole = tmp_path / "many", tmp_path / "alone", tmp_path / "many" / "whole"
    create(folder / "b", Share(2, 3))
    create(folder / "a", Share(1, 3))
    create(alone, Share(3, 3))
    create(whole, None)
    (tmp_path / "empty").mkdir()
    found = [folder / "a", folder / "b", alone]
    assert shards_among([folder, alone, folder / "a", folder / ".." / "alone"]) == found
    assert shards_among([whole]) == [whole]  # to be told by whoever reads it
    with pytest.raises(StoreError, match="neither a run directory nor a folder with shards"):
        shards_among([folder, tmp_path / "empty"])
    with pytest.raises(StoreError, match="cannot read"):
        shards_among([tmp_path / "nowhere"])
