"""Run by test_jobs in a process of its own, to be killed: a run over slow scripted engines."""

import asyncio
import hashlib
import sys
from pathlib import Path

from fakes import FakeEngine, byte_tokenizer

from atts.config import Config, parse_config
from atts.engines.base import Completion, GenerateRequest
from atts.methods.chain import Model, Models
from atts.runs import jobs


class SeededEngine(FakeEngine):
    """Writes what its seed says, and an answer in every third segment or so."""

    async def generate(self, request: GenerateRequest) -> Completion:
        completion, sampling = await super().generate(request), request.sampling
        digest = hashlib.sha256(str(sampling.seed).encode()).hexdigest()
        text = b"\\boxed{4}" if digest[0] in "01234" else digest[: sampling.max_tokens].encode()
        return completion._replace(token_ids=tuple(text), finish_reason="length")


def make_models(seconds: float) -> Models:
    return {
        "draft": Model(SeededEngine(seconds=seconds), byte_tokenizer()),
        "target": Model(
            SeededEngine(seconds=seconds, logprob=lambda text: -(len(set(text)) % 5) - 1.0),
            byte_tokenizer(),
        ),
    }


def make_config(problems: Path, calibration: Path) -> Config:
    return parse_config(
        {
            "problems": {"source": str(problems), "count": None},
            "samples": 4,
            "turns": {"max_turns": 6, "draft_tokens": 9, "target_tokens": 9},
            "take_over": {"control": "split", "calibration": str(calibration)},
            "limits": {"chains": 4},
        },
        "a test",
    )


if __name__ == "__main__":
    problems, calibration, directory = map(Path, sys.argv[1:])
    config = make_config(problems, calibration)
    asyncio.run(jobs.run(config, make_models(seconds=0.01), directory))
