"""Trains the bundled pair of models: ``python training/train.py --out src/atts/assets``.

Everything derives from ``SEED``: the stories, how they are written out, the tokenizers, the
initial weights and the order of the batches. ``--scale`` shrinks the training for a rehearsal.
The model is passed about as ``Any``: transformers' own types do not fit its own calls.
"""

import argparse
import json
import math
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from corpus import (
    DRAFT_CHAT,
    TARGET_CHAT,
    ChatFormat,
    Corpus,
    build,
    sample_texts,
    token_id,
    train_tokenizer,
)
from reasoning import DraftRecipe, RecipeMaker, target_recipe
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

SEED = 1
CONTEXT = 1024
HEAD = 32
DRAFT_FAULTS = 0.22
"""Share of faulty lines in the draft's training data; sets how often the draft is right."""


@dataclass(frozen=True)
class Plan:
    """What one model is and how it is trained."""

    name: str
    chat: ChatFormat
    recipe: RecipeMaker
    vocabulary: int
    hidden: int
    layers: int
    heads: int
    inner: int
    documents: int
    epochs: int
    rows: int
    """Rows of a batch."""
    rate: float
    """The peak learning rate."""
    seed: int


def plans(draft_faults: float) -> dict[str, Plan]:
    draft = Plan(
        name="draft",
        chat=DRAFT_CHAT,
        recipe=DraftRecipe(draft_faults),
        vocabulary=512,
        hidden=96,
        layers=3,
        heads=3,
        inner=256,
        documents=300_000,
        epochs=5,
        rows=256,
        rate=4e-3,
        seed=SEED,
    )
    target = Plan(
        name="target",
        chat=TARGET_CHAT,
        recipe=target_recipe,
        vocabulary=768,
        hidden=256,
        layers=8,
        heads=4,
        inner=704,
        documents=560_000,
        epochs=4,
        rows=512,
        rate=2e-3,
        seed=SEED + 1,
    )
    return {"draft": draft, "target": target}


def new_model(plan: Plan, tokenizer: Tokenizer) -> Any:  # noqa: ANN401
    chat = plan.chat
    torch.manual_seed(plan.seed)
    special: dict[str, Any] = {
        "bos_token_id": token_id(tokenizer, chat.bos),
        "eos_token_id": token_id(tokenizer, chat.eos),
        "pad_token_id": token_id(tokenizer, chat.pad),
    }
    config = LlamaConfig(
        vocab_size=plan.vocabulary,
        hidden_size=plan.hidden,
        intermediate_size=plan.inner,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        num_key_value_heads=plan.heads,
        head_dim=HEAD,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        **special,
    )
    model: Any = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**special)
    return model


def batches(corpus: Corpus, plan: Plan) -> Iterator[np.ndarray]:
    """Row numbers of one batch after another; rows of a batch have about the same length."""
    rng = np.random.default_rng(plan.seed)
    lengths = np.diff(corpus.starts)
    for _ in range(plan.epochs):
        order = rng.permutation(len(lengths))
        groups = []
        for chunk in np.array_split(order, max(1, len(order) // (plan.rows * 100))):
            by_length = chunk[np.argsort(lengths[chunk], kind="stable")]
            groups += np.array_split(by_length, max(1, len(chunk) // plan.rows))
        for index in rng.permutation(len(groups)):
            yield groups[index]


def train(model: Any, corpus: Corpus, plan: Plan, device: str) -> None:  # noqa: ANN401
    model.to(device).train()
    ids = torch.from_numpy(corpus.ids).to(device)
    trained = torch.from_numpy(corpus.trained).to(device)
    starts = torch.from_numpy(corpus.starts).to(device)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}],
        lr=plan.rate,
        betas=(0.9, 0.98),
        fused=device == "cuda",
    )
    rows = len(corpus.starts) - 1
    steps = plan.epochs * (rows // plan.rows)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    began = time.perf_counter()
    tokens = 0
    for step, batch in enumerate(batches(corpus, plan)):
        chosen = torch.from_numpy(batch).to(device)
        first, last = starts[chosen], starts[chosen + 1]
        longest = int(np.max(corpus.starts[batch + 1] - corpus.starts[batch]))
        longest = -(-longest // 16) * 16
        where = first[:, None] + torch.arange(longest, device=device)
        inside = where < last[:, None]
        where = where.clamp(max=len(ids) - 1)
        inputs = torch.where(inside, ids[where], model.config.pad_token_id).long()
        labels = torch.where(inside & trained[where], inputs, -100)
        # Rows are padded on the right, so causal attention alone keeps the padding out.
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            hidden = model.model(inputs, use_cache=False).last_hidden_state
            picked = labels[:, 1:] != -100
            logits = model.lm_head(hidden[:, :-1][picked])
        loss = cross_entropy(logits.float(), labels[:, 1:][picked])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        tokens += batch.size * longest
        if step % 500 == 0 or step == steps - 1:
            spent = time.perf_counter() - began
            print(
                f"{plan.name}: step {step} of {steps}, loss {loss.item():.4f}, "
                f"{tokens / 1e6:.0f} M tokens, {spent:.0f} s",
                flush=True,
            )


def _rate(step: int, steps: int) -> float:
    """Share of the peak learning rate: a linear rise, then half a cosine down to 2 %."""
    rise = max(1, min(300, steps // 10))
    if step < rise:
        return (step + 1) / rise
    done = min(1.0, (step - rise) / max(1, steps - rise))
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def save(model: Any, plan: Plan, tokenizer: Tokenizer, folder: Path) -> None:  # noqa: ANN401
    """Write a model folder that transformers, vLLM and SGLang load as it is."""
    shutil.rmtree(folder, ignore_errors=True)
    model.to("cpu").to(torch.float16).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    chat = plan.chat
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": chat.bos,
        "eos_token": chat.eos,
        "pad_token": chat.pad,
        "additional_special_tokens": list(chat.extra),
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
        "chat_template": chat.template(),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def make(plan: Plan, folder: Path, scale: float, device: str, processes: int) -> None:
    """Tokenizer, corpus, training and saving of one model."""
    began = time.perf_counter()
    torch.set_float32_matmul_precision("high")
    file = folder / "tokenizer.json"
    texts = sample_texts(plan.recipe, 20_000 if scale >= 1 else 4_000, plan.seed)
    tokenizer = train_tokenizer(plan.chat, plan.vocabulary, texts)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(file))
    model = new_model(plan, tokenizer)
    corpus = build(file, plan.chat, plan.recipe, plan.documents, plan.seed, processes)
    rows = len(corpus.starts) - 1
    print(
        f"{plan.name}: {model.num_parameters()} parameters, {rows} documents, "
        f"{len(corpus.ids) / rows:.0f} tokens each, {corpus.trained.sum() / rows:.0f} "
        f"trained; ready after {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    train(model, corpus, plan, device)
    save(model, plan, tokenizer, folder)
    print(f"{plan.name}: saved after {time.perf_counter() - began:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="parent of the model folders")
    parser.add_argument("--only", choices=("draft", "target"), help="train one model alone")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the documents")
    parser.add_argument("--draft-faults", type=float, default=DRAFT_FAULTS)
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = [
        replace(plan, documents=int(plan.documents * arguments.scale))
        for plan in plans(arguments.draft_faults).values()
        if arguments.only in (None, plan.name)
    ]
    processes = max(1, (os.cpu_count() or 1) // len(chosen))
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(
            target=make,
            args=(
                plan,
                arguments.out / plan.name,
                arguments.scale,
                device,
                processes,
            ),
        )
        for plan in chosen
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a training process failed")


if __name__ == "__main__":
    main()
