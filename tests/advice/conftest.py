"""A pair of stand-ins, of which the draft is quick and sometimes wrong."""

import hashlib
import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fakes import FakeEngine, byte_tokenizer

from atts.config import Config, parse_config
from atts.engines.base import Completion, GenerateRequest
from atts.methods.chain import Model, Models
from atts.types import Author, FinishReason


class Writer(FakeEngine):
    """Writes at a pace of its own, and then an answer, which is wrong for some seeds."""

    def __init__(self, wrong: int, token: float) -> None:
        super().__init__()
        self.wrong, self.token = wrong, token

    async def generate(self, request: GenerateRequest) -> Completion:
        sampling = request.sampling
        digest = int(hashlib.sha256(str(sampling.seed).encode()).hexdigest(), 16)
        answer = 5 if digest % 10 < self.wrong else 4
        text = f"{digest:020}"[:20] + f" \\boxed{{{answer}}}"
        self.seconds = 0.001 + self.token * min(30, sampling.max_tokens)
        done = await super().generate(request)
        ids = tuple(text.encode()[: sampling.max_tokens])
        finish: FinishReason = "stop" if len(ids) == len(text) else "length"
        return done._replace(token_ids=ids, finish_reason=finish)


def make_models() -> Models:
    return {
        "draft": Model(Writer(wrong=3, token=0.0001), byte_tokenizer()),
        "target": Model(Writer(wrong=0, token=0.001), byte_tokenizer()),
    }


@pytest.fixture
def planned(tmp_path: Path) -> Config:
    """A configuration with calibration problems of its own."""
    for name in ("evaluated", "calibrating"):
        lines = [{"id": f"{name}{n}", "question": f"{n}?", "answer": "4"} for n in range(6)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return parse_config(
        {
            "problems": {"source": str(tmp_path / "evaluated.jsonl"), "count": 6},
            "calibration": {"problems": {"source": str(tmp_path / "calibrating.jsonl")}},
            "turns": {"max_turns": 6, "draft_tokens": 40, "target_tokens": 40},
            "samples": 2,
        },
        "a test",
    )


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Models]:
    """What stands in for the models of every run and probe."""
    made: list[Models] = []

    @asynccontextmanager
    async def opening(
        _config: Config, _authors: Collection[Author] | None = None
    ) -> AsyncIterator[Models]:
        made.append(make_models())
        yield made[-1]

    monkeypatch.setattr("atts.advice.advising.open_models", opening)
    monkeypatch.setattr("atts.runs.candidates.open_models", opening)
    return made
