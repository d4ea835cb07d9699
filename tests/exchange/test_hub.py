"""A run as a dataset of the hub, against a stand-in for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fake_hub import ADDRESS, Hub, a_run, serving

TOKEN = "hf_token"  # noqa: S105 - of the stand-in


def export(folder: Path, hub: Hub, token: str, *words: str) -> tuple[int, str]:
    """The hub's address is read when the hub's library is imported: once a process."""
    command = [sys.executable, "-m", "atts", "export", "run", "me/run", "--to", "hub", *words]
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_TOKEN": token,
        "HF_HUB_OFFLINE": "0",
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    a_run(tmp_path / "run")
    return tmp_path


def test_a_run_is_sent_as_rows_figures_and_a_card_without_addresses(folder: Path) -> None:
    with serving() as hub:
        code, said = export(folder, hub, TOKEN, "--dry-run")
        assert (code, hub.made, hub.files) == (0, [], {}), said
        assert "Would send 2 chains to the dataset me/run; nothing was sent" in said
        code, said = export(folder, hub, TOKEN)
    assert code == 0, said
    assert f"Sent 2 chains to http://127.0.0.1:{hub.server_port}/datasets/me/run" in said
    (made,) = hub.made
    assert made["type"] == "dataset"
    # Versions of the hub's library differ in how they ask for it.
    assert made.get("private") or made.get("visibility") == "private"
    rows = [json.loads(line) for line in hub.files["chains.jsonl"].splitlines()]
    assert [(row["answer"], row["correct"]) for row in rows] == [("4", True), ("5", False)]
    assert yaml.safe_load(hub.files["config.yaml"])["samples"] == 2
    assert json.loads(hub.files["summary.json"])["chains"] == 2
    assert b"| accuracy a chain | 50.0 % (" in hub.files["README.md"]
    for data in hub.files.values():
        assert ADDRESS.encode() not in data
        assert str(folder).encode() not in data


@pytest.mark.parametrize(
    ("token", "status", "told"),
    [("hf_other", 200, "hf auth login"), (TOKEN, 500, "did not take me/run (HTTP 500)")],
)
def test_what_the_hub_refuses_is_told_in_a_line(
    token: str, status: int, told: str, folder: Path
) -> None:
    with serving() as hub:
        hub.status = status
        code, said = export(folder, hub, token)
    assert code != 0
    assert told in said.replace("\n", " ")
    assert "Traceback" not in said
    assert token not in said
