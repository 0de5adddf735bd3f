"""Floating-point operations of a preference round: the method's needs, computed from the tokens that the model read.

A multiplication and its addition are two operations. Counts matrix products: linear layers, the output head where a
next token is predicted, attention over the tokens that a token may see. Does not count what an implementation adds:
padding, the second forward pass of gradient checkpointing, and everything except matrix products.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from random_model import Shape
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

PEAK_TFLOPS = {
    # bfloat16 without sparsity, in 10^12 a second, as NVIDIA's data sheets give them (where those state the figure
    # with sparsity, half of it). The first name that a device's name holds counts.
    "B200": 2250.0,
    "GH200": 989.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "A10G": 70.0,
    "A10": 125.0,
}


def peak_tflops(device: str) -> float | None:
    """Return a device's peak in 10^12 operations a second; None if the table lacks the device."""
    return next((peak for name, peak in PEAK_TFLOPS.items() if name in device), None)


@dataclass(frozen=True, slots=True)
class Read:
    """One forward pass: its rows, its tokens without padding, whether gradients were wanted, and when it began."""

    rows: int
    tokens: int
    trained: bool
    began: float


@contextmanager
def reads_noted(padding: int) -> Iterator[list[Read]]:
    """Record every forward pass inside, by what an embedding table reads; the list is filled at the end.

    Gradient checkpointing computes blocks again, but not the table, so each pass is listed once.
    """
    noted: list[tuple[int, Tensor, bool, float]] = []

    def note(module: nn.Module, arguments: tuple[object, ...]) -> None:
        if isinstance(module, nn.Embedding) and isinstance(ids := arguments[0], Tensor):
            noted.append((len(ids), (ids != padding).sum(), torch.is_grad_enabled(), time.perf_counter()))

    reads: list[Read] = []
    hook = register_module_forward_pre_hook(note)
    try:
        yield reads
    finally:
        hook.remove()
        reads += [Read(rows, int(tokens), trained, began) for rows, tokens, trained, began in noted]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Counts of tokens: all, those whose next token is predicted, and the sum of the tokens that each of them sees."""

    read: int
    predicted: int
    seen: int

    def forward(self, shape: Shape, adapter: int = 0) -> int:
        """Return the operations of a forward pass: two for each weight of a layer and token that passes through it."""
        return self._linear(shape) + 2 * adapter * self.read + self._attention(shape)

    def forward_and_back(self, shape: Shape, adapter: int | None) -> int:
        """Return the operations of a training pass, with an adapter of that many weights or, for None, of all weights.

        The backward pass of a layer costs the forward pass once for the gradient of its input and, if it is trained,
        once more for its weights: 6 a trained weight and token, 4 a frozen one. Attention's two products have two
        gradients each, so they cost 3 times the forward pass.
        """
        layers = 3 * self._linear(shape) if adapter is None else 2 * self._linear(shape) + 6 * adapter * self.read
        return layers + 3 * self._attention(shape)

    def _linear(self, shape: Shape) -> int:
        return 2 * (shape.body * self.read + shape.head * self.predicted)

    def _attention(self, shape: Shape) -> int:
        """Return two products for each visible token, with its key and its value, in each head of each block."""
        return 4 * shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim * self.seen


def tokens_of(reads: Sequence[Read], prompt: int, reply: int) -> Tokens:
    """Return the tokens of passes whose rows hold a prompt of `prompt` tokens and replies of `reply` tokens.

    A reply sees its prompt and itself, and no other reply of its row.
    """
    prompts = sum(read.rows for read in reads)
    read = sum(read.tokens for read in reads)
    replies = (read - prompts * prompt) // reply
    of_reply = reply * prompt + reply * (reply + 1) // 2
    return Tokens(read, read - prompts * prompt, prompts * (prompt * (prompt + 1) // 2) + replies * of_reply)
