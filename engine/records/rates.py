"""What was measured so that gains can be predicted: products by scheme, short models by recipe."""

from __future__ import annotations

from dataclasses import dataclass

from engine.records.advice import Range


@dataclass(frozen=True)
class Product:
    """A matrix product or convolution with the sizes that its time depends on.

    Attributes:
        kind: "linear" or "conv2d". For the techniques that ask for them also "attention" (queries
            `rows` of `inputs` features against `outputs` keys, `groups` heads in all), "norm" (over
            `inputs` features), "elementwise" and "transcendental" (`rows` numbers), and "call" (a
            few numbers).
        rows: of the left matrix (batch times tokens); for a convolution the batch.
        inputs, outputs: features, or channels.
        spatial: height and width of a convolution's input; empty else.
        window: height and width of its kernel; empty else.
        stride, padding, groups: of a convolution.
        dtype: of weights and activations as the model holds them.
        threads: intra-operator threads; None leaves torch's own choice.
    """

    kind: str
    rows: int
    inputs: int
    outputs: int
    spatial: tuple[int, ...] = ()
    window: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    groups: int = 1
    dtype: str = "float32"
    device: str = "cpu"
    threads: int | None = None


@dataclass(frozen=True)
class ProductRate:
    """How long one scheme takes for a product, beside the same product as eager PyTorch runs it.

    Both were timed in turns on weights that no near cache held. `ratio` is the scheme's time over
    the reference's, its ends how far halves of the rounds lie apart; times are lower quartiles;
    `scheme` is a technique with the parameters that count.
    """

    product: Product
    scheme: str
    reference_ms: float
    ms: float
    ratio: Range
    rounds: int
    created: float


@dataclass(frozen=True)
class MachineRates:
    """Every product that was measured on one device of one machine; its id is `calibration_id`."""

    id: str
    rates: tuple[ProductRate, ...]


@dataclass(frozen=True)
class Pilot:
    """What a recipe brought to a copy of the model with `kept` of its `blocks` equal blocks.

    `speedup` is the ratio of lower quartiles, `spread` how far halves of the rounds lie apart;
    `container` is the module that holds the blocks, `run` their first and last index there. With
    no repeated blocks all of the model ran. `error` is why it could not be measured.
    """

    recipe: str
    speedup: float
    spread: Range
    container: str
    run: tuple[int, int]
    kept: int
    blocks: int
    rounds: int
    seconds: float
    created: float
    size_ratio: float = 1.0
    error: str = ""


@dataclass(frozen=True)
class Pilots:
    """The pilots of one study, the newest of each recipe; its id is the study's."""

    study: str
    pilots: tuple[Pilot, ...] = ()
