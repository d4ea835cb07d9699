"""Kills commands at random moments, and demands that nothing is lost and nothing is left.

``python tests/kills/campaign.py --kills 200`` prints a table of kills by command and signal. After
each kill: the lines of every ``chains.jsonl`` are still there, byte for byte; no process of the
command lives, but for the servers of a suite after SIGKILL, which its records name; a signal that
can be caught has given its exit code, and no traceback. Started again, at the latest after three
kills, the command comes to the chains, calibrations, grades and figures of an undisturbed one, and
then no process at all is left.
"""
# ruff: noqa: T201

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import yaml

from atts.engines.servers.processes import processes, read_record
from atts.models.model_files import model_path
from atts.store.contents import CALIBRATION, CHAINS, CONFIG
from atts.store.grades import GRADES
from atts.store.run_directory import read_run
from atts.types import Author

SERVER = Path(__file__).with_name("scripted_server.py")
MARK = "ATTS_KILLS"
"""The environment variable by which the processes of a command are found."""
PATIENCE = 10.0
"""Seconds in which what a killed command has started must have ended."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
COMMANDS = ("run", "calibrate", "compare", "suite", "regrade", "report")
AUTHORS: tuple[Author, ...] = ("draft", "target")


class Campaign:
    """A folder with what the commands need, and the servers that they ask."""

    def __init__(self, root: Path, urls: dict[Author, str], seed: int, problems: int) -> None:
        self.root = root
        self.random = random.Random(seed)  # noqa: S311 - moments, not secrets
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self.seconds: dict[str, float] = {}
        """How long a command takes, undisturbed."""
        self.expected: dict[str, object] = {}
        self.kills: Counter[tuple[str, str]] = Counter()
        self.late = 0
        """Signals for which the command had been too fast."""
        self.faults: list[str] = []
        self.early = 0
        """Signals that came before Python had loaded the first line of atts."""
        self._write_inputs(urls, problems)

    def _write_inputs(self, urls: dict[Author, str], problems: int) -> None:
        answers = ("x+1", r"2\sqrt{2}", "7", "x")
        for name in ("problems", "calibration"):
            lines = [
                {"id": f"{name}{i}", "question": f"What is {i}?", "answer": answers[i % 4]}
                for i in range(problems)
            ]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (self.root / f"{name}.jsonl").write_text(text)
        base: dict[str, Any] = {
            "samples": 4,
            "problems": {"source": str(self.root / "problems.jsonl"), "count": None},
            "calibration": {
                "problems": {"source": str(self.root / "calibration.jsonl"), "count": None},
                "samples": 4,
            },
            "turns": {"max_turns": 6, "draft_tokens": 24, "target_tokens": 24},
            # Decides by scores alone, whichever chain is done first.
            "take_over": {"control": "split"},
            "limits": {"chains": 8, "chains_min": 8},
        }
        models: dict[Author, dict[str, Any]] = {
            author: {"engine": "sglang", "model": f"bundled/{author}"} for author in AUTHORS
        }
        served = {author: models[author] | {"urls": [urls[author]]} for author in AUTHORS}
        (self.root / "c.yaml").write_text(yaml.safe_dump(base | served))
        python = self.root / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{SERVER}" "$@"\n')
        python.chmod(0o700)
        pair = {
            author: models[author] | {"server": {"executable": str(python), "port": free_port()}}
            for author in AUTHORS
        }
        suite = {"base": base, "pairs": {"one": pair}, "problems": {"a": {}}}
        (self.root / "s.yaml").write_text(yaml.safe_dump(suite))

    def words(self, command: str, folder: Path) -> list[str]:
        """The command line, which writes below ``folder`` alone."""
        if command == "suite":
            return ["suite", "s.yaml", "--out", str(folder)]
        if command in ("regrade", "report"):
            return [command, str(folder / "run")]
        given = ["-c", "c.yaml", "--out", str(folder)]
        if command == "compare":
            return ["compare", "target-only", "atts", *given]
        if command == "run":
            file = self.root / "calibrate" / CALIBRATION
            given += ["--set", f"take_over.calibration={file}"]
        return [command, *given]

    def prepare(self, commands: tuple[str, ...]) -> None:
        """Run every command undisturbed."""
        needed = [*commands]
        if {"run", "regrade", "report"} & {*commands}:
            needed = ["calibrate", "run", *needed]
        for command in dict.fromkeys(needed):
            folder = self.fresh(command, self.root / command)
            began = time.monotonic()
            done = self.finish(command, folder)
            self.seconds[command] = time.monotonic() - began
            self.expected[command] = self.results(command, folder, done)

    def fresh(self, command: str, folder: Path) -> Path:
        """A folder in which a command has everything to do."""
        folder.mkdir()
        if command in ("regrade", "report"):
            shutil.copytree(self.root / "run", folder / "run")
        return folder

    def start(self, command: str, folder: Path) -> "subprocess.Popen[str]":
        # What is already graded would cost no time.
        environment = {MARK: self.mark, "ATTS_CACHE": str(folder.with_suffix(".cache"))}
        return subprocess.Popen(
            [sys.executable, "-m", "atts", *self.words(command, folder)],
            cwd=self.root,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, command: str, folder: Path) -> str:
        """Let a command come to its end; gives what it printed."""
        process = self.start(command, folder)
        out, err = process.communicate()
        assert process.returncode == 0, f"{command} ended with {process.returncode}:\n{err}"
        assert "Traceback" not in err, err
        self.demand_nobody(set())
        return out

    def results(self, command: str, folder: Path, printed: str) -> object:
        """All of what a command made that does not depend on the time."""
        found: dict[str, object] = {}
        for chains in sorted(folder.rglob(CHAINS)):
            run = chains.parent
            if (run / CONFIG).exists():
                made = [
                    (*chain.key, chain.end, chain.answer, chain.text, decisions_of(chain))
                    for chain in read_run(run).chains
                ]
                found[str(run.relative_to(folder))] = sorted(made, key=str)
        for file in (*folder.rglob(CALIBRATION), *folder.rglob(GRADES)):
            found[str(file.relative_to(folder))] = file.read_bytes()
        if command == "report":
            found["printed"] = printed
        return found

    def strike(self, command: str, folder: Path, number: signal.Signals) -> bool:
        """Kill a command at a random moment and look at what is there then; whether it was hit."""
        before = {path: complete(path) for path in folder.rglob(CHAINS)}
        to_all = self.random.random() < 0.5
        moment = self.random.uniform(0.0, self.seconds[command])
        began = time.monotonic()
        process = self.start(command, folder)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        if process.poll() is None:
            # Terminals and batch systems signal all of a command's processes.
            (os.killpg if to_all else os.kill)(process.pid, number)
        out, err = process.communicate()
        took = time.monotonic() - began
        what = f"{command}, {number.name} after {moment:.2f} s{' to all' * to_all}"
        for path, lines in before.items():
            assert path.read_bytes().startswith(lines), f"{what}: {path} has lost chains"
        owned = servers_of(folder) if number == signal.SIGKILL else set()
        self.demand_nobody(owned, what)
        # What kill -9 leaves alone may say so in its last moment.
        assert number == signal.SIGKILL or "Traceback" not in err, f"{what}:\n{err}"
        if process.returncode == 0:
            self.late += 1
            self.seconds[command] = 0.5 * (self.seconds[command] + took)
            return False
        if process.returncode == -number:
            # Before Python has loaded anything of atts, a signal does what it does to all programs.
            early = number != signal.SIGKILL
            assert not early or not (out or err), f"{what}: not caught:\n{err}"
            self.early += early
        else:
            assert process.returncode == 128 + number, f"{what}: {process.returncode}\n{err}"
        self.kills[command, number.name] += 1
        print(f"{sum(self.kills.values())}: {what}: exit status {process.returncode}", flush=True)
        return True

    def demand_nobody(self, but: set[int], what: str = "done") -> None:
        """Demand that nothing that a command has started lives, but for some."""
        until = time.monotonic() + PATIENCE
        while left := [process for process in self.marked() if process.pid not in but]:
            if time.monotonic() > until:
                told = [describe(process) for process in left]
                for process in left:
                    process.kill()
                raise AssertionError(f"{what}: these are left: {told}")
            time.sleep(0.05)

    def marked(self) -> list[psutil.Process]:
        """The living processes that the commands have started."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if (
                    process.environ().get(MARK) == self.mark
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(process)
        return found

    def series(self, command: str, numbers: list[signal.Signals]) -> None:
        """Kill a command so many times, then let it come to its end."""
        folder = self.root / f"killed-{command}"
        self.remove(folder)
        self.fresh(command, folder)
        for number in numbers:
            for _ in range(20):
                if self.strike(command, folder, number):
                    break
                # It was done: there is nothing left to be killed.
                self.compare(command, folder)
                self.remove(folder)
                self.fresh(command, folder)
            else:
                raise AssertionError(f"{command} is always done before the signal")
        self.compare(command, folder)

    def remove(self, folder: Path) -> None:
        for each in (folder, folder.with_suffix(".cache")):
            shutil.rmtree(each, ignore_errors=True)

    def compare(self, command: str, folder: Path) -> None:
        printed = self.finish(command, folder)
        found, expected = self.results(command, folder, printed), self.expected[command]
        assert found == expected, f"{command} came to other results:\n{found}\n{expected}"


def decisions_of(chain: Any) -> list[tuple[float, bool]]:  # noqa: ANN401 - a Chain
    return [(t.decision.score, t.decision.take_over) for t in chain.turns if t.decision]


def complete(path: Path) -> bytes:
    """The whole lines of a file."""
    return path.read_bytes().rpartition(b"\n")[0]


def servers_of(folder: Path) -> set[int]:
    """The processes that the records of a suite name."""
    records = [
        read_record(path.parent, author)
        for author in AUTHORS
        for path in folder.rglob(f"servers/{author}.json")
    ]
    return {process.pid for record in records if record for process in processes(record)}


def describe(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} {process.status()} {' '.join(process.cmdline())[:120]}"
    return str(process.pid)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(seconds: float = 0.01) -> Iterator[dict[Author, str]]:
    """Two scripted servers, a request of which takes so long."""
    ports: dict[Author, int] = {author: free_port() for author in AUTHORS}
    running = [
        subprocess.Popen(
            [
                *(sys.executable, SERVER, "--model-path", model_path(f"bundled/{author}")),
                *("--port", str(port), "--seconds", str(seconds)),
            ]
        )
        for author, port in ports.items()
    ]
    try:
        for port in ports.values():
            wait_for(lambda port=port: listens(port))  # type: ignore[misc]
        yield {author: f"http://127.0.0.1:{port}" for author, port in ports.items()}
    finally:
        for process in running:
            process.kill()
            process.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.02)


def table(kills: Counter[tuple[str, str]], commands: tuple[str, ...]) -> str:
    names = [number.name for number in SIGNALS]
    rows = [("", *names, "all")]
    for command in commands:
        counts = [kills[command, name] for name in names]
        rows.append((command, *map(str, counts), str(sum(counts))))
    sums = [sum(kills[command, name] for command in commands) for name in names]
    rows.append(("all", *map(str, sums), str(sum(sums))))
    return "\n".join("".join(cell.rjust(10) for cell in row) for row in rows)


def campaign(
    kills: int, seed: int, commands: tuple[str, ...] = COMMANDS, problems: int = 10
) -> Campaign:
    """Kill the commands in turn, each signal as often as the others; what is wrong is collected."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup the commands would rightly ignore it
    with TemporaryDirectory() as folder, serving() as urls:
        found = Campaign(Path(folder), urls, seed, problems)
        found.prepare(commands)
        left = kills
        while left > 0:
            for command in commands:
                numbers = found.random.sample(SIGNALS, min(len(SIGNALS), left))
                try:
                    found.series(command, numbers)
                except AssertionError as error:
                    found.faults.append(str(error))
                    print(f"FAULT: {error}", flush=True)
                left -= len(numbers)
                if left <= 0:
                    break
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=COMMANDS)
    arguments = parser.parse_args()
    began = time.monotonic()
    commands = tuple(arguments.commands)
    found = campaign(arguments.kills, arguments.seed, commands)
    print(table(found.kills, commands))
    print(
        f"{found.early} of the signals came before Python had loaded atts; {found.late} more came "
        f"too late. {time.monotonic() - began:.0f} s, seed {arguments.seed}."
    )
    if found.faults:
        raise SystemExit("\n".join([f"{len(found.faults)} faults:", *found.faults]))
    print("Nothing was lost, nothing left, and nothing came out different.")


if __name__ == "__main__":
    main()
