"""What a trainer is, and its settings. Pure: no torch here.

SFTExample rows     -> Trainer.sft -> Checkpoint
PreferencePair rows -> Trainer.dpo -> Checkpoint
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from optimizers.core.records import Checkpoint, PreferencePair, SFTExample
from sgt_modules.errors import SetupError

OnStep = Callable[[int, int, float], None]
"""Told after each optimizer step: the step (from 1), the number of steps in all, and that step's loss."""

Schedule = Literal["linear", "cosine", "constant", "constant_with_warmup"]
"""How the learning rate goes on after the warm-up."""

CHECKPOINTED = 200_000_000
"""Parameters from which on activations, not weights, are what a step's memory is full of: with 28 layers of 2048, about
2 MB a token in half precision, 60 GB for 8 rows of 4096."""

POOL = 16
"""Batches that are sorted by length together: few enough to keep the order random, enough to save the padding."""


class Trainer(Protocol):
    """Turns rows into trained weights on disk. The one seam between the method and a training library.

    `start=None` begins at the base model, a `Checkpoint` at that checkpoint's weights. `output` becomes the folder of
    the new weights and holds nothing else. The same rows, start and seed give the same fingerprint on one CPU.

    >>> from optimizers.training.trl_trainer import TRLTrainer
    >>> from sgt_modules.embedded import embedded_generator
    >>> trainer: Trainer = TRLTrainer(embedded_generator())
    """

    def sft(
        self,
        rows: Sequence[SFTExample],
        *,
        start: Checkpoint | None,
        output: Path,
        seed: int,
        on_step: OnStep | None = None,
    ) -> Checkpoint:
        """Cross-entropy on the supplement only. Raises `TrainingError`."""
        ...

    def dpo(
        self,
        pairs: Sequence[PreferencePair],
        *,
        start: Checkpoint | None,
        output: Path,
        seed: int,
        on_step: OnStep | None = None,
    ) -> Checkpoint:
        """L_DPO + alpha * L_NLL against the model as it is at the start of this round. Raises `TrainingError`."""
        ...


Row = TypeVar("Row", SFTExample, PreferencePair, contravariant=True)


class Fit(Protocol[Row]):
    """One of a trainer's two methods."""

    def __call__(
        self, rows: Sequence[Row], /, *, start: Checkpoint | None, output: Path, seed: int, on_step: OnStep | None
    ) -> Checkpoint:
        """Train on the rows and write the weights to `output`."""
        ...


@dataclass(frozen=True, slots=True)
class LoRASettings:
    """Low-rank adapters in place of training all weights.

    `rank` and `alpha` are LoRA's r and alpha (the update is scaled by alpha / rank); `targets` names the layers to
    adapt, `all-linear` being every linear layer but the output head.

    >>> LoRASettings().rank
    16
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise SetupError(f"Expected rank >= 1, alpha > 0 and 0 <= dropout < 1, got {self}.")


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How weights are trained; the defaults suit a generator of about 1.7 B parameters with LoRA on one GPU.

    An optimizer step sees `batch_size * gradient_accumulation` rows (in DPO a row is a pair, so twice as many
    sequences). `warmup` is the share of the steps, in [0, 1), over which the learning rate rises. `beta` is DPO's,
    `alpha` the weight of the chosen supplement's length-normalised NLL. Rows of more than `max_length` tokens, prompt,
    supplement and end together, are left out and counted. `lora=None` trains all weights.

    What fits in memory: `bf16` is mixed precision, None meaning on GPUs that compute it. `gradient_checkpointing` saves
    memory at about a fifth more time; None means for models of at least `CHECKPOINTED` parameters. Where memory runs
    out all the same, the stage begins anew with half of `batch_size` and twice the `gradient_accumulation`, which its
    checkpoint says; where several processes train together, that is an error.

    >>> TrainingSettings(lora=None, batch_size=32).beta
    0.1
    >>> try:
    ...     TrainingSettings(batch_size=0)
    ... except SetupError as error:
    ...     print(error)
    Expected batch_size of at least 1, got 0.
    """

    lora: LoRASettings | None = field(default_factory=LoRASettings)
    sft_epochs: int = 3
    sft_learning_rate: float = 1e-4
    dpo_epochs: int = 1
    dpo_learning_rate: float = 1e-5
    beta: float = 0.1
    alpha: float = 1.0
    batch_size: int = 8
    gradient_accumulation: int = 2
    warmup: float = 0.05
    schedule: Schedule = "cosine"
    max_grad_norm: float = 1.0
    max_length: int = 4096
    gradient_checkpointing: bool | None = None
    bf16: bool | None = None

    def __post_init__(self) -> None:
        least = {"sft_epochs": 1, "dpo_epochs": 1, "batch_size": 1, "gradient_accumulation": 1, "max_length": 2}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise SetupError(f"Expected {name} of at least {minimum}, got {getattr(self, name)}.")
        for name in ("sft_learning_rate", "dpo_learning_rate", "beta", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise SetupError(f"Expected {name} above 0, got {getattr(self, name)}.")
        if not (0 <= self.warmup < 1 and self.alpha >= 0):
            raise SetupError(f"Expected 0 <= warmup < 1 and alpha >= 0, got {self.warmup} and {self.alpha}.")

    def checkpoints(self, parameters: int) -> bool:
        """Whether a model of so many parameters is trained with gradient checkpointing.

        >>> [TrainingSettings().checkpoints(size) for size in (135_000_000, 1_700_000_000)]
        [False, True]
        """
        return parameters >= CHECKPOINTED if self.gradient_checkpointing is None else self.gradient_checkpointing


ON_A_CPU = TrainingSettings(
    sft_learning_rate=3e-4,
    dpo_learning_rate=3e-5,
    batch_size=4,
    gradient_accumulation=2,
    max_length=1536,
    gradient_checkpointing=False,
)
"""Settings for a generator of 0.1 to 0.5 B parameters with LoRA on a CPU, and some hundred training questions."""


class LengthGrouped:
    """A sampler of rows: at each iteration all indices, in an order whose consecutive batches are of similar length.

    Rows are shuffled, sorted by length within pools of `POOL` batches, and the batches shuffled again; rows that fill
    no batch come last.

    >>> list(LengthGrouped([9, 1, 8, 2, 1], batch_size=2, rng=random.Random(0)))
    [4, 1, 3, 0, 2]
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, rng: random.Random) -> None:
        self._lengths, self._batch_size, self._rng = lengths, batch_size, rng

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        size = self._batch_size
        order = self._rng.sample(range(len(self)), len(self))
        whole = len(order) - len(order) % size
        batches: list[list[int]] = []
        for first in range(0, whole, POOL * size):
            pool = sorted(order[first : min(first + POOL * size, whole)], key=self._lengths.__getitem__)
            batches += [pool[at : at + size] for at in range(0, len(pool), size)]
        self._rng.shuffle(batches)
        yield from (index for batch in batches for index in batch)
        yield from order[whole:]
