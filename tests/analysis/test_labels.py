"""Names of runs that stand side by side."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atts.analysis.labels import LONGEST, run_names
from atts.config import parse_config
from atts.store.contents import CONFIG
from atts.store.run_directory import config_yaml


def made(folder: Path, **tree: object) -> Path:
    """A directory with the name that ``atts run`` gives it, and its configuration alone."""
    config = parse_config(tree, "a test")
    directory = folder / f"{config.method}-{config.digest()}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).write_text(config_yaml(config))
    return directory


def atts(rate: float, mode: str = "rewind", **more: object) -> dict[str, object]:
    return {"take_over": {"rate": rate, "mode": mode}, **more}


@pytest.mark.parametrize(
    ("trees", "names"),
    [
        ([atts(0.4), {"method": "target-only"}], ["atts", "target-only"]),
        ([atts(0.4), atts(0.2)], ["atts, 0.4", "atts, 0.2"]),
        (
            [atts(0.4, "replace"), atts(0.4), atts(0.2)],
            ["atts, replace, 0.4", "atts, rewind, 0.4", "atts, rewind, 0.2"],
        ),
        (
            [
                atts(0.4, seed=1, turns={"draft_tokens": 48}),
                atts(0.4, seed=2, turns={"draft_tokens": 16}),
            ],
            ["atts, seed=1, draft_tokens=48", "atts, seed=2, draft_tokens=16"],
        ),
        (
            [{"take_over": {"score": {"kind": kind}}} for kind in ("mean", "largest-surprise")],
            ["atts, mean", "atts, largest-surprise"],
        ),
        (
            [
                {"method": "target-only", "target": {"model": model}}
                for model in ("/models/Qwen3-32B/", "Qwen/QwQ-32B")
            ],
            ["target-only, model=Qwen3-32B", "target-only, model=QwQ-32B"],
        ),
    ],
)
def test_runs_are_named_by_what_differs(
    tmp_path: Path, trees: list[dict[str, object]], names: list[str]
) -> None:
    directories = [made(tmp_path, **tree) for tree in trees]
    found = run_names(directories)
    assert [set(name.split(", ")) for name in found] == [set(name.split(", ")) for name in names]
    assert [name.split(", ")[0] for name in found] == [name.split(", ")[0] for name in names]


def test_names_that_somebody_chose_stay(tmp_path: Path) -> None:
    chosen = made(tmp_path, **atts(0.4)).rename(tmp_path / "mine")
    assert run_names([chosen, made(tmp_path, **atts(0.2))]) == ["mine", "atts"]


def test_shards_are_told_apart(tmp_path: Path) -> None:
    whole = made(tmp_path, **atts(0.4))
    shards = [whole.with_name(f"{whole.name}-shard-{n}-of-2") for n in (1, 2)]
    for shard in shards:
        shard.mkdir()
        (shard / CONFIG).write_text((whole / CONFIG).read_text())
    assert run_names(shards) == ["atts, shard 1 of 2", "atts, shard 2 of 2"]


def test_two_of_one_name_are_told_by_their_paths(tmp_path: Path) -> None:
    first, second = (made(tmp_path / each, **atts(0.4)) for each in ("x", "y"))
    assert run_names([first, second]) == [str(first), str(second)]


def test_a_name_that_would_be_long_has_a_digest(tmp_path: Path) -> None:
    turns = [{"max_turns": n, "draft_tokens": n, "target_tokens": n} for n in (16, 48)]
    found = run_names(
        [
            made(tmp_path, prompt={"system": n * "word"}, seed=n, samples=n + 1, turns=turns[n])
            for n in (0, 1)
        ]
    )
    assert all(name.startswith("atts-") and len(name) == 9 for name in found)
    assert found[0] != found[1]


def test_a_broken_configuration_is_left_to_who_reads_the_run(tmp_path: Path) -> None:
    directories = [made(tmp_path, **atts(rate)) for rate in (0.2, 0.4)]
    (directories[0] / CONFIG).write_text("method: nonsense")
    assert len(set(run_names(directories))) == 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.1, 0.4, 0.7]),
            st.sampled_from(["rewind", "replace", "continue"]),
            st.integers(0, 2),
            st.sampled_from(["atts", "target-only", "draft-only"]),
        ),
        min_size=1,
        max_size=6,
        unique=True,
    ),
    st.randoms(use_true_random=False),
)
def test_names_differ_and_do_not_hang_on_the_order(
    runs: list[tuple[float, str, int, str]], random: object
) -> None:
    with TemporaryDirectory() as folder:
        directories = list(
            {
                made(Path(folder), method=method, seed=seed, **atts(rate, mode))
                for rate, mode, seed, method in runs
            }
        )
        names = dict(zip(directories, run_names(directories), strict=True))
        assert len(set(names.values())) == len(directories)
        assert all(len(name) <= max(LONGEST, len(folder) + 40) for name in names.values())
        random.shuffle(directories)  # type: ignore[attr-defined]
        assert run_names(directories) == [names[each] for each in directories]
