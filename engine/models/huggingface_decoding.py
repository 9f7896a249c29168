"""How transformers models generate: with the cache that they keep, or without."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.models.huggingface_facts import decoder_start, is_decoder, random_ids
from engine.program import Decoder, Inputs, RecomputeDecoder, logits_of

_CACHES = ("past_key_values", "cache_params", "state", "mems")
# Two ways through one model add up in another order; bf16 keeps 8 bits.
_TOLERANCE = {torch.float32: 2e-3, torch.float64: 1e-6}
_COARSE = 0.1


class CachedDecoder:
    """Feeds one token after the other, with the cache object that the model itself hands out.

    The state is (name of the cache argument, cache, attention mask or None). The attention mask
    grows by one for every token where the prompt came with one.
    """

    keeps_cache = True

    def prefill(self, module: nn.Module, inputs: Inputs) -> tuple[Tensor, Any]:
        """Logits of the last prompt position, and the cache."""
        given = dict(inputs) if isinstance(inputs, dict) else {"input_ids": inputs[0]}
        outputs = module(**given, use_cache=True)
        return logits_of(outputs)[:, -1], (*_cache_of(outputs), given.get("attention_mask"))

    def step(self, module: nn.Module, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits after one more token, and the cache with it."""
        name, cache, mask = state
        given: dict[str, Any] = {name: cache}
        if mask is not None:
            mask = given["attention_mask"] = _grown(mask)
        outputs = module(input_ids=token, **given, use_cache=True)
        return logits_of(outputs)[:, -1], (*_cache_of(outputs), mask)


class EncoderDecoder:
    """Runs the encoder once, then the decoder token by token with its cache.

    The prompt goes to the encoder; the decoder begins with its start token, or with the inputs'
    `decoder_input_ids` where `forced_start` says so.
    """

    def __init__(self, start: int, *, keeps_cache: bool) -> None:
        self.start = start
        self.keeps_cache = keeps_cache

    def prefill(self, module: nn.Module, inputs: Inputs) -> tuple[Tensor, Any]:
        """Logits of the first new token; the state holds the encoder's outputs."""
        given = dict(inputs) if isinstance(inputs, dict) else {"input_ids": inputs[0]}
        given.pop("decoder_input_ids", None)
        given.pop("decoder_attention_mask", None)
        encoder: Any = module.get_encoder()  # type: ignore[operator]
        encoded = encoder(**given)
        first = next(value for value in given.values() if isinstance(value, Tensor))
        ids = torch.full((first.shape[0], 1), self.start, device=first.device)
        kept = {"encoder_outputs": encoded}
        if "attention_mask" in given:
            kept["attention_mask"] = given["attention_mask"]
        return self._next(module, ids, ids, kept, None)

    def step(self, module: nn.Module, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits after one more token."""
        ids, kept, cache = state
        ids = torch.cat((ids, token), 1)
        return self._next(module, ids, token, kept, cache)

    def _next(
        self, module: nn.Module, ids: Tensor, token: Tensor, kept: dict[str, Any], cache: Any
    ) -> tuple[Tensor, Any]:
        if not self.keeps_cache:
            outputs = module(**kept, decoder_input_ids=ids, use_cache=False)
            return logits_of(outputs)[:, -1], (ids, kept, None)
        past = {} if cache is None else {"past_key_values": cache}
        outputs = module(**kept, decoder_input_ids=token, use_cache=True, **past)
        return logits_of(outputs)[:, -1], (ids, kept, outputs.past_key_values)


def decoder_for(model: nn.Module, inputs: Inputs, *, meta: bool) -> tuple[Decoder | None, str]:
    """How this model generates, and a note where it is not as one would expect.

    A cache is proved on a few tokens: generation with it must give the logits of generation
    without. On the meta device nothing can be compared, and the config is believed.
    """
    if not _generates(model):
        return None, ""
    config: Any = model.config
    if getattr(config, "is_encoder_decoder", False):
        start = decoder_start(model)
        cached: Any = EncoderDecoder(start, keeps_cache=True)
        plain: Any = EncoderDecoder(start, keeps_cache=False)
        prompt = inputs
    else:
        cached, plain = CachedDecoder(), RecomputeDecoder()
        prompt = _short_prompt(model, inputs)
    if meta:
        told = getattr(config.get_text_config(decoder=True), "use_cache", None)
        return (plain if told is None else cached), ""
    return _proved(model, prompt, cached, plain)


def _proved(
    model: nn.Module, prompt: Inputs, cached: Decoder, plain: Decoder
) -> tuple[Decoder | None, str]:
    name = type(model).__name__
    try:
        wanted = _two_steps(model, prompt, plain)
    except Exception as error:
        first = str(error).strip().split("\n")[0]
        return None, f"{name} does not generate here: {first}"
    try:
        got = _two_steps(model, prompt, cached)
    except Exception:  # no cache, or one that only its own generate() can drive
        return plain, f"{name} hands out no cache that can be fed token by token: it recomputes."
    dtype = next(model.parameters()).dtype
    allowed = _TOLERANCE.get(dtype, _COARSE) * float(wanted.abs().max().clamp(min=1e-6))
    if float((got - wanted).abs().max()) > allowed:
        return (
            plain,
            f"The cache of {name} gives other logits than the whole prefix: it recomputes.",
        )
    return cached, ""


def _two_steps(model: nn.Module, prompt: Inputs, decoder: Decoder) -> Tensor:
    with torch.inference_mode():
        logits, state = decoder.prefill(model, prompt)
        found = [logits.float()]
        token = torch.ones_like(logits.argmax(-1, keepdim=True))
        for _ in range(2):
            logits, state = decoder.step(model, token, state)
            found.append(logits.float())
    return torch.stack(found)


def _short_prompt(model: nn.Module, inputs: Inputs) -> Inputs:
    config: Any = model.config
    ids = random_ids(config, (1, 4), 0)
    short: dict[str, Any] = {"input_ids": ids}
    if isinstance(inputs, dict) and "attention_mask" in inputs:
        short["attention_mask"] = torch.ones_like(ids)
    return short


def _generates(model: nn.Module) -> bool:
    can = getattr(model, "can_generate", None)
    if not callable(can) or not can():
        return False
    config: Any = model.config
    return bool(getattr(config, "is_encoder_decoder", False)) or is_decoder(model)


def _cache_of(outputs: Any) -> tuple[str, Any]:
    for name in _CACHES:
        value = getattr(outputs, name, None)
        if value is not None:
            return name, value
    raise ValueError("The outputs hold no cache.")


def _grown(mask: Tensor) -> Tensor:
    return torch.cat((mask, mask.new_ones((mask.shape[0], 1))), 1)
