"""The losses of a round of DPO or GRPO, and the log-probabilities they are made of (natural logarithms)."""

from __future__ import annotations

from collections.abc import Callable

import torch
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


def grpo_loss(
    logps: Tensor,
    start: Tensor,
    mask: Tensor,
    advantages: Tensor,
    *,
    clip_range: float,
    kl_weight: float,
    length: float | None,
) -> Tensor:
    """The mean over samples of the clipped objective, negative, and `kl_weight` times the KL to the start.

    `logps` and `start` are the log-probabilities of tokens now and at the start of the round, where the samples were
    drawn: shape (samples, tokens); `mask` is True at a sample's tokens, `advantages` has shape (samples,). With the
    ratio r = exp(logps - start), a token's loss is -min(r A, clip(r, 1 - clip_range, 1 + clip_range) A) + kl_weight
    (r log r - r + 1). The second term estimates the reverse KL: as samples come from the start, the mean of r log r is
    that KL, and 1 - r has the mean 0 and lowers the variance. The sum over a sample's tokens is divided by `length`,
    one number for all samples, so that a token counts the same in each; with None by the sample's own length, which
    makes the tokens of long samples count less.

    Sources: GRPO (arXiv 2402.03300), equation 3; the KL times r is that of DeepSeek-V3.2 (arXiv 2512.02556); the
    constant is Dr. GRPO's (arXiv 2503.20783).

    At the start the ratio is 1 and the KL 0, so one sample's loss is minus its advantage:

    >>> same, mask = torch.tensor([[-1.0, -2.0]]), torch.tensor([[True, True]])
    >>> grpo_loss(same, same, mask, torch.tensor([0.5]), clip_range=0.2, kl_weight=0.04, length=None).item()
    -0.5
    """
    change, advantages = logps - start, advantages[:, None]
    ratio = change.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    losses = -torch.minimum(ratio * advantages, clipped * advantages)
    if kl_weight:
        losses = losses + kl_weight * (ratio * change - ratio + 1)
    lengths = mask.sum(1) if length is None else length
    return ((losses * mask).sum(1) / lengths).mean()


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
