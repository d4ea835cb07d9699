"""``atts doctor``, ``atts servers`` and ``atts suite``: what is called, printed and returned."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import Result

from atts.cli import doctor, servers, suite
from atts.cluster import servers as placing
from atts.config import Config, ModelOptions, PromptOptions
from atts.engines.checks import Check
from atts.engines.servers import lifecycle
from atts.engines.servers.keeper import Kept
from atts.engines.servers.placed import (
    PlacedServer,
    Placement,
    forget_placement,
    write_placement,
)
from atts.engines.servers.processes import ServerRecord
from atts.errors import ServerError
from atts.runs.suite import Entry, EntryOutcome
from atts.store.run_directory import lock_run
from atts.types import Author

Invoke = Callable[..., Result]

REMOTE = ["--set", "draft.engine=vllm", "--set", "target.engine=vllm"]


def record(author: Author, folder: Path, pid: int = 2**22 + 1) -> ServerRecord:
    return ServerRecord(
        author=author,
        engine="vllm",
        model="a/model",
        url="http://127.0.0.1:9",
        log=folder / f"{author}.log",
        pid=pid,
        created=0.0,
    )


def play_checks(monkeypatch: pytest.MonkeyPatch, *verdicts: Check) -> None:
    async def check_model(
        author: Author, options: ModelOptions, prompt: PromptOptions
    ) -> AsyncIterator[Check]:
        del options, prompt
        for check in verdicts:
            yield check._replace(subject=author)

    monkeypatch.setattr(doctor, "check_model", check_model)


def test_the_doctor_prints_faults_with_their_mends_and_fails(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_checks(
        monkeypatch,
        Check("", "server", "good", "http://x: fine"),
        Check("", "scoring", "broken", "[red]\x1b[31mno log-probabilities", "another server"),
    )
    result = invoke("doctor")
    assert result.exit_code == 1
    for part in ("draft", "target", "good", "broken", "another server", "packages", "GPUs"):
        assert part in result.stdout
    assert "\x1b" not in result.stdout


def test_what_is_only_poor_is_no_failure(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    play_checks(monkeypatch, Check("", "seeds", "poor", "another text"))
    result = invoke("doctor", "--set", "method=target-only")
    assert result.exit_code == 0
    assert "draft" not in result.stdout


def test_up_says_where_the_servers_are(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    async def up(
        config: Config, authors: tuple[Author, ...], folder: Path, progress: lifecycle.Progress
    ) -> list[ServerRecord]:
        assert config.draft.engine == "vllm"
        progress("draft", "loading weights", 3.0)
        progress("draft", "answers", 4.0)
        return [record(author, folder) for author in authors]

    monkeypatch.setattr(lifecycle, "up", up)
    result = invoke("servers", "up", *REMOTE, "--only", "draft")
    assert result.exit_code == 0
    assert "draft: 3 s, loading weights" in result.stderr
    assert "draft: a/model at http://127.0.0.1:9" in result.stderr
    assert "target" not in result.stderr


def test_a_server_that_dies_is_an_error_with_its_log(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def up(*_: object) -> list[ServerRecord]:
        raise ServerError("ended while starting:\n\x1b[31mCUDA out of memory")

    monkeypatch.setattr(lifecycle, "up", up)
    result = invoke("servers", "up", *REMOTE)
    assert result.exit_code == 1
    assert "CUDA out of memory" in result.stderr
    assert "\x1b" not in result.stderr


def test_in_process_models_and_wrong_names_are_wrong_use(invoke: Invoke) -> None:
    assert invoke("servers", "up").exit_code == 2
    result = invoke("servers", "down", "--only", "drafd")
    assert result.exit_code == 2
    assert "there are draft and target" in result.stderr


def test_status_of_none_and_of_an_ended_one(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("servers", "status")
    assert result.exit_code == 0
    assert "atts servers up" in result.stderr
    folder = tmp_path / "runs" / "servers"
    folder.mkdir(parents=True)
    (folder / "draft.json").write_text(record("draft", folder).model_dump_json())
    result = invoke("servers", "status")
    assert result.exit_code == 1
    assert "ended" in result.stdout
    assert "No server" in invoke("servers", "down").stderr
    assert not (folder / "draft.json").exists()


def test_down_and_status_find_the_servers_of_suites(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for suite_name in ("one", "two"):
        folder = tmp_path / "runs" / suite_name / "pair" / "servers"
        folder.mkdir(parents=True)
        (folder / "draft.json").write_text(record("draft", folder).model_dump_json())
    assert invoke("servers", "status").stdout.count("ended") == 2

    def stop(records: list[ServerRecord], tell: Callable[[str], None]) -> list[ServerRecord]:
        for each in records:
            tell(f"ending {each.log.parent.parents[1].name}")
        return records

    monkeypatch.setattr(lifecycle, "stop", stop)
    lock = lock_run(tmp_path / "runs" / "two")
    told = invoke("servers", "down").stderr
    assert "ending one" in told
    assert "runs/two: a suite is at work there" in told
    assert "ending two" not in told
    lock.release()
    told = invoke("servers", "down").stderr
    assert "ending two" in told
    assert "ending one" not in told


def test_logs_prints_the_end_without_escapes(invoke: Invoke, tmp_path: Path) -> None:
    assert invoke("servers", "logs", "draft").exit_code == 1
    folder = tmp_path / "runs" / "servers"
    folder.mkdir(parents=True)
    (folder / "draft.log").write_text("one\ntwo\n\x1b[31m[bold]three\n")
    result = invoke("servers", "logs", "draft", "-n", 2)
    assert "one" not in result.stdout
    assert "two\n" in result.stdout
    assert "[bold]three" in result.stdout
    assert "\x1b" not in result.stdout


def test_warm_starts_what_is_missing_and_ends_only_that(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    async def up(_: Config, authors: list[Author], *__: object) -> list[ServerRecord]:
        happened.append(f"up {authors}")
        return []

    async def warm_up(options: ModelOptions, chains: int) -> float:
        happened.append(f"warm {options.model} for {chains}")
        return 1.0

    def down(_: Path, authors: list[Author]) -> list[ServerRecord]:
        happened.append(f"down {authors}")
        return []

    monkeypatch.setattr(lifecycle, "up", up)
    monkeypatch.setattr(lifecycle, "down", down)
    monkeypatch.setattr(servers, "warm_up", warm_up)
    settings = ("--set", "target.engine=vllm", "--set", "limits.chains=9")
    assert invoke("servers", "warm", *settings).exit_code == 0
    assert happened == ["up ['target']", "warm bundled/target for 9", "down ['target']"]


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({"pairs": {"one": {}}, "problems": {"sums": {}}}))
    return path


def test_a_suite_lists_its_entries(invoke: Invoke, suite_file: Path) -> None:
    result = invoke("suite", suite_file, "--list")
    assert result.stdout.split() == ["one/sums/target-only", "one/sums/atts-marginal"]


def test_a_suite_with_a_failed_entry_fails_but_shows_its_table(
    invoke: Invoke, suite_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run_suite(entries: list[Entry], folder: Path, *_: object) -> list[EntryOutcome]:
        assert folder == Path("runs/s")
        return [EntryOutcome(entry, None, "out of\nmemory", "failed") for entry in entries]

    monkeypatch.setattr(suite, "run_suite", run_suite)
    result = invoke("suite", suite_file)
    assert result.exit_code == 1
    assert "sums/atts-marginal" in result.stdout
    assert "failed: out of" in result.stdout


def placed(url: str = "http://10.0.0.1:40000") -> Placement:
    return Placement(
        author="draft",
        engine="vllm",
        model="a/model",
        settings="",
        cluster="10.0.0.1:6379",
        group="g",
        servers=tuple(PlacedServer(name=f"g-{n}", node=f"node{n}", url=url) for n in range(3)),
    )


def test_servers_are_placed_on_a_cluster(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def up(
        config: Config, authors: tuple[Author, ...], folder: Path, address: str, progress: object
    ) -> list[Placement]:
        asked.append((config.draft.server.replicas, authors, folder, address))
        del progress
        return [placed()]

    monkeypatch.setattr(placing, "up", up)
    options = [*REMOTE, "--set", "draft.server.replicas=3", "--only", "draft", "--ray", "auto"]
    result = invoke("servers", "up", *options)
    assert result.exit_code == 0, result.output
    assert "draft: a/model at http://10.0.0.1:40000, on node2" in result.stderr
    assert "urls" not in result.stderr
    assert asked == [(3, ("draft",), Path("runs/servers"), "auto")]
    # From elsewhere a run must be told.
    result = invoke("servers", "up", *options, "--dir", "there")
    assert "--set 'draft.urls=[http://10.0.0.1:40000,http" in result.stderr


def test_servers_on_a_cluster_are_shown_read_and_ended(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "runs" / "servers"
    placement = placed()
    write_placement(folder, placement)
    good = Kept("node0", "http://10.0.0.1:40000", 77, True, 2**31, 2, "", "")
    dead = good._replace(is_answering=False, failure="it ended\nwith much to tell")
    found = list(zip(placement.servers, (good, dead, None), strict=True))
    monkeypatch.setattr(placing, "status", lambda *_: found)
    monkeypatch.setattr(placing, "logs", lambda *_: [(placement.servers[0], "its \x1b[2Jlog")])

    def down(where: Path, authors: list[Author], _: object) -> list[Placement]:
        forget_placement(where, authors[0])
        return [placement]

    monkeypatch.setattr(placing, "down", down)
    result = invoke("servers", "status")
    assert result.exit_code == 1
    shown = " ".join(result.stdout.split())
    for part in ("node0", "answers, restarted 2 times", "2.0", "ended: it ended", "does not reply"):
        assert part in shown, part
    result = invoke("servers", "logs", "draft")
    assert "its \\x1b[2Jlog" in result.stdout
    assert invoke("servers", "logs", "draft", "--follow").exit_code == 2
    result = invoke("servers", "down", "--dir", folder)
    assert "Ended the draft's 3 servers, a/model, on the cluster" in result.stderr
    assert "No server was started" in invoke("servers", "status").stderr
