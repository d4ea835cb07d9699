"""``atts solve`` from the command line."""

import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import pytest
from fakes import FakeEngine, byte_tokenizer
from typer.testing import CliRunner

from atts.cli.app import app
from atts.config import Config
from atts.methods.chain import Model, Models
from atts.solving import solver
from atts.types import Author

EVIL = "\x1b]0;mine\x07[red] :heart: So \\boxed{4}"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Models:
    models: Models = {
        "draft": Model(FakeEngine(lambda _: EVIL), byte_tokenizer()),
        "target": Model(FakeEngine(lambda _: "No: \\boxed{5}"), byte_tokenizer()),
    }

    @asynccontextmanager
    async def open_models(_config: Config, _authors: Collection[Author]) -> AsyncIterator[Models]:
        yield models

    monkeypatch.setattr(solver, "open_models", open_models)
    return models


def invoke(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["solve", *arguments])
    assert done.exit_code == code, done.output
    return done.stdout


@pytest.mark.usefixtures("opened")
def test_the_chain_the_votes_and_the_answer() -> None:
    shown = invoke("2 + 2?", "--samples", "3", "--set", "take_over.rate=0")
    lines = shown.splitlines()
    assert "So \\boxed{4}" in lines[0]
    assert {"chain 1: 4 (answer)", "chain 2: 4 (answer)"} <= set(lines)
    assert lines[-2:] == ["   3  4", "4"]
    # Nothing of the text reaches the terminal as a command, or the console as markup.
    assert "\x1b" not in shown
    assert "\\x1b]0;mine\\x07[red] :heart: So" in shown


@pytest.mark.usefixtures("opened")
def test_json_is_all_there_is() -> None:
    found = json.loads(invoke("2 + 2?", "--samples", "2", "--json", "--set", "take_over.rate=0"))
    assert (found["answer"], found["votes"]) == ("4", [{"answer": "4", "chains": [0, 1]}])
    assert [chain["segments"][0]["author"] for chain in found["chains"]] == ["draft", "draft"]
    assert found["chains"][0]["reply"] == EVIL


def test_the_system_message_and_models_are_taken(opened: Models) -> None:
    invoke("2 + 2?", "--samples", "1", "--system", "Be brief.", "--max-tokens", "5")
    draft = opened["draft"].engine
    assert isinstance(draft, FakeEngine)
    prompt, sampling = draft.generated[0]
    assert "Be brief." in prompt
    assert sampling.max_tokens == 5


def test_wrong_use_and_failed_chains_have_their_exit_codes(opened: Models) -> None:
    invoke("2 + 2?", "--draft", "mine", code=2)
    invoke("", code=2)

    def fails(_: str) -> str:
        raise RuntimeError("broken")

    opened["draft"] = Model(FakeEngine(fails), byte_tokenizer())
    assert "no answer" in invoke("2 + 2?", "--samples", "1", code=1)
