"""Forward passes that return log-probabilities instead of logits: of labels in SFT, of completions in DPO and GRPO.

In those two a model reads a prompt and its completions as one block. A completion sees its prompt and itself, and its
positions follow the prompt's, wherever it stands in the block. So its log-probability is the one it has in a row of its
own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from optimizers.training.losses import IGNORED, label_logps, token_logps
from optimizers.training.tokenisation import TokenRow

HEAD_CHUNK = 2048
"""Positions that the output head reads at once: more would take gigabytes with a large vocabulary."""

_RESCALING = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
"""Settings of a model's config that change the logits after the output head."""

_PROMPT, _PADDING = 0, -1
_TOLERANCE = 0.05  # relative: far above rounding in bfloat16, far below what a wrong mask does


@dataclass
class LogProbs(ModelOutput):
    """What a model returns instead of logits: the log-probability of each token (SFT, GRPO) or completion (DPO)."""

    log_probs: Tensor | None = None


def install_label_forward(model: PreTrainedModel) -> None:
    """Give `model` the forward pass that TRL's SFT trainer calls; its output head reads only labelled positions.

    TRL's own forward pass does the same on CUDA, and is left there. Elsewhere it projects every position, and again in
    the backward pass: a third of a small model's step. Models that change the logits after the head also keep TRL's.
    """
    if model.device.type == "cuda" or _rescales_logits(model):
        return

    def forward(*, labels: Tensor, fused_lm_head: bool, **inputs: Tensor) -> LogProbs:  # noqa: ARG001
        hidden = model.base_model(**inputs).last_hidden_state
        return LogProbs(label_logps(hidden, labels, _get_output_head(model)))

    model.forward = forward


def install_completion_forward(model: PreTrainedModel, *, by_token: bool = False) -> None:
    """Give `model` a forward pass that reads what `build_inputs` gives and returns one log-probability a completion.

    With `by_token`, it returns one a token: shape (completions, tokens), 0.0 behind a completion's end.
    The output head reads only the states that predict a token of a completion; models that change the logits after the
    head compute all logits.
    """
    rescales = _rescales_logits(model)
    compute_logits = cast("Callable[..., Tensor]", lambda **inputs: type(model).forward(model, **inputs).logits)

    def forward(
        *,
        input_ids: Tensor,
        position_ids: Tensor,
        segments: Tensor,
        sources: Tensor,
        targets: Tensor,
        **unused: object,  # noqa: ARG001  PEFT passes every argument it has a name for, None where not given
    ) -> LogProbs:
        inputs = {"input_ids": input_ids, "use_cache": False, **build_attention_inputs(segments, position_ids)}
        predicted = targets != IGNORED
        if rescales:
            states, project = compute_logits(**inputs), nn.Identity()
        else:
            states, project = model.base_model(**inputs).last_hidden_state, _get_output_head(model)
        logps = _compute_chunked_logps(states.flatten(0, 1)[sources[predicted]], targets[predicted], project)
        of_tokens = logps.new_zeros(predicted.shape).masked_scatter(predicted, logps)
        return LogProbs(of_tokens if by_token else of_tokens.sum(1))

    model.forward = forward


def build_inputs(blocks: Sequence[TokenRow], padding: int) -> dict[str, Tensor]:
    """The tensors that the forward pass for completions reads: a row a block, a line of `sources` and `targets` a
    completion.

    `segments` (rows, tokens) is 0 in a prompt, 1, 2, ... in its completions, -1 in padding; `targets` (completions,
    tokens) are the completions' tokens and `sources` the flat positions of the states that predict them.

    >>> rows = build_inputs([TokenRow([7, 8], ([1], [2, 3]))], padding=0)
    >>> rows["input_ids"].tolist(), rows["position_ids"].tolist(), rows["segments"].tolist()
    ([[7, 8, 1, 2, 3]], [[0, 1, 2, 2, 3]], [[0, 0, 1, 2, 2]])
    >>> rows["sources"].tolist(), rows["targets"].tolist()
    ([[1, 0], [1, 3]], [[1, -100], [2, 3]])
    """
    width = max(block.shared_length for block in blocks)
    ids: list[Tensor] = []
    positions: list[Tensor] = []
    segments: list[Tensor] = []
    sources: list[Tensor] = []
    targets: list[Tensor] = []
    for row, block in enumerate(blocks):
        prompt_end = start = len(block.prompt)
        tokens, places, owners = list(block.prompt), list(range(prompt_end)), [_PROMPT] * prompt_end
        for owner, completion in enumerate(block.completions, start=1):
            size = len(completion)
            tokens += completion
            places += range(prompt_end, prompt_end + size)
            owners += [owner] * size
            sources.append(torch.tensor([prompt_end - 1, *range(start, start + size - 1)]) + row * width)
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


def build_block_mask(segments: Tensor) -> Tensor:
    """The attention mask of blocks: shape (rows, 1, tokens, tokens), True where a token (third axis) sees another
    (fourth).

    >>> build_block_mask(torch.tensor([[0, 1, 2, 2]]))[0, 0].int().tolist()
    [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]]
    """
    seeing, seen = segments[:, :, None], segments[:, None, :]
    return ((seen == _PROMPT) | (seen == seeing)).tril()[:, None]


def build_attention_inputs(segments: Tensor, position_ids: Tensor) -> dict[str, Tensor]:
    """A model's arguments for attention: a plain mask, which any model takes, where each block has one completion."""
    if int(segments.max()) > 1:
        return {"attention_mask": build_block_mask(segments), "position_ids": position_ids}
    return {"attention_mask": (segments != _PADDING).long()}


def can_share_prompts(model: PreTrainedModel) -> bool:
    """Whether completions in one block get the states that they have in rows of their own.

    True where attention is PyTorch's and full in every layer, and where the model honours a block mask and positions,
    which a small pass checks. Otherwise (windows, recurrent layers, flash attention) each completion needs its own copy
    of the prompt.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if getattr(config, "_attn_implementation", "") != "sdpa" or kinds != {"full_attention"}:
        return False
    shared, alone = TokenRow([1, 2, 3], ([4], [5, 6])), TokenRow([1, 2, 3], ([5, 6],))
    with torch.no_grad():
        try:
            found, expected = (_compute_last_states(model, block, int(config.vocab_size)) for block in (shared, alone))
        except (TypeError, ValueError, RuntimeError):
            return False
    return bool((found - expected).norm() <= _TOLERANCE * expected.norm())


def _compute_last_states(model: PreTrainedModel, block: TokenRow, vocabulary: int) -> Tensor:
    rows = {name: each.to(model.device) for name, each in build_inputs([block], padding=0).items()}
    inputs = build_attention_inputs(rows["segments"], rows["position_ids"])
    outputs = model.base_model(input_ids=rows["input_ids"] % vocabulary, use_cache=False, **inputs)
    return outputs.last_hidden_state[0, -2:]


def _compute_chunked_logps(states: Tensor, targets: Tensor, project: Callable[[Tensor], Tensor]) -> Tensor:
    """`token_logps`; where there are many states, chunk by chunk, and computed again in the backward pass."""
    if len(states) <= HEAD_CHUNK:
        return token_logps(states, targets, project)
    chunks = zip(states.split(HEAD_CHUNK), targets.split(HEAD_CHUNK), strict=True)
    return torch.cat([checkpoint(token_logps, *chunk, project, use_reentrant=False) for chunk in chunks])


def _get_output_head(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    return cast("Callable[[Tensor], Tensor]", model.get_output_embeddings())


def _rescales_logits(model: PreTrainedModel) -> bool:
    config = model.config.get_text_config()
    return any(getattr(config, name, None) not in (None, 1.0) for name in _RESCALING)
