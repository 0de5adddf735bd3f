"""DPO, in which a step reads each distinct completion once: see `shared_completions.py`."""

from __future__ import annotations

from torch import Tensor, nn

from optimizers.training.losses import dpo_loss, sequence_nll
from optimizers.training.shared_completions import Part, SharedTrainer
from optimizers.training.trl_arguments import StageInputs


class SharedDPOTrainer(SharedTrainer):
    """Trains on pairs: L_DPO + alpha * L_NLL, a mean over the pairs of a step."""

    @classmethod
    def of(cls, stage: StageInputs) -> SharedDPOTrainer:
        """The trainer of a stage."""
        return cls.build(stage, stage.settings.dpo_epochs, stage.settings.dpo_learning_rate)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Part,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The part's share of the mean over the step's pairs."""
        logps = self.read_logps(model, inputs)
        (chosen, rejected), reference = inputs["pairs"].T, inputs["reference"]
        lengths = (inputs["targets"] >= 0).sum(1)[chosen]
        loss = dpo_loss(logps[chosen], logps[rejected], reference[chosen], reference[rejected], self._settings.beta)
        return inputs["share"] * (loss + self._settings.alpha * sequence_nll(logps[chosen], lengths))
