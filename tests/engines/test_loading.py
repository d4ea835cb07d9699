"""Loading a model: what is accepted, what is refused, and that closing frees it."""

import gc
import json
import pickle
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from engines.tiny import END, greedy, plain_greedy, some_ids, tiny_llama
from fakes import FakeEngine
from safetensors.torch import load_file, save_file

from atts.config import ModelOptions, parse_config
from atts.engines.base import GenerateRequest
from atts.engines.inprocess.engine import InProcessEngine, end_of_sequence_ids
from atts.engines.loading import load_engine
from atts.errors import ConfigError
from atts.runs.setup import open_models


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_llama(eos_token_id=END).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def load(folder: Path, device: str = "cpu") -> InProcessEngine:
    return InProcessEngine.load(ModelOptions(model=str(folder), device=device), str(folder))


async def test_a_folder_is_served(folder: Path) -> None:
    engine = load(folder)
    try:
        completion = await engine.generate(GenerateRequest(some_ids(10), greedy(10)))
    finally:
        await engine.aclose()
    assert completion.token_ids == plain_greedy(tiny_llama(eos_token_id=END), some_ids(10), 10)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(folder: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=device):
        load(folder, device)


class Bomb:
    """Unpickling it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.trace,)


def test_weights_in_a_pickle_are_never_read(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Bomb(tmp_path / "trace"), file)
    with pytest.raises(ConfigError, match="safetensors"):
        load(folder)
    assert not (tmp_path / "trace").exists()


def test_a_models_own_code_is_never_run(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')")
    with pytest.raises(ConfigError, match="code"):
        load(folder)
    assert not (tmp_path / "trace").exists()


def cut_in_half(weights: Path) -> None:
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])


def without_a_tensor(weights: Path) -> None:
    tensors = load_file(weights)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights, {"format": "pt"})


def with_a_wrong_shape(weights: Path) -> None:
    tensors = load_file(weights)
    tensors["model.norm.weight"] = torch.ones(5)
    save_file(tensors, weights, {"format": "pt"})


@pytest.mark.parametrize("damage", [cut_in_half, without_a_tensor, with_a_wrong_shape])
def test_damaged_weights_are_refused(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder / "model.safetensors")
    with pytest.raises(ConfigError, match="model"):
        load(folder)


@pytest.mark.parametrize("config", ["{", "[]", "{}"])
def test_a_damaged_configuration_is_refused(folder: Path, config: str) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(ConfigError, match="cannot load"):
        load(folder)


def test_a_model_may_have_several_ends_of_sequence() -> None:
    model = tiny_llama(eos_token_id=END)
    assert end_of_sequence_ids(model) == {END}
    model.generation_config.eos_token_id = [3, 4]
    assert end_of_sequence_ids(model) == {3, 4}
    assert end_of_sequence_ids(tiny_llama()) == frozenset()


async def test_closing_frees_the_model() -> None:
    model = tiny_llama()
    alive = weakref.ref(model)
    engine = InProcessEngine(model, cache_tokens=1000)
    del model
    await engine.generate(GenerateRequest(some_ids(10), greedy(3)))
    await engine.aclose()
    gc.collect()
    assert alive() is None


async def test_targets_of_methods_that_score_are_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool]] = []

    async def load(options: ModelOptions, neighbours: int, scores: bool) -> FakeEngine:  # noqa: ARG001
        asked.append((options.model, scores))
        return FakeEngine()

    monkeypatch.setattr("atts.runs.setup.load_engine", load)
    for method in ("atts", "target-only", "draft-only", "best-of-n", "speculative-thinking"):
        async with open_models(parse_config({"method": method}, "a test")):
            pass
    assert asked == [
        ("bundled/draft", False),
        ("bundled/target", True),
        ("bundled/target", False),
        ("bundled/draft", False),
        ("bundled/draft", False),
        ("bundled/target", True),
        ("bundled/draft", False),
        ("bundled/target", False),
    ]


async def test_llama_cpp_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ModelOptions(model="bundled/draft", engine="llamacpp")
    with pytest.raises(ConfigError, match="engine: llamacpp needs gguf"):
        await load_engine(options)
    options = options.model_copy(update={"gguf": str(tmp_path / "no.gguf")})
    with pytest.raises(ConfigError, match=r"there is no file .*no\.gguf"):
        await load_engine(options)
    (tmp_path / "no.gguf").touch()
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(ConfigError, match=r"pip install 'atts-lm\[llamacpp\]'"):
        await load_engine(options)
