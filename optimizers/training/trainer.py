"""The trainer protocol, and the settings of a trainer. Pure: no torch here.

SFTExample rows     -> Trainer.sft -> Checkpoint
PreferencePair rows -> Trainer.dpo -> Checkpoint
ScoredSample rows   -> Trainer.grpo -> Checkpoint
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeVar, get_args

from optimizers.core.records import Checkpoint, PreferencePair, ScoredSample, SFTExample
from sgt_modules.errors import SetupError

OnStep = Callable[[int, int, float], None]
"""Called after each optimizer step with the step (from 1), the number of steps in all, and the step's loss."""

LengthAverage = Literal["round", "sample"]
"""What GRPO divides a sample's sum over tokens by: the mean length of the round's samples, or the sample's own."""

Schedule = Literal["linear", "cosine", "constant", "constant_with_warmup"]
"""How the learning rate changes after the warm-up."""

CHECKPOINTING_SIZE = 200_000_000
"""Parameters of a model whose activations, not weights, fill a step's memory: with 28 layers of width 2048, about 2 MB
a token in half precision, 60 GB for 8 rows of 4096 tokens."""


class Trainer(Protocol):
    """Turns rows into trained weights on disk: the only interface between the method and a training library.

    `start=None` starts from the base model, a `Checkpoint` from that checkpoint's weights. `output` becomes the folder
    of the new weights and holds nothing else. The same rows, start and seed give the same fingerprint on one CPU.

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
        """Train with cross-entropy on the supplement only. Raises `TrainingError`."""
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
        """Train with L_DPO + alpha * L_NLL; the reference is the model at the start of this round.

        Raises `TrainingError`.
        """
        ...

    def grpo(
        self,
        rows: Sequence[ScoredSample],
        *,
        start: Checkpoint | None,
        output: Path,
        seed: int,
        on_step: OnStep | None = None,
    ) -> Checkpoint:
        """Train with GRPO's clipped objective; all rows are samples of the model at the start of this round.

        Raises `TrainingError`.
        """
        ...


TrainingRow = TypeVar("TrainingRow", SFTExample, PreferencePair, ScoredSample, contravariant=True)


class Fit(Protocol[TrainingRow]):
    """The signature of a trainer's methods."""

    def __call__(
        self,
        rows: Sequence[TrainingRow],
        /,
        *,
        start: Checkpoint | None,
        output: Path,
        seed: int,
        on_step: OnStep | None,
    ) -> Checkpoint:
        """Train on the rows and write the weights to `output`."""
        ...


@dataclass(frozen=True, slots=True)
class LoRASettings:
    """Low-rank adapters instead of training all weights.

    `rank` and `alpha` are LoRA's r and alpha (the update is scaled by alpha / rank); `targets` names the layers to
    adapt; `all-linear` means every linear layer except the output head.

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

    An optimizer step reads `batch_size * gradient_accumulation` rows; a row of DPO is a pair, thus two completions.
    `warmup` is the share of the steps, in [0, 1), over which the learning rate rises. `beta` is DPO's, `alpha` the
    weight of the chosen supplement's length-normalised NLL. Rows of more than `max_length` tokens, prompt, supplement
    and end together, are dropped and counted. `lora=None` trains all weights.

    GRPO: `grpo_epochs` are the passes over a round's samples, `grpo_learning_rate` is its rate; the importance ratio is
    clipped to 1 - `clip_range` and 1 + `clip_range`; `kl_weight` is that of the KL to the round's start. An advantage
    is the reward minus its group's mean, and is divided by the group's standard deviation with `divide_by_std`, which
    gives queries that are nearly always won or lost more weight. With `length_average="round"` each token counts the
    same; with `sample` the tokens of long samples count less. `docs/beyond.md` has the sources of the defaults.

    Memory: `bf16` turns mixed precision on; None means on GPUs that compute it. `gradient_checkpointing` saves memory
    and takes about a fifth more time; None means for models of at least `CHECKPOINTING_SIZE` parameters. If memory runs
    out nevertheless, the stage starts again with half of `batch_size` and twice the `gradient_accumulation`, and its
    checkpoint has a note; if several processes train together, that is an error.

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
    # Not in the repr, which run folders keep: folders of DPO that are older than these settings go on.
    grpo_epochs: int = field(default=1, repr=False)
    grpo_learning_rate: float = field(default=1e-5, repr=False)
    clip_range: float = field(default=0.2, repr=False)
    kl_weight: float = field(default=0.04, repr=False)
    divide_by_std: bool = field(default=False, repr=False)
    length_average: LengthAverage = field(default="round", repr=False)

    def __post_init__(self) -> None:
        epochs = dict.fromkeys(("sft_epochs", "dpo_epochs", "grpo_epochs"), 1)
        least = {**epochs, "batch_size": 1, "gradient_accumulation": 1, "max_length": 2}
        for name, minimum in least.items():
            if getattr(self, name) < minimum:
                raise SetupError(f"Expected {name} of at least {minimum}, got {getattr(self, name)}.")
        rates = ("sft_learning_rate", "dpo_learning_rate", "grpo_learning_rate")
        for name in (*rates, "beta", "max_grad_norm", "clip_range"):
            if not getattr(self, name) > 0:
                raise SetupError(f"Expected {name} above 0, got {getattr(self, name)}.")
        if not (0 <= self.warmup < 1 and self.alpha >= 0):
            raise SetupError(f"Expected 0 <= warmup < 1 and alpha >= 0, got {self.warmup} and {self.alpha}.")
        if not (self.clip_range < 1 and self.kl_weight >= 0 and self.length_average in get_args(LengthAverage)):
            raise SetupError(
                f"Expected clip_range below 1, kl_weight of at least 0 and a length_average of "
                f"{' or '.join(get_args(LengthAverage))}, got {self.clip_range}, {self.kl_weight} and "
                f"{self.length_average!r}."
            )

    @property
    def grpo(self) -> dict[str, object]:
        """The settings that only GRPO reads, by name.

        >>> TrainingSettings().grpo["clip_range"]
        0.2
        """
        names = ("grpo_epochs", "grpo_learning_rate", "clip_range", "kl_weight", "divide_by_std", "length_average")
        return {name: getattr(self, name) for name in names}

    def uses_checkpointing(self, parameters: int) -> bool:
        """Whether to train a model of so many parameters with gradient checkpointing.

        >>> [TrainingSettings().uses_checkpointing(size) for size in (135_000_000, 1_700_000_000)]
        [False, True]
        """
        return parameters >= CHECKPOINTING_SIZE if self.gradient_checkpointing is None else self.gradient_checkpointing


ON_A_CPU = TrainingSettings(
    sft_learning_rate=3e-4,
    dpo_learning_rate=3e-5,
    batch_size=4,
    gradient_accumulation=2,
    max_length=1536,
    gradient_checkpointing=False,
)
"""Settings for a generator of 0.1 to 0.5 B parameters with LoRA on a CPU, and a few hundred training questions."""
