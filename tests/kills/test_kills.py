"""A few kills at random moments; ``make test-kills`` does many, of every command."""

import json
import signal
import urllib.request
from pathlib import Path

import pytest
from campaign import Campaign, campaign, serving, wait_for


@pytest.mark.timeout(900)
def test_what_is_killed_loses_nothing_leaves_nothing_and_goes_on() -> None:
    found = campaign(kills=6, seed=0, commands=("run",), problems=4)
    assert found.faults == []
    assert sum(found.kills.values()) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_aborts_the_requests_on_the_servers(
    number: signal.Signals, tmp_path: Path
) -> None:
    with serving(seconds=3600.0) as urls:

        def counts() -> dict[str, int]:
            with urllib.request.urlopen(f"{urls['target']}/counts") as reply:  # noqa: S310
                found: dict[str, int] = json.load(reply)
                return found

        stage = Campaign(tmp_path, urls, seed=0, problems=4)
        stage.words = lambda command, folder: [  # type: ignore[method-assign]
            *(command, "-c", "c.yaml", "--set", "method=target-only", "--out", str(folder))
        ]
        with stage.start("run", tmp_path / "run") as process:
            wait_for(lambda: counts()["working"] == 8)
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        assert process.returncode == 128 + number, err
        assert "To go on from here:\n  atts run -c" in err.replace("--config", "-c")
        assert counts() == {"working": 0, "aborted": 8}
        stage.demand_nobody(set())
