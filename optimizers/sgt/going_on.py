"""Going on from a trained generator: where training starts, what is checked before a call is paid, what is reported.

generator -> `find_start` -> a `Checkpoint` of its adapter -> the first training stage, and the stage `adapter`
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import dspy

from optimizers.core.fingerprints import supplement_settings
from optimizers.core.paired_scores import pair_scores
from optimizers.core.records import Checkpoint, Rollout
from optimizers.core.stages import ADAPTER_STAGE
from optimizers.core.statistics import gain_interval
from optimizers.training.adapters import differ, read_lora
from optimizers.training.provenance import is_intact
from optimizers.training.trainer import Trainer, TrainingSettings
from sgt_modules.errors import SetupError
from sgt_modules.generator import SupplementGenerator
from sgt_modules.local.engine import LocalEngine
from sgt_modules.remote.endpoint import Endpoint
from sgt_modules.saving.weights import ADAPTER, Weights, fingerprint_of
from sgt_modules.wrapping import supplemented_predictors


def find_start(generator: SupplementGenerator) -> Checkpoint | None:
    """The trained weights that a generator came with, as the start of training; None for a base model.

    Weights that were trained in full are a base model of their own. Raises `SetupError` for a server's adapter whose
    folder is not known here.

    >>> find_start(SupplementGenerator("Qwen/Qwen3-1.7B")) is None
    True
    """
    engine = generator.engine
    if isinstance(engine, LocalEngine) and engine.adapter is not None:
        return Checkpoint(ADAPTER_STAGE, engine.adapter, fingerprint_of(engine.adapter))
    if not isinstance(engine, Endpoint) or engine.adapter_sha256 is None:
        return None
    folder = engine.published_folder
    if folder is None:
        raise SetupError(
            f"Expected the folder of the trained weights that the server uses as {engine.name}, to train on from them, "
            f"got only their sha256 {engine.adapter_sha256[:12]}... Pass generator=SupplementGenerator(Endpoint(lm, "
            "publish=...)).with_checkpoint(Path(FOLDER)) with the LM of the base model and the weights' folder; to "
            "train from the base model, leave with_checkpoint out."
        )
    return Checkpoint(ADAPTER_STAGE, folder, engine.adapter_sha256)


def check_start(start: Checkpoint, trainer: Trainer) -> None:
    """Raise `SetupError` unless the trainer can start there: the right kind of weights, complete, and of its base.

    An adapter is trained on with its own rank, alpha, dropout and layers. A trainer that does not show its settings is
    only checked for the files.
    """
    settings = getattr(trainer, "settings", None)
    is_adapter = (start.path / ADAPTER).is_file()
    if isinstance(settings, TrainingSettings) and is_adapter != (settings.lora is not None):
        raise SetupError(
            f"Expected a trainer with LoRA to train on from the adapter {str(start.path)!r}, got lora=None, which "
            "trains all weights. Pass settings with lora=LoRASettings(), or merge the adapter into its base model and "
            "pass that as the generator."
            if is_adapter
            else f"Expected a trainer of all weights to train on from {str(start.path)!r}, which holds a whole model, "
            "got one with LoRA. Pass settings with lora=None, or that folder as the trainer's model."
        )
    if is_adapter:
        read_lora(start.path)
        base = getattr(trainer, "model", None)
        if isinstance(base, str | Path):
            Weights(base, start.path).check()
    if not is_intact(start.path, start.fingerprint):
        raise SetupError(
            f"Expected the weights in {str(start.path)!r} as training wrote them, got files that are missing, cut or "
            "changed. Restore them, or delete trained_from.json there if you changed them on purpose."
        )


def describe_start(start: Checkpoint, trainer: Trainer) -> str:
    """A sentence that says where training starts, and with which LoRA settings if they are not the trainer's."""
    said = f"Training goes on from {start.path.name} (sha256 {start.fingerprint[:12]}...), not from the base model."
    settings = getattr(trainer, "settings", None)
    asked = settings.lora if isinstance(settings, TrainingSettings) else None
    if asked is None or not (start.path / ADAPTER).is_file():
        return said
    own = read_lora(start.path)
    words = f"rank {own.rank}, alpha {own.alpha}, dropout {own.dropout:g}"
    return f"{said} It keeps its own LoRA settings: {words}." if differ(own, asked) else said


def reads_the_same(student: dspy.Module, wrapped: dspy.Module) -> bool:
    """Whether the student reads the supplements already that its wrapped copy reads, so that both score the same."""
    menus = [{name: each.generator.menu for name, each in supplemented_predictors(p)} for p in (student, wrapped)]
    return menus[0] == menus[1] and supplement_settings(student) == supplement_settings(wrapped)


def compare_with_start(before: Sequence[Rollout], after: Sequence[Rollout], selected: str) -> str:
    """A sentence on what the selected stage gains over the generator as it came, on the questions that both answered.

    Empty if they share no question with a reward.
    """
    first, second = pair_scores(before, after)
    if not first:
        return ""
    old, new = (sum(scores) / len(scores) for scores in (first, second))
    low, high = gain_interval(first, second)
    return (
        f"Against the generator as it came, stage {selected} takes the score on validation from {old:.3f} to "
        f"{new:.3f}: {new - old:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}, n = {len(first)}."
    )
