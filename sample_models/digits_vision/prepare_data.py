"""Digits of scikit-learn as one .npz, parted in the order of the original file.

    python -m sample_models.digits_vision.prepare_data

The last third is the test part. The images come from 13 writers whom the file does not name;
images of one writer stand close to each other, so a split by position shares fewer writers
between the parts than a random one would.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).parent / "data" / "digits.npz"
# Shares of the file, in its order, in which each part ends.
_ENDS = {"train": 0.5, "validation": 7 / 12, "calibration": 2 / 3, "test": 1.0}


def part_digits(
    images: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> dict[str, NDArray[np.uint8]]:
    """Arrays `PART_images` [images, 8, 8] and `PART_labels` [images] for each part.

    An image whose equal stands earlier in the file is left out, so that no two parts share one.
    """
    _, firsts = np.unique(images.reshape(len(images), -1), axis=0, return_index=True)
    firsts.sort()
    arrays, start = {}, 0
    for part, share in _ENDS.items():
        end = round(share * len(images))
        rows = firsts[(firsts >= start) & (firsts < end)]
        arrays |= {f"{part}_images": images[rows], f"{part}_labels": labels[rows]}
        start = end
    return arrays


def main() -> None:
    """Writes data/digits.npz."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    arrays = part_digits(digits.images.astype(np.uint8), digits.target.astype(np.uint8))
    DATA.parent.mkdir(exist_ok=True)
    np.savez_compressed(DATA, **arrays)
    for name, array in arrays.items():
        print(f"{name}: {array.shape}")


if __name__ == "__main__":
    main()
