"""The losses of a DPO round, and the log-probabilities they are made of (natural logarithms)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

IGNORED = -100
"""The label of a token that is not trained on."""


def dpo_loss(
    chosen: Tensor, rejected: Tensor, chosen_reference: Tensor, rejected_reference: Tensor, beta: float
) -> Tensor:
    """The mean over pairs of -log sigmoid(beta * ((chosen - its reference) - (rejected - its reference))).

    Each argument holds one sum of token log-probabilities a pair: shape (pairs,). Source: DPO
    (arXiv 2305.18290), equation 7.

    Where policy and reference agree, the loss of any pair is log 2:

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
    all 10 tokens is 1.8.

    >>> import torch
    >>> sequence_nll(torch.tensor([-2.0, -16.0]), torch.tensor([2, 8])).item()
    1.5
    """
    return -(logps / lengths).mean()


def token_logps(states: Tensor, targets: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    """The log-probability of each target, with the output head `project` at its state: shape (tokens,), in float32.

    >>> import torch
    >>> round(token_logps(torch.zeros(1, 2), torch.tensor([1]), lambda states: states).item(), 4)
    -0.6931
    """
    return -functional.cross_entropy(project(states).float(), targets, reduction="none")


def label_logps(hidden: Tensor, labels: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    """The log-probability of each next label: shape (rows, tokens - 1), 0.0 where the label is `IGNORED`.

    `hidden` (rows, tokens, width) are the last layer's states, `labels` (rows, tokens) belong to the same positions.
    The output head `project` reads only positions with a label.

    >>> import torch
    >>> hidden, labels = torch.zeros(1, 3, 2), torch.tensor([[IGNORED, IGNORED, 1]])
    >>> [round(each, 4) for each in label_logps(hidden, labels, lambda states: states).tolist()[0]]
    [0.0, -0.6931]
    """
    next_labels = labels[:, 1:]
    labelled = next_labels != IGNORED
    logps = token_logps(hidden[:, :-1][labelled], next_labels[labelled], project)
    return logps.new_zeros(labelled.shape).masked_scatter(labelled, logps)
