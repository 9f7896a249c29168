"""Training of text_classifier from the data beside this file: same seed, one thread.

    python -m sample_models.text_classifier.train --out /tmp/text_classifier

It ends where the validation loss has stopped falling, and keeps the weights of its lowest point.
"""

from __future__ import annotations

import argparse
import copy
import csv
import time
from pathlib import Path

import torch
from torch import Tensor

from sample_models.text_classifier.model import (
    VOCABULARY,
    TextClassifier,
    class_ids,
    encode,
    loss,
    read_part,
)

SEED = 0
BATCH = 32
MOST_STEPS = 6000
PEAK_RATE = 1e-3
WARMUP_STEPS = 100
WEIGHT_DECAY = 0.1
EVALUATE_EVERY = 100
# So many validations in a row without a lower loss end the training.
PATIENCE = 5
# Of the tokens, replaced by a random one, so that no single word decides.
REPLACED = 0.2
FIRST_WORD = 3  # ids below are [PAD], [CLS] and [UNK]


def train(
    out: Path, *, most_steps: int = MOST_STEPS, evaluate_every: int = EVALUATE_EVERY
) -> TextClassifier:
    """The model with the lowest validation loss; writes model.safetensors and training_log.csv.

    Args:
        out: Folder of the results.
        most_steps: Steps at most, where the loss still falls.
        evaluate_every: Steps between two validations.
    """
    from safetensors.torch import save_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        rows, validation = read_part("train"), read_part("validation")
        inputs, labels = encoded(rows)
        model = TextClassifier()
        for embedding in (model.token_embedding, model.position_embedding):
            # The default of 1 is so large that steps of the peak rate hardly move a word.
            torch.nn.init.normal_(embedding.weight, std=0.05)
        optimizer = torch.optim.AdamW(
            model.parameters(), PEAK_RATE, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98)
        )
        log, recent, start = [], [], time.perf_counter()
        best, lowest, waited = copy.deepcopy(model.state_dict()), float("inf"), 0
        for step in range(most_steps):
            for group in optimizer.param_groups:
                group["lr"] = PEAK_RATE * min(1.0, (step + 1) / WARMUP_STEPS)
            recent.append(_step(model, optimizer, inputs, labels))
            if (step + 1) % evaluate_every and step + 1 != most_steps:
                continue
            value, share = validate(model, validation)
            log.append([step + 1, round(sum(recent) / len(recent), 4), round(value, 4),
                        round(share, 4), round(time.perf_counter() - start, 1)])  # fmt: skip
            print(*log[-1], flush=True)
            recent, waited = [], waited + 1
            if value < lowest:
                best, lowest, waited = copy.deepcopy(model.state_dict()), value, 0
            if waited == PATIENCE:
                break
    model.load_state_dict(best)
    model.eval()
    out.mkdir(parents=True, exist_ok=True)
    save_model(model, str(out / "model.safetensors"))
    names = ["step", "train_loss", "validation_loss", "validation_accuracy", "elapsed_s"]
    with (out / "training_log.csv").open("w", newline="") as file:
        csv.writer(file).writerows([names, *log])
    return model


def encoded(rows: list[dict[str, str]]) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs [rows, tokens] and class ids [rows] of a part."""
    return encode([row["text"] for row in rows]), class_ids([row["label"] for row in rows])


def logits(model: TextClassifier, rows: list[dict[str, str]]) -> Tensor:
    """Logits [rows, areas], in evaluation mode, 64 texts at a time."""
    model.eval()
    with torch.inference_mode():
        parts = [rows[start : start + 64] for start in range(0, len(rows), 64)]
        return torch.cat([model(**encode([row["text"] for row in part])) for part in parts])


def validate(model: TextClassifier, rows: list[dict[str, str]]) -> tuple[float, float]:
    """Mean loss in nats per text, and the share of texts whose area is right."""
    answers, labels = logits(model, rows), class_ids([row["label"] for row in rows])
    return float(loss(answers, labels)), float((answers.argmax(-1) == labels).float().mean())


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of weights and log")
    parser.add_argument("--steps", type=int, default=MOST_STEPS, help="steps at most")
    options = parser.parse_args(arguments)
    # Sums run in another order on more threads, so the weights would differ.
    torch.set_num_threads(1)
    train(options.out, most_steps=options.steps)


def _step(
    model: TextClassifier,
    optimizer: torch.optim.AdamW,
    inputs: dict[str, Tensor],
    labels: Tensor,
) -> float:
    model.train()
    rows = torch.randint(len(labels), (BATCH,))
    mask = inputs["attention_mask"][rows]
    longest = int(mask.sum(dim=1).max())
    ids, mask = inputs["input_ids"][rows, :longest], mask[:, :longest]
    other = torch.randint(FIRST_WORD, VOCABULARY, ids.shape)
    replaced = (torch.rand(ids.shape) < REPLACED) & (ids >= FIRST_WORD)
    value = loss(model(torch.where(replaced, other, ids), mask), labels[rows])
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return value.item()


if __name__ == "__main__":
    main()
