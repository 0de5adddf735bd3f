"""Rounds linear layers to 8 bits, for a frozen model on a CPU: four times smaller, three to eight times faster.

Weights have a scale for each output, activations a scale for each token, computed in the forward pass. So a token's
result does not depend on the other rows of its batch, as with PyTorch's dynamic quantisation, whose single scale for a
batch also doubles the rounding error. The products are of whole numbers, so their sums are exact.

A CPU without instructions for 8-bit products (with AVX2 only, for example) multiplies the same whole numbers in single
precision: the same model, with the size and speed of single precision. There, PyTorch's 8-bit product takes 25 times as
long.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MAX_INT8 = 127
_MIN_SCALE = 1e-12
"""The least scale, for numbers that are all 0."""

_log = logging.getLogger(__name__)


@cache
def int8_is_fast() -> bool:
    """Whether this machine multiplies 8-bit matrices faster than single precision; measured once, in about 50 ms.

    >>> int8_is_fast() in (True, False)
    True
    """
    small = torch.ones(32, 1024, dtype=torch.int8)
    large = torch.ones(1024, 512, dtype=torch.int8)
    exact = small.float(), large.float()
    return _time_work(lambda: _multiply_int8(small, large)) < _time_work(lambda: exact[0] @ exact[1])


def _time_work(work: Callable[[], object]) -> float:
    """The seconds of the fastest of three runs, after one that is not timed."""
    work()
    seconds: list[float] = []
    for _ in range(3):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _multiply_int8(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The exact product of two 8-bit matrices, in 32-bit whole numbers."""
    return cast("torch.Tensor", cast("Any", torch)._int_mm(rows, weight))


class Int8Linear(torch.nn.Module):
    """A linear layer with weights that are rounded to 8 bits; inputs and outputs are in single precision.

    Without `as_int8`, the rounded weights are stored and multiplied in single precision. The outputs are the same
    unless a sum of products exceeds 2**24.

    >>> exact = torch.nn.Linear(64, 32)
    >>> inputs = torch.ones(2, 3, 64)
    >>> rounded = Int8Linear(exact)(inputs)
    >>> rounded.shape, bool(torch.allclose(rounded, exact(inputs), atol=0.05))
    (torch.Size([2, 3, 32]), True)
    """

    def __init__(self, exact: torch.nn.Linear, *, as_int8: bool = True) -> None:
        super().__init__()
        weight = exact.weight.detach()
        scales = weight.abs().amax(1).clamp_min(_MIN_SCALE).div_(_MAX_INT8)
        rounded = (weight / scales[:, None]).round_()
        self._as_int8 = as_int8
        self.register_buffer("weight", (rounded.to(torch.int8) if as_int8 else rounded).t())
        self.register_buffer("scales", scales)
        bias = cast("torch.Tensor | None", exact.bias)
        self.register_buffer("bias", None if bias is None else bias.detach())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The outputs; inputs have any number of leading dimensions."""
        weight, scales = (cast("torch.Tensor", each) for each in (self.weight, self.scales))
        bias = cast("torch.Tensor | None", self.bias)
        rows = inputs.reshape(-1, inputs.shape[-1])
        row_scales = rows.abs().amax(-1, keepdim=True).clamp_min_(_MIN_SCALE).div_(_MAX_INT8)
        rounded = (rows / row_scales).round_()
        sums = _multiply_int8(rounded.to(torch.int8), weight) if self._as_int8 else rounded @ weight
        outputs = sums.to(inputs.dtype).mul_(scales).mul_(row_scales)
        if bias is not None:
            outputs.add_(bias)
        return outputs.view(*inputs.shape[:-1], -1)


def quantise(model: PreTrainedModel) -> PreTrainedModel:
    """Round every linear layer to 8 bits, in place, and return the model; embeddings and norms stay as they are."""
    module, as_int8 = cast("torch.nn.Module", model), int8_is_fast()
    if not as_int8:
        _log.warning(
            "This CPU has no fast 8-bit product, so dtype='int8' is as large and as slow as float32 here. Its answers "
            "are the same as on any other machine."
        )
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(parent, name, Int8Linear(child, as_int8=as_int8))
    return model
