"""Training of digits_vision from the data beside this file: same steps, same seed, one thread.

python -m sample_models.digits_vision.train --out /tmp/digits_vision
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from sample_models.digits_vision.model import DigitsNet, loss, read_part

SEED = 0
STEPS = 700
BATCH = 64
PEAK_RATE = 2e-3
WEIGHT_DECAY = 0.05


def top_1(model: DigitsNet, part: str) -> float:
    """Share of a part's images whose largest logit is that of their class.

    Args:
        model: In evaluation mode.
        part: train, validation, calibration or test.
    """
    images, labels = read_part(part)
    with torch.inference_mode():
        return float((model(images).argmax(dim=-1) == labels).float().mean())


def train(
    out: Path, *, steps: int = STEPS, total_steps: int = STEPS, evaluate_every: int = 50
) -> DigitsNet:
    """The model after so many steps; writes model.safetensors and training_log.csv into the folder.

    Args:
        out: Folder of the results.
        steps: Steps to take.
        total_steps: Length of the schedule, of which fewer steps may be taken.
        evaluate_every: Steps between two validations.
    """
    from safetensors.torch import save_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        images, labels = read_part("train")
        model = DigitsNet()
        optimizer = torch.optim.AdamW(model.parameters(), PEAK_RATE, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps)
        log, recent = [], []
        for step in range(steps):
            rows = torch.randint(len(images), (BATCH,))
            value = loss(model(_shifted(images[rows])), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            schedule.step()
            recent.append(value.item())
            if (step + 1) % evaluate_every == 0 or step + 1 == steps:
                share = top_1(model.eval(), "validation")
                log.append([step + 1, round(sum(recent) / len(recent), 4), round(share, 4)])
                model.train()
                recent = []
                print(*log[-1], flush=True)
    model.eval()
    out.mkdir(parents=True, exist_ok=True)
    save_model(model, str(out / "model.safetensors"))
    with (out / "training_log.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["step", "train_loss", "validation_top_1"], *log])
    return model


def main(arguments: list[str] | None = None) -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of weights and log")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps to take of the schedule")
    options = parser.parse_args(arguments)
    # Sums run in another order on more threads, so the weights would differ.
    torch.set_num_threads(1)
    train(options.out, steps=options.steps)


def _shifted(images: Tensor) -> Tensor:
    """The images, all moved by up to one pixel up, down and aside; what leaves is lost."""
    down, right = torch.randint(3, (2,)).tolist()
    return F.pad(images, (1, 1, 1, 1))[..., down : down + 8, right : right + 8]


if __name__ == "__main__":
    main()
