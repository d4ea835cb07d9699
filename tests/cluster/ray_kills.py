"""Kills workers, nodes, deciders and drivers of runs on a cluster, at random moments.

``python tests/cluster/ray_kills.py --kills 20`` runs ``atts run --ray`` on a cluster of three
nodes, against scripted servers. Nodes that are killed are replaced; a driver that is killed, or
ended by a signal, is started again. After each kill no line of ``chains.jsonl`` may be gone, and in
the end the chains must be those of an undisturbed run without Ray; of an adaptive control, which
decides by what arrived before, all chains must be there, once, within the bound of the control. No
worker may be left.
"""
# ruff: noqa: T201

import argparse
import contextlib
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from campaign import Campaign, complete, serving, wait_for
from nodes import a_cluster, processes

from atts.analysis.graded_run import grade_run
from atts.analysis.summary import summarise
from atts.grading.grader import Grader
from atts.store.contents import CHAINS
from atts.store.run_directory import read_run

KINDS = ("worker", "node", "decider", "driver", "driver, SIGTERM")
SAMPLES = 40


class RayCampaign(Campaign):
    """The same commands, with ``--ray``."""

    cluster: Any = None
    adaptive = False

    def words(self, command: str, folder: Path) -> list[str]:
        """The command line; a run has as many chains as to be killed several times."""
        words = super().words(command, folder)
        if command == "run":
            words += ["--set", f"samples={SAMPLES}"]
        if self.adaptive and command == "run":
            words += ["--set", "take_over.control=adaptive"]
        if self.cluster and command == "run":
            words += ["--ray", self.cluster.address]
        return words

    def kill(self, kind: str, process: "subprocess.Popen[str]") -> bool:
        """Kill one of them; whether there was one."""
        if kind.startswith("driver"):
            process.send_signal(signal.SIGTERM if "SIGTERM" in kind else signal.SIGKILL)
            return True
        if kind == "node":
            node = self.random.choice(list(self.cluster.worker_nodes))
            self.cluster.remove_node(node, allow_graceful=False)
            self.cluster.add_node(num_cpus=1, wait=False)
            return True
        found = processes("Worker" if kind == "worker" else "ControlActor")
        if not found:
            return False
        with contextlib.suppress(Exception):
            self.random.choice(found).kill()
        return True

    def wait_for_workers(self, process: "subprocess.Popen[str]") -> None:
        """Until there is one, or the command is at its end."""
        wait_for(lambda: bool(processes("Worker")) or process.poll() is not None)

    def round(self, kinds: list[str], name: str) -> None:
        """One run, through so many kills."""
        folder = self.fresh("run", self.root / name)
        chains = folder / CHAINS
        left = list(kinds)
        process = self.start("run", folder)
        while left:
            kind = left[0]
            before = complete(chains) if chains.exists() else b""
            self.wait_for_workers(process)
            time.sleep(self.random.uniform(0.0, 4.0))
            if process.poll() is None and self.kill(kind, process):
                left.pop(0)
                self.kills[kind, name] += 1
                print(f"{sum(self.kills.values())}: {kind}", flush=True)
            elif process.poll() is None:
                left.append(left.pop(0))
            if process.poll() is not None or kind.startswith("driver"):
                _, err = process.communicate()
                by_signal = kind == "driver, SIGTERM" and process.returncode == 143
                ended = (0, -signal.SIGKILL)
                assert by_signal or process.returncode in ended, f"{process.returncode}: {err}"
                assert "Traceback" not in err, err
                wait_for(lambda: not processes("Worker"))
                if process.returncode == 0 and left:  # all is made, and something left to kill
                    self.check(folder)
                    self.remove(folder)
                    self.fresh("run", folder)
                    before = b""
                process = self.start("run", folder)
            if chains.exists():
                assert chains.read_bytes().startswith(before), f"{kind}: chains are lost"
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert "Traceback" not in err, err
        self.check(folder)
        wait_for(lambda: not processes("Worker") and not processes("ControlActor"))

    def check(self, folder: Path) -> None:
        """Demand the results of an undisturbed run."""
        if not self.adaptive:
            found = self.results("run", folder, "")
            assert found == self.expected["run"], "other chains than those of an undisturbed run"
            return
        run = read_run(folder)
        assert len(run.chains) == len(run.problems) * SAMPLES
        assert all(chain.end != "failed" for chain in run.chains)
        with Grader() as grader:
            summary = summarise(grade_run(run, grader))
        assert summary.take_over
        for each in summary.take_over.tracked or ():
            assert abs(each.deviation) <= each.bound, each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    with (
        a_cluster(2) as cluster,
        TemporaryDirectory() as folder,
        serving(0.01) as urls,
    ):
        found = RayCampaign(Path(folder), urls, arguments.seed, problems=10)
        found.prepare(("run",))
        found.cluster = cluster
        faults = 0
        half = arguments.kills // 2
        for number, (kills, adaptive) in enumerate(((half, False), (arguments.kills - half, True))):
            possible = [kind for kind in KINDS if adaptive or kind != "decider"]
            kinds = [possible[n % len(possible)] for n in range(kills)]
            found.random.shuffle(kinds)
            found.adaptive = adaptive
            try:
                found.round(kinds, f"killed-{number}")
            except AssertionError as error:
                faults += 1
                print(f"FAULT: {error}", flush=True)
    counts: Counter[str] = Counter()
    for (kind, _), count in found.kills.items():
        counts[kind] += count
    print(", ".join(f"{kind}: {count}" for kind, count in sorted(counts.items())))
    print(f"{time.monotonic() - began:.0f} s, seed {arguments.seed}")
    if faults:
        raise SystemExit(f"{faults} faults")
    print("Nothing was lost, nothing left, and nothing came out different.")


if __name__ == "__main__":
    main()
