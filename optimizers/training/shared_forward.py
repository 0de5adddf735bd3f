"""Blocks of a prompt and its completions as tensors, and the completions' log-probabilities from one forward pass.

A completion sees its prompt and itself; its positions go on from the prompt's, wherever in the block it stands. So its
log-probability is what it would be in a row of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from optimizers.training.losses import IGNORED, RESCALING, Scored, token_logps
from optimizers.training.shared_pairs import Block

HEAD = 2048
"""Positions that the output head sees at once: more would need gigabytes with a large vocabulary."""

_PROMPT, _PADDING = 0, -1
_ALIKE = 0.05


def laid_out(blocks: Sequence[Block], padding: int) -> dict[str, Tensor]:
    """What `score_completions` reads: a row a block, a line of `sources` and `targets` a completion.

    `segments` (rows, tokens) is 0 in a prompt, 1, 2, ... in its completions, -1 in padding; `targets` (completions,
    tokens) are the completions' tokens and `sources` the flat places of the states that predict them.

    >>> rows = laid_out([Block([7, 8], ([1], [2, 3]))], padding=0)
    >>> rows["input_ids"].tolist(), rows["position_ids"].tolist(), rows["segments"].tolist()
    ([[7, 8, 1, 2, 3]], [[0, 1, 2, 2, 3]], [[0, 0, 1, 2, 2]])
    >>> rows["sources"].tolist(), rows["targets"].tolist()
    ([[1, 0], [1, 3]], [[1, -100], [2, 3]])
    """
    width = max(block.length for block in blocks)
    ids: list[Tensor] = []
    positions: list[Tensor] = []
    segments: list[Tensor] = []
    sources: list[Tensor] = []
    targets: list[Tensor] = []
    for row, block in enumerate(blocks):
        end = start = len(block.prompt)
        tokens, places, owners = list(block.prompt), list(range(end)), [_PROMPT] * end
        for owner, completion in enumerate(block.completions, start=1):
            size = len(completion)
            tokens += completion
            places += range(end, end + size)
            owners += [owner] * size
            sources.append(torch.tensor([end - 1, *range(start, start + size - 1)]) + row * width)
            targets.append(torch.tensor(completion))
            start += size
        ids.append(torch.tensor(tokens))
        positions.append(torch.tensor(places))
        segments.append(torch.tensor(owners))
    return {
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=padding),
        "position_ids": pad_sequence(positions, batch_first=True),
        "segments": pad_sequence(segments, batch_first=True, padding_value=_PADDING),
        "sources": pad_sequence(sources, batch_first=True),
        "targets": pad_sequence(targets, batch_first=True, padding_value=IGNORED),
    }


def block_mask(segments: Tensor) -> Tensor:
    """Who sees whom: shape (rows, 1, tokens, tokens), True where a token (third axis) sees another (fourth).

    >>> block_mask(torch.tensor([[0, 1, 2, 2]]))[0, 0].int().tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]
    """
    seeing, seen = segments[:, :, None], segments[:, None, :]
    return ((seen == _PROMPT) | (seen == seeing)).tril()[:, None]


def attention_inputs(segments: Tensor, position_ids: Tensor) -> dict[str, Tensor]:
    """What tells a model about the blocks: nothing unusual where each has one completion, which any model takes."""
    if int(segments.max()) > 1:
        return {"attention_mask": block_mask(segments), "position_ids": position_ids}
    return {"attention_mask": (segments != _PADDING).long()}


def score_completions(model: PreTrainedModel) -> None:
    """Give `model` a forward pass from `laid_out` to `Scored`, with one log-probability a completion.

    The output head sees only the states that predict a completion's token; models that change the logits after the
    head make all of them.
    """
    config = model.config.get_text_config()
    rescaled = any(getattr(config, name, None) not in (None, 1.0) for name in RESCALING)
    logits_of = cast("Callable[..., Tensor]", lambda **inputs: type(model).forward(model, **inputs).logits)

    def forward(
        *,
        input_ids: Tensor,
        position_ids: Tensor,
        segments: Tensor,
        sources: Tensor,
        targets: Tensor,
        **unused: object,  # noqa: ARG001  PEFT passes on what it knows by name, None where not given
    ) -> Scored:
        inputs = {"input_ids": input_ids, "use_cache": False, **attention_inputs(segments, position_ids)}
        wanted = targets != IGNORED
        if rescaled:
            states, project = logits_of(**inputs), _unchanged
        else:
            states = model.base_model(**inputs).last_hidden_state
            project = cast("Callable[[Tensor], Tensor]", model.get_output_embeddings())
        found = _chunked_logps(states.flatten(0, 1)[sources[wanted]], targets[wanted], project)
        return Scored(found.new_zeros(wanted.shape).masked_scatter(wanted, found).sum(1))

    model.forward = forward


def _unchanged(logits: Tensor) -> Tensor:
    return logits


def _chunked_logps(states: Tensor, targets: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    """`token_logps`, a chunk at a time and again in the backward pass where the whole would be large."""
    if len(states) <= HEAD:
        return token_logps(states, targets, project)
    chunks = zip(states.split(HEAD), targets.split(HEAD), strict=True)
    return torch.cat([checkpoint(token_logps, *chunk, project, use_reentrant=False) for chunk in chunks])


def shares_prompts(model: PreTrainedModel) -> bool:
    """Whether completions in one block get the states that they would have in rows of their own.

    So it is where attention is PyTorch's, full in every layer, and a block mask and positions are honoured; the last is
    tried. Elsewhere (windows, recurrent layers, flash attention) each completion is read with its own prompt.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if getattr(config, "_attn_implementation", "") != "sdpa" or kinds != {"full_attention"}:
        return False
    first, second = Block([1, 2, 3], ([4], [5, 6])), Block([1, 2, 3], ([5, 6],))
    vocabulary = int(config.vocab_size)
    with torch.no_grad():
        try:
            packed, alone = (_last_states(model, block, vocabulary) for block in (first, second))
        except (TypeError, ValueError, RuntimeError):
            return False
    return bool((packed - alone).norm() <= _ALIKE * alone.norm())


def _last_states(model: PreTrainedModel, block: Block, vocabulary: int) -> Tensor:
    rows = {name: each.to(model.device) for name, each in laid_out([block], padding=0).items()}
    inputs = attention_inputs(rows["segments"], rows["position_ids"])
    return model.base_model(input_ids=rows["input_ids"] % vocabulary, use_cache=False, **inputs).last_hidden_state[
        0, -2:
    ]
