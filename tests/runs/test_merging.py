"""Shards of a run, made by themselves and put together, against the run of one process."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from killed_run import make_config, make_models

from atts.config import Config, parse_config
from atts.conformal.calibration import Calibration
from atts.errors import ConfigError, StoreError
from atts.files import atomic_write, to_jsonl
from atts.grading.grader import Grader
from atts.grading.replies import Reply, append_reply, read_ledger
from atts.runs import jobs, merging
from atts.runs.merging import Merged, merge
from atts.runs.setup import open_models, prepare_run
from atts.store.contents import CALIBRATION, CHAINS, SUMMARY
from atts.store.environment import read_environments
from atts.store.grades import GRADES, LEDGER, ChainGrade, text_digest
from atts.store.run_directory import lock_run, read_run
from atts.store.shards import Share
from atts.types import Chain, ChainKey


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """7 problems x 4 chains, with a calibration."""
    problems = tmp_path / "problems.jsonl"
    lines = [{"id": f"p{n}", "question": f"{n} + {n}?", "answer": "4"} for n in range(7)]
    problems.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = make_config(problems, tmp_path / CALIBRATION)
    write_calibration(config, 0.0)
    return config


def write_calibration(config: Config, lowest: float) -> None:
    calibration = Calibration(
        version=2,
        fingerprint=config.calibration_fingerprint(),
        coverage="marginal",
        scores={f"c{n}": ((lowest + 0.2 * n,),) for n in range(20)},
    )
    assert config.take_over.calibration
    atomic_write(config.take_over.calibration, calibration.to_json())


async def make(config: Config, directory: Path, share: Share | None = None) -> Path:
    setup = prepare_run(config)
    setup = setup.share_of(share) if share else setup
    await jobs.run(setup, make_models(0.0), directory)
    return directory


async def make_shards(config: Config, folder: Path, of: int = 3) -> list[Path]:
    shares = [Share(number, of) for number in range(1, of + 1)]
    return [await make(config, folder / f"{share.number}", share) for share in shares]


def put_together(shards: list[Path], target: Path) -> Merged:
    with Grader() as grader:
        return merge(shards, target, grader)


def what_matters(directory: Path) -> dict[ChainKey, object]:
    """The chains of a run without their times."""
    return {chain.key: _timeless(chain.model_dump()) for chain in read_run(directory).chains}


def _timeless(value: object) -> object:
    if isinstance(value, Mapping):
        times = {"timings", "started", "done", "order"}
        return {key: _timeless(each) for key, each in value.items() if key not in times}
    return [_timeless(each) for each in value] if isinstance(value, list | tuple) else value


async def test_shards_make_the_run_of_one_process(config: Config, tmp_path: Path) -> None:
    one = await make(config, tmp_path / "one")
    shards = await make_shards(config, tmp_path / "shards")
    whole = tmp_path / "deep" / "whole"
    merged = put_together(shards[::-1], whole)

    assert what_matters(whole) == what_matters(one)
    assert len(what_matters(whole)) == 28
    for name in ("config.yaml", "problems.jsonl", CALIBRATION):
        assert (whole / name).read_bytes() == (one / name).read_bytes()
    assert {path.name for path in whole.iterdir()} == {path.name for path in one.iterdir()}
    assert (merged.absent, [each.missing for each in merged.shards]) == ([], [[]] * 3)
    assert merged.summary
    assert (whole / SUMMARY).read_text() == merged.summary.model_dump_json(indent=2) + "\n"
    done = [chain.done for chain in read_run(whole).chains]
    assert done == sorted(done)
    assert len(read_environments(whole)) == 3
    # Going on with it finds nothing to do.
    before = (whole / CHAINS).read_bytes()
    await make(config, whole)
    assert (whole / CHAINS).read_bytes() == before


async def test_what_is_missing_is_told_and_made_by_running_on(
    config: Config, tmp_path: Path
) -> None:
    one = await make(config, tmp_path / "one")
    shards = await make_shards(config, tmp_path / "shards")
    lines = (shards[0] / CHAINS).read_bytes().splitlines(keepends=True)
    (shards[0] / CHAINS).write_bytes(b"".join(lines[:-2]) + lines[-1][:40])  # torn, as by kill -9
    lost = {Chain.model_validate_json(line).key for line in lines[-2:]}

    merged = put_together([shards[0], shards[2]], tmp_path / "whole")

    assert merged.absent == [Share(2, 3)]
    assert [set(each.missing) for each in merged.shards] == [lost, set()]
    assert merged.summary is None
    assert not (tmp_path / "whole" / SUMMARY).exists()
    ids = [problem.id for problem in read_run(tmp_path / "whole").problems]
    assert ids == ["p0", "p2", "p3", "p5", "p6"]
    await make(config, tmp_path / "whole")
    assert what_matters(tmp_path / "whole") == what_matters(one)
    assert (tmp_path / "whole" / "problems.jsonl").read_bytes() == (
        one / "problems.jsonl"
    ).read_bytes()


async def test_a_shard_goes_on_where_it_was(config: Config, tmp_path: Path) -> None:
    (shard,) = await make_shards(config, tmp_path, of=1)
    before = what_matters(shard)
    lines = (shard / CHAINS).read_bytes().splitlines(keepends=True)
    (shard / CHAINS).write_bytes(b"".join(lines[:3]))
    await make(config, shard, Share(1, 1))
    assert what_matters(shard) == before
    assert (shard / CHAINS).read_bytes().startswith(b"".join(lines[:3]))


async def test_what_regrading_found_comes_along(config: Config, tmp_path: Path) -> None:
    shards = await make_shards(config, tmp_path / "shards", of=2)
    replies = []
    for shard in shards:
        chain = read_run(shard).chains[0]
        grade = ChainGrade(
            problem_id=chain.problem_id,
            sample=chain.sample,
            text_digest=text_digest(chain),
            original_answer=chain.answer,
            answer="17",
            extracted_by="llm",
            correct=False,
            decided_by="llm",
        )
        (shard / GRADES).write_text(to_jsonl([grade]))
        replies.append(Reply(key=shard.name, content="", prompt_tokens=1, completion_tokens=1))
        append_reply(shard / LEDGER, replies[-1])
    put_together(shards, tmp_path / "whole")
    assert {grade.answer for grade in read_run(tmp_path / "whole").grades.values()} == {"17"}
    assert len(read_run(tmp_path / "whole").grades) == 2
    assert list(read_ledger(tmp_path / "whole" / LEDGER).values()) == replies


async def test_what_are_not_shards_of_one_run_is_refused(config: Config, tmp_path: Path) -> None:
    first, second = await make_shards(config, tmp_path / "shards", of=2)
    whole = await make(config, tmp_path / "one")
    seeded = config.model_copy(update={"seed": 7})
    other_seed = await make(seeded, tmp_path / "seed", Share(2, 2))
    other_division = await make(config, tmp_path / "division", Share(2, 3))
    write_calibration(config, 1.0)
    other_calibration = await make(config, tmp_path / "calibration", Share(2, 2))
    write_calibration(config, 0.0)
    lines = Path(config.problems.source).read_text()
    Path(config.problems.source).write_text(lines.replace("4 + 4", "4 - 4"))
    other_problems = await make(config, tmp_path / "others", Share(2, 2))

    def refused(told: str, *shards: Path, error: type[Exception] = ConfigError) -> None:
        with pytest.raises(error, match=told):
            put_together(list(shards), tmp_path / "to")
        assert not (tmp_path / "to").exists()

    refused(r"different runs:\n  seed: 0 there, 7 here$", first, other_seed)
    refused("only shares of one division", first, other_division)
    refused("decided by another calibration", first, other_calibration)
    refused("over different problems", first, other_problems)
    refused("holds a whole run, not a shard", first, whole)
    refused("not a run directory", tmp_path, first, error=StoreError)
    again = await make(config, tmp_path / "again", Share(2, 2))
    refused("are both shard 2/2", other_problems, again)
    lock = lock_run(second)
    refused(
        "another process is working in .*2; wait for it, or stop it",
        first,
        second,
        error=StoreError,
    )
    lock.release()
    problems = (first / "problems.jsonl").read_text().splitlines(keepends=True)
    (first / "problems.jsonl").write_text("".join(problems[1:]))
    refused("is not what shard 1/2 of 7 problems must be", first, second, error=StoreError)
    (first / "problems.jsonl").write_text(
        "".join(problems[1:] + (second / "problems.jsonl").read_text().splitlines(True)[:1])
    )
    refused("the problem 'p1' is in", first, second, error=StoreError)


async def test_nothing_is_written_over_and_nothing_half(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = await make_shards(config, tmp_path / "shards", of=2)
    with pytest.raises(StoreError, match="is there already"):
        put_together(shards, shards[0])
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is there already"):
        put_together(shards, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    before = sorted(path.name for path in tmp_path.iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merging, "write_environments", full)
    for name in ("whole", "empty"):
        with pytest.raises(StoreError, match=f"cannot write .*{name}: No space left on device"):
            put_together(shards, tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    monkeypatch.undo()
    put_together(shards, tmp_path / "empty")
    assert len(read_run(tmp_path / "empty").chains) == 28


async def test_the_pair_that_comes_with_atts_writes_the_same_in_shards(tmp_path: Path) -> None:
    tree = {
        "problems": {"count": 4},
        "samples": 2,
        "turns": {"max_turns": 3},
        "take_over": {"control": "split", "calibration": str(tmp_path / CALIBRATION)},
    }
    config = parse_config(tree, "the test")
    write_calibration(config, 0.0)
    async with open_models(config) as models:
        await jobs.run(prepare_run(config), models, tmp_path / "one")
        for number in (1, 2):
            setup = prepare_run(config).share_of(Share(number, 2))
            await jobs.run(setup, models, tmp_path / f"shard{number}")
    put_together([tmp_path / "shard1", tmp_path / "shard2"], tmp_path / "whole")
    runs = [read_run(tmp_path / name) for name in ("one", "whole")]
    texts = [
        {chain.key: (chain.text, chain.end, chain.answer) for chain in run.chains} for run in runs
    ]
    assert texts[0] == texts[1]
    decided = [
        {chain.key: [turn.take_over for turn in chain.turns] for chain in run.chains}
        for run in runs
    ]
    assert decided[0] == decided[1]
    assert any(any(each) for each in decided[0].values())
