"""Tokens a second of training on a CPU, beside the Hugging Face Trainer on the same model and rows.

`python -m benchmarks.pretrain_cpu STORE [--preset P] [--steps N] [--batch B] [--fast]` runs one
after the other in this process, with as many threads as OMP_NUM_THREADS says:

- *Hugging Face*: `Trainer` with `RobertaForMaskedLM`, `DataCollatorForLanguageModeling` and its
  fused AdamW, over the same rows as padded tensors; first, before a process group is there, as it
  would wrap the model for one;
- *ours*: batches drawn and masked from the store, a step of the engine at ZeRO stage 0, which is
  all that one process needs, with all that `python -m pretrain train` does but its log line.

Rates are by the clock and by CPU seconds; the latter stand where other programs run beside.

Same shapes, batch, optimizer, dropout and precision (fp32); the first steps are not counted. Tokens
are real ones. With --fast ours is measured again with torch.compile and, where this CPU has
instructions for it, in bf16 with and without, beside the `Trainer` in bf16 (its `bf16=True`); else
a row says so. --profile lists the costliest operations of our step.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from corpus.recipe import Recipe, Source
from corpus.snapshots import open_snapshot, tokenizer_root
from corpus.training import Pretrain
from pretrain.batches import open_stream
from pretrain.config import data_plan, learning_rate_at, model_shape
from pretrain.dataset import Shares, open_rows
from pretrain.engine import Engine
from pretrain.flops import has_bf16
from pretrain.launch import join, keep_freed_memory
from pretrain.model import make_model

WARMUP = 2  # steps not counted
CPU = torch.device("cpu")


Rates = tuple[float, float]  # tokens a second, tokens a CPU second


def now() -> tuple[float, float]:
    """Read the clock and the CPU seconds of this process."""
    return time.perf_counter(), time.process_time()


def rates_since(start: tuple[float, float], tokens: float) -> Rates:
    """Return the rates of some tokens since then."""
    clock, cpu = now()
    return tokens / (clock - start[0]), tokens / (cpu - start[1])


def config_for(parsed: argparse.Namespace, **settings: Any) -> Pretrain:  # noqa: ANN401
    """Return the settings of our run."""
    fixed = {
        "preset": parsed.preset,
        "max_steps": parsed.steps + WARMUP,
        "warmup_steps": 0,
        "batch_sequences": parsed.batch,
        "microbatch_sequences": parsed.batch,
        "precision": "fp32",
        "zero_stage": 0,
        "dropout": parsed.dropout,
    }
    return Pretrain.model_validate(fixed | settings)


def our_rate(recipe: Recipe, is_profiled: bool = False) -> Rates:
    """Train some steps and return real tokens a second."""
    keep_freed_memory()  # as training does; the Trainer's turn was before
    config, world = recipe.pretrain, join(0, 1, 0)
    snapshot = open_snapshot(recipe.store, recipe.snapshot)
    stream = open_stream(recipe.store, snapshot, data_plan(config, snapshot))
    shares = Shares(config.batch_sequences, 1, config.microbatch_sequences)
    model = make_model(model_shape(config.preset, snapshot), config)
    engine = Engine(model, config, shares, world)
    tokens, start = 0, now()
    profiler = torch.profiler.profile() if is_profiled else None
    for step in range(config.max_steps):
        if step == WARMUP:
            tokens, start = 0, now()
            if profiler:
                profiler.start()
        batches = stream.train_batches(shares, step, 0)
        labels = sum(batch.label_count for batch in batches)
        tokens += sum(batch.token_count for batch in batches)
        engine.set_learning_rate(learning_rate_at(config, step))
        losses = [engine.train(batch, labels, step) for batch in batches]
        assert all(bool(loss.isfinite().all()) for loss in losses)
        engine.gradient_norm()
    rates = rates_since(start, tokens)
    if profiler:
        profiler.stop()
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))
    engine.close()
    return rates


class _Rows(Dataset[dict[str, torch.Tensor]]):
    """The rows of a store as the Trainer takes them."""

    def __init__(self, store: str, count: int) -> None:
        snapshot = open_snapshot(store)
        rows = open_rows(store, snapshot, "train")
        tokens, lengths = rows.gather(np.arange(count, dtype=np.int64) % rows.count)
        self.tokens = torch.from_numpy(tokens).long()
        self.real = (torch.arange(tokens.shape[1]) < torch.from_numpy(lengths)[:, None]).long()

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, at: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[at], "attention_mask": self.real[at]}


class _Clock(TrainerCallback):
    """The time of the last step that is not counted."""

    start = (0.0, 0.0)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        if state.global_step == WARMUP:
            self.start = now()


def trainer_rate(parsed: argparse.Namespace, bf16: bool = False) -> Rates:
    """Train the same by the Trainer and return real tokens a second."""
    snapshot = open_snapshot(parsed.store)
    shape = model_shape(parsed.preset, snapshot)
    model = RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.feedforward_width,
            max_position_embeddings=shape.max_positions,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            hidden_dropout_prob=parsed.dropout,
            attention_probs_dropout_prob=parsed.dropout,
        )
    )
    path = Path(tokenizer_root(parsed.store, snapshot.tokenizer)) / "tokenizer.json"
    specials = {"mask_token": "<mask>", "pad_token": "<pad>", "bos_token": "<s>"}
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(path), eos_token="</s>", **specials
    )
    clock, steps = _Clock(), parsed.steps + WARMUP
    rows = _Rows(parsed.store, steps * parsed.batch)
    with tempfile.TemporaryDirectory() as directory:
        arguments = TrainingArguments(
            output_dir=directory,
            per_device_train_batch_size=parsed.batch,
            max_steps=steps,
            optim="adamw_torch_fused",
            max_grad_norm=0.0,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            bf16=bf16,
        )
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
        trainer = Trainer(model, arguments, collator, rows, callbacks=[clock])
        trainer.train()
    # Batches are shuffled: the mean row stands for those that were counted.
    tokens = float(rows.real.sum()) / len(rows) * parsed.steps * parsed.batch
    return rates_since(clock.start, tokens)


def main() -> int:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parsed = parser.parse_args()

    def recipe(**settings: Any) -> Recipe:  # noqa: ANN401
        snapshot = open_snapshot(parsed.store)
        source = Source(name="none", paths=("none",))
        config = config_for(parsed, **settings)
        return Recipe(
            store=parsed.store, snapshot=snapshot.label, sources=(source,), pretrain=config
        )

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    shape = f"{parsed.preset}, {parsed.batch} rows, {torch.get_num_threads()} threads"
    print(f"{shape}, {torch.backends.cpu.get_cpu_capability()}")
    is_bf16 = parsed.fast and has_bf16(CPU)
    theirs = trainer_rate(parsed)
    lines = {"Hugging Face, fp32": theirs}
    if is_bf16:
        lines["Hugging Face, bf16"] = trainer_rate(parsed, bf16=True)
    lines["ours, fp32"] = our_rate(recipe(), parsed.profile)
    if parsed.fast:
        lines["ours, fp32 + compile"] = our_rate(recipe(compile=True))
    if is_bf16:
        half = {"precision": "bf16", "zero_stage": 1}
        lines["ours, bf16"] = our_rate(recipe(**half))
        lines["ours, bf16 + compile"] = our_rate(recipe(**half, compile=True))
    print(f"{'':22} {'tokens/s':>10} {'ratio':>6} {'a CPU s':>10} {'ratio':>6}")
    for name, rates in lines.items():
        columns = (
            f"{one:10,.0f} {one / other:6.2f}" for one, other in zip(rates, theirs, strict=True)
        )
        print(f"{name:22} {' '.join(columns)}")
    if parsed.fast and not is_bf16:
        print("ours, bf16             not measured: this CPU has no instructions for bf16")
    return 0


if __name__ == "__main__":
    sys.exit(main())
