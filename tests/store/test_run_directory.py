"""The run directory: resuming, refusing, and surviving kills and full disks."""

import errno
import json
import math
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atts import files
from atts.config import FORMER_DEFAULTS, Config, load_config, parse_config
from atts.conformal.calibration import Calibration
from atts.errors import ConfigError, StoreError
from atts.files import to_jsonl
from atts.store.run_directory import RunStore, check_run, former_defaults, read_run
from atts.types import Chain, ChainKey, Decision, Problem, Segment, Timings, Turn

TIMINGS = Timings(queued=0.0, started=0.1, first_token=0.2, done=0.3)
PROBLEMS = [Problem(id=f"p{n}", question=f"{n} + 1?", answer=str(n + 1)) for n in range(3)]


def config(**changes: object) -> Config:
    return parse_config({"samples": 2, **changes}, "the test")


def chain(problem_id: str = "p0", sample: int = 0, **changes: object) -> Chain:
    segment = Segment(
        author="draft",
        text='1 + 1 = 2\n\n"ünïcode"\r',
        tokens=5,
        finish_reason="length",
        cached_tokens=0,
        timings=TIMINGS,
    )
    decision = Decision(
        score=0.5,
        p_value=0.25,
        take_over=True,
        scored_tokens=4,
        cached_tokens=3,
        timings=TIMINGS,
    )
    whole = Chain(
        problem_id=problem_id,
        sample=sample,
        end="answer",
        answer="2",
        turns=(Turn(segments=(segment,), decision=decision),),
        started=0.0,
        done=1.5,
    )
    return whole.model_copy(update=changes)


def calibration(score: float = 1.0) -> Calibration:
    return Calibration(
        version=2,
        fingerprint=config().calibration_fingerprint(),
        coverage="marginal",
        scores={"c0": ((score, 2.0),)},
    )


def create(directory: Path, *chains: Chain) -> None:
    with RunStore.open(directory, config(), PROBLEMS, None) as store:
        for each in chains:
            store.append(each)


def test_a_run_is_written_and_read_again(tmp_path: Path) -> None:
    chains = [chain("p0", 0), chain("p2", 1), chain("p0", 1)]
    create(tmp_path / "runs" / "one", *chains)

    recorded = read_run(tmp_path / "runs" / "one")

    assert recorded.config == config()
    assert recorded.problems == tuple(PROBLEMS)
    assert recorded.chains == tuple(chains)


def test_config_yaml_is_a_configuration_file(tmp_path: Path) -> None:
    create(tmp_path)
    path = tmp_path / "config.yaml"
    assert load_config(path) == config()
    assert path.read_text().startswith(f"# digest: {config().digest()}\n")


def test_resuming_keeps_the_chains(tmp_path: Path) -> None:
    create(tmp_path, chain("p0", 0))
    with RunStore.open(tmp_path, config(), PROBLEMS, None) as store:
        assert list(store.chains) == [ChainKey("p0", 0)]
        store.append(chain("p1", 1))
    assert [each.key for each in read_run(tmp_path).chains] == [("p0", 0), ("p1", 1)]


def test_the_order_of_the_problems_does_not_matter(tmp_path: Path) -> None:
    create(tmp_path)
    with RunStore.open(tmp_path, config(), PROBLEMS[::-1], None) as store:
        assert store.chains == {}


def test_a_later_line_of_a_chain_supersedes_the_earlier(tmp_path: Path) -> None:
    failed = chain("p0", 0, end="failed", answer=None, error="out of memory")
    create(tmp_path, failed, chain("p1", 0), chain("p0", 0))
    with RunStore.open(tmp_path, config(), PROBLEMS, None) as store:
        assert store.chains[ChainKey("p0", 0)].end == "answer"
    assert read_run(tmp_path).chains == (chain("p1", 0), chain("p0", 0))


@pytest.mark.parametrize("score", [math.inf, -math.inf])
def test_a_score_that_is_not_finite_survives(tmp_path: Path, score: float) -> None:
    turn = chain().turns[0]
    assert turn.decision
    endless = turn.decision.model_copy(update={"score": score})
    odd = chain(turns=(turn.model_copy(update={"decision": endless}),))
    create(tmp_path, odd)
    assert read_run(tmp_path).chains == (odd,)


def test_a_changed_configuration_is_refused_by_key(tmp_path: Path) -> None:
    create(tmp_path)
    changed = config(take_over={"rate": 0.3}, seed=7)
    with pytest.raises(ConfigError) as caught:
        RunStore.open(tmp_path, changed, PROBLEMS, None)
    message = str(caught.value)
    assert "take_over.rate: 0.4 there, 0.3 now" in message
    assert "seed: 0 there, 7 now" in message
    assert "samples" not in message


def test_limits_may_change(tmp_path: Path) -> None:
    create(tmp_path, chain())
    with RunStore.open(tmp_path, config(limits={"chains": 3}), PROBLEMS, None) as store:
        assert len(store.chains) == 1


def test_other_problems_are_refused(tmp_path: Path) -> None:
    create(tmp_path)
    other = [*PROBLEMS[:2], PROBLEMS[2].model_copy(update={"answer": "42"})]
    with pytest.raises(ConfigError, match="1 differ, the first is 'p2'"):
        RunStore.open(tmp_path, config(), other, None)


def more(count: int) -> list[Problem]:
    return [Problem(id=f"q{i}", question=f"{i}?", answer="1") for i in range(count)]


def test_more_samples_and_problems_extend_a_run_in_place(tmp_path: Path) -> None:
    create(tmp_path, chain())
    grown = config(samples=5, problems={"count": 7})
    with RunStore.open(tmp_path, grown, [*more(1), *PROBLEMS], None) as store:
        store.append(chain("q0", 4))
    run = read_run(tmp_path)
    assert run.chains == (chain(), chain("q0", 4))
    assert [problem.id for problem in run.problems] == ["q0", "p0", "p1", "p2"]
    assert run.config == grown
    RunStore.open(tmp_path, grown, [*more(1), *PROBLEMS], None).close()
    with pytest.raises(ConfigError, match="samples: 5 there, 2 now"):
        RunStore.open(tmp_path, config(), [*more(1), *PROBLEMS], None)


def test_fewer_problems_are_refused(tmp_path: Path) -> None:
    create(tmp_path)
    with pytest.raises(ConfigError, match="1 differ, the first is 'p2'"):
        RunStore.open(tmp_path, config(), PROBLEMS[:2], None)


def test_a_corrected_gold_answer_is_told_its_way(tmp_path: Path) -> None:
    create(tmp_path)
    other = [*PROBLEMS[:2], PROBLEMS[2].model_copy(update={"answer": "42"})]
    with pytest.raises(ConfigError, match="atts regrade --problems"):
        RunStore.open(tmp_path, config(), [*other, *more(2)], None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": "sync-ranking"}, "compared with each other"),
        ({"stop": {"when": "majority"}}, "left out because of their number"),
    ],
)
def test_more_samples_that_would_change_finished_chains_are_refused(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    RunStore.open(tmp_path, config(**changes), PROBLEMS, None).close()
    with pytest.raises(ConfigError, match=rf"samples: 2 there, 4 now\n.*{reason}"):
        RunStore.open(tmp_path, config(samples=4, **changes), PROBLEMS, None)
    RunStore.open(tmp_path, config(**changes), [*PROBLEMS, *more(1)], None).close()


def test_a_calibration_does_not_grow(tmp_path: Path) -> None:
    create(tmp_path)
    with pytest.raises(ConfigError, match="samples: 2 there, 4 now"):
        RunStore.open(tmp_path, config(samples=4), PROBLEMS, None, may_grow=False)
    with pytest.raises(ConfigError, match="holds a run of other problems"):
        RunStore.open(tmp_path, config(), [*PROBLEMS, *more(1)], None, may_grow=False)


def test_a_directory_is_checked_without_a_change(tmp_path: Path) -> None:
    check_run(tmp_path / "new", config(), PROBLEMS, None)
    assert not (tmp_path / "new").exists()
    run = tmp_path / "run"
    create(run, chain())
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    check_run(run, config(samples=4), PROBLEMS, None)
    with pytest.raises(ConfigError, match="seed: 0 there, 7 now"):
        check_run(run, config(seed=7), PROBLEMS, None)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    with RunStore.open(run, config(), PROBLEMS, None), pytest.raises(StoreError, match="another"):
        check_run(run, config(), PROBLEMS, None)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match="neither empty nor a run directory"):
        check_run(tmp_path / "other", config(), PROBLEMS, None)


def test_another_calibration_is_refused(tmp_path: Path) -> None:
    RunStore.open(tmp_path, config(), PROBLEMS, calibration()).close()
    RunStore.open(tmp_path, config(), PROBLEMS, calibration()).close()
    with pytest.raises(ConfigError, match="another calibration"):
        RunStore.open(tmp_path, config(), PROBLEMS, calibration(score=9.0))


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff"])
def test_a_corrupt_stored_calibration_is_an_error(tmp_path: Path, damage: bytes) -> None:
    RunStore.open(tmp_path, config(), PROBLEMS, calibration()).close()
    (tmp_path / "calibration.json").write_bytes(damage)
    with pytest.raises(StoreError, match=r"calibration\.json is missing or corrupt"):
        RunStore.open(tmp_path, config(), PROBLEMS, calibration())


@pytest.mark.parametrize(
    "torn",
    [b'{"problem_id":"p1","sa', b"{}", b'{"problem_id": \n', b"\x00\x00\x00\n", b"\n", b"\xff"],
)
def test_a_torn_last_line_is_dropped(
    tmp_path: Path, torn: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    create(tmp_path, chain("p0", 0))
    path = tmp_path / "chains.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)

    assert read_run(tmp_path).chains == (chain("p0", 0),)
    assert path.read_bytes() == whole + torn  # a report changes nothing
    with RunStore.open(tmp_path, config(), PROBLEMS, None) as store:
        assert path.read_bytes() == whole
        store.append(chain("p1", 0))
    assert read_run(tmp_path).chains == (chain("p0", 0), chain("p1", 0))
    assert "dropped line 2" in caplog.text


DEEP = b"[" * 100_000
HUGE = (
    to_jsonl([chain("p1", 0)]).encode().rstrip().replace(b'"tokens":5', b'"tokens":' + b"9" * 400)
)


@pytest.mark.parametrize(
    "damage", [b"{", b"[]", b'{"problem_id": "p0"}', b"\xff", b"\x00" * 9, DEEP, HUGE, b"NaN"]
)
def test_a_line_that_cannot_be_read_is_left_out_and_its_chain_done_again(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    create(tmp_path, chain("p0", 0), chain("p1", 0), chain("p2", 0))
    path = tmp_path / "chains.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], damage, *lines[2:]]))
    before = path.read_bytes()

    assert read_run(tmp_path).chains == (chain("p0", 0), chain("p2", 0))
    assert re.search(r"chains\.jsonl: left out 1 of 3 lines.*the first is line 2: ", caplog.text)
    assert len(caplog.text) < 700
    with RunStore.open(tmp_path, config(), PROBLEMS, None) as store:
        assert path.read_bytes() == before
        assert list(store.chains) == [("p0", 0), ("p2", 0)]
        store.append(chain("p1", 0))
    assert read_run(tmp_path).chains == (chain("p0", 0), chain("p2", 0), chain("p1", 0))


def test_an_empty_line_is_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    create(tmp_path, chain("p0", 0), chain("p2", 0))
    path = tmp_path / "chains.jsonl"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\n\n", 1))
    assert read_run(tmp_path).chains == (chain("p0", 0), chain("p2", 0))
    assert not caplog.records


def test_most_lines_are_not_left_out(tmp_path: Path) -> None:
    create(tmp_path, chain("p0", 0))
    path = tmp_path / "chains.jsonl"
    newer = to_jsonl([chain("p1", 0)]).replace('"end":', '"mood":"good","end":')
    path.write_text(newer * 2 + path.read_text())
    with pytest.raises(StoreError, match=r"2 of 3 lines .*first is line 1: mood: Extra inputs"):
        read_run(tmp_path)
    with pytest.raises(StoreError, match="version of atts"):
        RunStore.open(tmp_path, config(), PROBLEMS, None)


def test_a_line_longer_than_any_record_is_never_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files.read_lines, "__defaults__", (4096,))
    create(tmp_path, chain("p0", 0), chain("p1", 0, answer="9" * 10_000), chain("p2", 0))
    assert read_run(tmp_path).chains == (chain("p0", 0), chain("p2", 0))
    assert "line 2: it is longer than any record" in caplog.text
    size = (tmp_path / "chains.jsonl").stat().st_size
    with RunStore.open(tmp_path, config(), PROBLEMS, None) as store:
        store.append(chain("p1", 1))
    assert (tmp_path / "chains.jsonl").stat().st_size > size


FOREIGN = [chain("nobody", 0), chain("p0", 2), chain("p0").model_copy(update={"sample": -1})]


@pytest.mark.parametrize("foreign", FOREIGN)
def test_a_chain_of_another_run_is_left_out(
    tmp_path: Path, foreign: Chain, caplog: pytest.LogCaptureFixture
) -> None:
    create(tmp_path, chain("p0", 0))
    with (tmp_path / "chains.jsonl").open("a") as file:
        file.write(to_jsonl([foreign]))
    assert read_run(tmp_path).chains == (chain("p0", 0),)
    assert re.search("line 2: (chain .* does not belong to this run|sample: )", caplog.text)


def test_a_record_with_half_of_a_surrogate_pair_is_written(tmp_path: Path) -> None:
    create(tmp_path, chain("p0", 0, end="failed", answer=None, error="the server said \ud800\0"))
    assert read_run(tmp_path).chains[0].error == "the server said \ufffd\0"


@pytest.mark.parametrize("name", ["chains.jsonl", "problems.jsonl", "config.yaml", "grades.jsonl"])
def test_a_pipe_in_place_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    create(tmp_path, chain("p0", 0))
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)  # whoever opens it waits for a writer
    with pytest.raises(StoreError, match=r"a pipe|not a run directory"):
        read_run(tmp_path)


def test_what_a_link_leads_to_is_not_changed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    create(run, chain("p0", 0))
    precious = tmp_path / "precious.txt"
    precious.write_text("no JSON, and not to be cut off")
    (run / "chains.jsonl").unlink()
    (run / "chains.jsonl").symlink_to(precious)
    with pytest.raises(StoreError, match=r"is a link"):
        RunStore.open(run, config(), PROBLEMS, None)
    assert precious.read_text() == "no JSON, and not to be cut off"


def test_a_problem_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    create(tmp_path)
    path = tmp_path / "problems.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(StoreError, match=r"line 4: the problem 'p1' was there before"):
        read_run(tmp_path)


def test_corrupt_problems_are_refused(tmp_path: Path) -> None:
    create(tmp_path)
    (tmp_path / "problems.jsonl").write_text('{"id": "p0"}\n')
    with pytest.raises(StoreError, match=r"problems\.jsonl, line 1 is corrupt: question"):
        RunStore.open(tmp_path, config(), PROBLEMS, None)


def test_a_corrupt_config_is_refused(tmp_path: Path) -> None:
    create(tmp_path)
    (tmp_path / "config.yaml").write_text("samples: [")
    with pytest.raises(StoreError, match="not valid YAML"):
        RunStore.open(tmp_path, config(), PROBLEMS, None)
    with pytest.raises(StoreError, match="not valid YAML"):
        read_run(tmp_path)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("chapter 1")
    with pytest.raises(StoreError, match=r"holds thesis\.tex but no config\.yaml"):
        RunStore.open(tmp_path, config(), PROBLEMS, None)


def test_a_folder_left_by_a_kill_while_it_was_made_is_used(tmp_path: Path) -> None:
    (tmp_path / "problems.jsonl").write_text('{"id": "p')
    (tmp_path / ".config.yaml.1.tmp").write_text("meth")
    create(tmp_path, chain())
    assert read_run(tmp_path).chains == (chain(),)


def test_a_report_on_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a run directory"):
        read_run(tmp_path)
    with pytest.raises(StoreError, match="not a run directory"):
        read_run(tmp_path / "missing")


def test_a_report_without_problems_is_refused(tmp_path: Path) -> None:
    create(tmp_path)
    (tmp_path / "problems.jsonl").unlink()
    with pytest.raises(StoreError, match="cannot read the run directory"):
        read_run(tmp_path)


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot open the run directory"):
        RunStore.open(tmp_path / "file", config(), PROBLEMS, None)


def test_a_failed_open_lets_go_of_the_lock(tmp_path: Path) -> None:
    create(tmp_path)
    with pytest.raises(ConfigError):
        RunStore.open(tmp_path, config(seed=1), PROBLEMS, None)
    create(tmp_path, chain())
    assert read_run(tmp_path).chains == (chain(),)


HOLD = """
import sys, time
from pathlib import Path
from atts.config import parse_config
from atts.store.run_directory import RunStore
from atts.types import Problem
problems = [Problem(id=f"p{n}", question=f"{n} + 1?", answer=str(n + 1)) for n in range(3)]
store = RunStore.open(Path(sys.argv[1]), parse_config({"samples": 2}, "x"), problems, None)
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as first:
        try:
            assert first.stdout
            assert first.stdout.readline() == "held\n"
            with pytest.raises(StoreError, match="another process is working in"):
                create(tmp_path)
        finally:
            first.send_signal(signal.SIGKILL)
            first.wait()
    create(tmp_path, chain())
    assert read_run(tmp_path).chains == (chain(),)


@contextmanager
def full_disk(directory: Path, room: int) -> Iterator[None]:
    """Let chains.jsonl grow by no more than ``room`` bytes: a write is cut short, then fails."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (directory / "chains.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("room", [0, 1, 100])
def test_a_full_disk_loses_only_the_chain_at_hand(tmp_path: Path, room: int) -> None:
    with RunStore.open(tmp_path, config(), PROBLEMS, None) as store:
        store.append(chain("p0", 0))
        with full_disk(tmp_path, room), pytest.raises(StoreError, match="free some space"):
            store.append(chain("p1", 0))
        assert list(store.chains) == [("p0", 0)]
        assert (tmp_path / "chains.jsonl").read_text() == to_jsonl([chain("p0", 0)])
        store.append(chain("p2", 0))
    assert read_run(tmp_path).chains == (chain("p0", 0), chain("p2", 0))


def test_a_torn_line_that_could_not_be_cut_is_cut_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_descriptor: int, _length: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with RunStore.open(tmp_path, config(), PROBLEMS, None) as store:
        store.append(chain("p0", 0))
        with monkeypatch.context() as patch:
            patch.setattr(os, "ftruncate", refuse)
            with full_disk(tmp_path, 50), pytest.raises(StoreError):
                store.append(chain("p1", 0))
        assert read_run(tmp_path).chains == (chain("p0", 0),)
        store.append(chain("p1", 0))
    assert read_run(tmp_path).chains == (chain("p0", 0), chain("p1", 0))


FULL = [chain(problem.id, sample) for problem in PROBLEMS for sample in range(2)]
FULL_BYTES = to_jsonl(FULL).encode()


@settings(max_examples=50, deadline=None)
@given(length=st.integers(0, len(FULL_BYTES)))
def test_a_file_cut_anywhere_resumes_with_a_prefix(length: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        create(directory)
        (directory / "chains.jsonl").write_bytes(FULL_BYTES[:length])
        whole = FULL_BYTES[:length].count(b"\n")
        with RunStore.open(directory, config(), PROBLEMS, None) as store:
            assert list(store.chains.values()) == FULL[:whole]
            for missing in FULL[whole:]:
                store.append(missing)
        assert (directory / "chains.jsonl").read_bytes() == FULL_BYTES


def test_a_line_is_json_that_others_can_read(tmp_path: Path) -> None:
    create(tmp_path, chain())
    (line,) = (tmp_path / "chains.jsonl").read_text().splitlines()
    assert json.loads(line)["turns"][0]["decision"]["p_value"] == 0.25


def test_what_a_command_leaves_out_is_as_the_run_was_made(tmp_path: Path) -> None:
    assert former_defaults(None) == former_defaults(tmp_path) == {}
    former = parse_config({}, "a test", FORMER_DEFAULTS)
    with RunStore.open(tmp_path / "old", former, PROBLEMS, None):
        pass
    assert former_defaults(tmp_path / "old") == FORMER_DEFAULTS
    said = parse_config({"take_over": {"control": "online"}}, "a test", FORMER_DEFAULTS)
    with RunStore.open(tmp_path / "said", said, PROBLEMS, None):
        pass
    kept = former_defaults(tmp_path / "said")
    assert kept["stop"] == FORMER_DEFAULTS["stop"]
    assert kept["take_over"] == {"mode": "continue", "score": {"kind": "mean"}}
    with RunStore.open(tmp_path / "new", Config(), PROBLEMS, None):
        pass
    assert not any(former_defaults(tmp_path / "new").values())
    (tmp_path / "old" / "config.yaml").write_text("{")
    assert former_defaults(tmp_path / "old") == {}, "told where the run is opened"
