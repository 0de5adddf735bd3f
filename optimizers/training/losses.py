"""The losses of a round of preference training, as functions of log-probabilities (natural logarithms)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

IGNORED = -100
"""The label of a token that is not trained on."""

RESCALING = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
"""What a model's config may name that changes the logits after the output head."""


def dpo_loss(
    chosen: Tensor, rejected: Tensor, chosen_reference: Tensor, rejected_reference: Tensor, beta: float
) -> Tensor:
    """The mean over pairs of -log sigmoid(beta * ((chosen - its reference) - (rejected - its reference))).

    Each argument holds one sum of token log-probabilities a pair: shape (pairs,). Source: DPO
    (arXiv 2305.18290), equation 7.

    Where policy and reference agree, that is log 2 whatever the pairs are:

    >>> import torch
    >>> same = torch.tensor([-3.0, -5.0])
    >>> round(dpo_loss(same, same, same, same, beta=0.1).item(), 4)
    0.6931
    """
    margin = (chosen - chosen_reference) - (rejected - rejected_reference)
    return -functional.logsigmoid(beta * margin).mean()


def sequence_nll(logps: Tensor, lengths: Tensor) -> Tensor:
    """The mean over sequences of -log p / length, so that a long sequence counts no more than a short one.

    `logps` are sums over a sequence's tokens and `lengths` their numbers: shape (sequences,).

    Log-probabilities of -2 over 2 tokens and of -16 over 8 are 1 and 2 nats a token: 1.5 on average, where a mean over
    all 10 tokens would say 1.8.

    >>> import torch
    >>> sequence_nll(torch.tensor([-2.0, -16.0]), torch.tensor([2, 8])).item()
    1.5
    """
    return -(logps / lengths).mean()


def token_logps(states: Tensor, targets: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    """The log-probability of each target under the output head at its state: shape (tokens,), in single precision.

    >>> import torch
    >>> round(token_logps(torch.zeros(1, 2), torch.tensor([1]), lambda states: states).item(), 4)
    -0.6931
    """
    return -functional.cross_entropy(project(states).float(), targets, reduction="none")


def label_logps(hidden: Tensor, labels: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    """The log-probability of each next label: shape (rows, tokens - 1), 0.0 where the label is `IGNORED`.

    `hidden` (rows, tokens, width) are the last layer's states, `labels` (rows, tokens) belong to the same positions,
    and `project` is the output head, which sees only positions with a label.

    >>> import torch
    >>> hidden, labels = torch.zeros(1, 3, 2), torch.tensor([[IGNORED, IGNORED, 1]])
    >>> [round(each, 4) for each in label_logps(hidden, labels, lambda states: states).tolist()[0]]
    [0.0, -0.6931]
    """
    following = labels[:, 1:]
    wanted = following != IGNORED
    found = token_logps(hidden[:, :-1][wanted], following[wanted], project)
    return found.new_zeros(wanted.shape).masked_scatter(wanted, found)


@dataclass
class Scored(ModelOutput):
    """What a model returns instead of logits: log-probabilities, of each token or of each completion."""

    log_probs: Tensor | None = None


def score_labels_only(model: PreTrainedModel) -> None:
    """Give `model` the forward pass that TRL's trainers call, with an output head that sees only labelled positions.

    TRL's own does so on CUDA; elsewhere it projects every position, and again in the backward pass: a third of a small
    model's step. Left as it is on CUDA, and for models that change the logits after the head.
    """
    config = model.config.get_text_config()
    if model.device.type == "cuda" or any(getattr(config, name, None) not in (None, 1.0) for name in RESCALING):
        return

    def forward(*, labels: Tensor, fused_lm_head: bool, **inputs: Tensor) -> Scored:  # noqa: ARG001
        hidden = model.base_model(**inputs).last_hidden_state
        head = cast("Callable[[Tensor], Tensor]", model.get_output_embeddings())
        return Scored(label_logps(hidden, labels, head))

    model.forward = forward
