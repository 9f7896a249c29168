"""Training of tiny_gpt from the corpus beside this file: same steps, same seed, one thread.

    python -m sample_models.tiny_gpt.train --out /tmp/tiny_gpt

A newcomer's model is slow to train as well, so the training computes it another way: the heads'
weights are joined for each step and go through one fused attention. The parameters are the
model's own, gradients flow into them through the join, and before the first and after the last
step both ways must give equal logits.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from sample_models.tiny_gpt.model import CONTEXT, TinyGPT, encode, loss, read_part, windows

SEED = 0
STEPS = 5500
BATCH = 16
PEAK_RATE = 3e-3
WARMUP_STEPS = 100
WEIGHT_DECAY = 0.1
# Float32 rounding of two orders of summation; logits are of order 10.
LOGITS_TOLERANCE = 1e-3


def fused_logits(model: TinyGPT, ids: Tensor) -> Tensor:
    """What `model(ids)` gives, [batch, tokens, vocabulary], with one attention a layer."""
    x = model.token_embedding(ids) + model.position_embedding.weight[: ids.shape[1]]
    for block in model.blocks:
        x = x + _fused_attention(block.attention, block.attention_norm(x))
        x = x + block.feed_forward(block.feed_forward_norm(x))
    return model.head(model.norm(x))


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up to the peak, then a half cosine down to zero at the last step."""
    if step < WARMUP_STEPS:
        return PEAK_RATE * (step + 1) / WARMUP_STEPS
    done = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return PEAK_RATE * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(model: TinyGPT) -> torch.optim.AdamW:
    """AdamW, with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), fused=True)


def mean_loss(model: TinyGPT, rows: Tensor) -> float:
    """Mean loss in nats per token over the windows, [windows, 257]."""
    with torch.inference_mode():
        losses = [
            loss(fused_logits(model, group[:, :-1]), group[:, 1:]) * len(group)
            for group in rows.split(32)
        ]
    return float(sum(losses)) / len(rows)


def check_equal(model: TinyGPT, ids: Tensor) -> None:
    """Raises RuntimeError where the trained computation is not the model's own."""
    with torch.inference_mode():
        difference = float((model(ids) - fused_logits(model, ids)).abs().max())
    if difference > LOGITS_TOLERANCE:
        raise RuntimeError(
            f"fused and plain logits must agree to {LOGITS_TOLERANCE}, they differ by {difference}."
        )


def train(
    out: Path, *, steps: int = STEPS, total_steps: int = STEPS, evaluate_every: int = 250
) -> TinyGPT:
    """The model after so many steps; writes model.safetensors and training_log.csv into the folder.

    Args:
        out: Folder of the results.
        steps: Steps to take.
        total_steps: Length of the schedule, of which fewer steps may be taken.
        evaluate_every: Steps between two validations.
    """
    from safetensors.torch import save_model

    validation = windows("validation", per_file=12)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        text = torch.cat([encode(source["text"]) for source in _shuffled(read_part("train"))])
        model = TinyGPT()
        _initialize_(model)
        check_equal(model, validation[:2, :-1])
        optimizer = make_optimizer(model)
        log, recent, start = [], [], time.perf_counter()
        for step in range(steps):
            rate = learning_rate(step, total_steps)
            recent.append(_step(model, optimizer, _batch(text), rate))
            if (step + 1) % evaluate_every == 0 or step + 1 == steps:
                losses = sum(recent) / len(recent), mean_loss(model, validation)
                elapsed_s = time.perf_counter() - start
                log.append([step + 1, *(round(each, 4) for each in losses), round(elapsed_s, 1)])
                recent = []
                print(*log[-1], flush=True)
    check_equal(model, validation[:2, :-1])
    out.mkdir(parents=True, exist_ok=True)
    save_model(model, str(out / "model.safetensors"))
    with (out / "training_log.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["step", "train_loss", "validation_loss", "elapsed_s"], *log])
    return model


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of weights and log")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="steps to take of the whole schedule"
    )
    options = parser.parse_args(arguments)
    # Sums run in another order on more threads, so the weights would differ.
    torch.set_num_threads(1)
    train(options.out, steps=options.steps)


def _fused_attention(attention: nn.Module, x: Tensor) -> Tensor:
    heads = list(attention.heads)
    weight = torch.cat(
        [getattr(head, name).weight for name in ("query", "key", "value") for head in heads]
    )
    batch, tokens, width = x.shape
    joined = F.linear(x, weight).view(batch, tokens, 3, len(heads), width // len(heads))
    query, key, value = joined.permute(2, 0, 3, 1, 4)  # each [batch, heads, tokens, head_width]
    gathered = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return attention.projection(gathered.transpose(1, 2).reshape(batch, tokens, width))


def _initialize_(model: TinyGPT) -> None:
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.05)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    for block in model.blocks:
        # What is added to the residual stream starts small, so that depth does not add variance.
        nn.init.normal_(block.attention.projection.weight, std=0.02)
        nn.init.normal_(block.feed_forward.contract.weight, std=0.02)


def _shuffled(sources: list[dict[str, str]]) -> list[dict[str, str]]:
    return [sources[index] for index in torch.randperm(len(sources)).tolist()]


def _batch(text: Tensor) -> Tensor:
    starts = torch.randint(len(text) - CONTEXT, (BATCH,))
    return torch.stack([text[start : start + CONTEXT + 1] for start in starts.tolist()])


def _step(model: TinyGPT, optimizer: torch.optim.AdamW, rows: Tensor, rate: float) -> float:
    for group in optimizer.param_groups:
        group["lr"] = rate
    value = loss(fused_logits(model, rows[:, :-1]), rows[:, 1:])
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return value.item()


if __name__ == "__main__":
    main()
