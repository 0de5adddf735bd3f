"""The losses against numbers derived by hand."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from optimizers.training.forward_passes import install_label_forward
from optimizers.training.losses import IGNORED, dpo_loss, label_logps, sequence_nll


def test_the_preference_loss_of_two_pairs_is_the_number_derived_by_hand():
    """beta = 0.5; the log-ratios of pair 1 are 2 (chosen) and -2 (rejected), of pair 2 they are 0 and 2.

    Margins: 2 - (-2) = 4 and 0 - 2 = -2; times beta 2 and -1. -log sigmoid(x) = log(1 + e^-x):
    log(1 + e^-2) = 0.126928 and log(1 + e^1) = 1.313262, their mean is 0.720095.
    """
    chosen, chosen_reference = torch.tensor([-3.0, -7.0]), torch.tensor([-5.0, -7.0])
    rejected, rejected_reference = torch.tensor([-9.0, -4.0]), torch.tensor([-7.0, -6.0])
    loss = dpo_loss(chosen, rejected, chosen_reference, rejected_reference, beta=0.5)
    assert loss.item() == pytest.approx(0.720095, abs=1e-6)


def test_the_preference_loss_pushes_chosen_up_and_rejected_down_by_beta_over_two_at_the_start():
    """At margin 0 the derivative of -log sigmoid(beta * m) is -beta / 2 a pair; the mean over two pairs halves it."""
    chosen = torch.tensor([-3.0, -4.0], requires_grad=True)
    rejected = torch.tensor([-5.0, -6.0], requires_grad=True)
    dpo_loss(chosen, rejected, chosen.detach(), rejected.detach(), beta=0.1).backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.tolist() == pytest.approx([-0.025, -0.025])
    assert rejected.grad.tolist() == pytest.approx([0.025, 0.025])


def test_the_nll_is_a_mean_over_sequences_and_not_over_tokens():
    """Lengths 2 and 8 at 1 and 2 nats a token.

    Over sequences: (2/2 + 16/8) / 2 = 1.5. Over the 10 tokens, as TRL's `sft` term would: (2 + 16) / 10 = 1.8.
    """
    logps, lengths = torch.tensor([-2.0, -16.0]), torch.tensor([2, 8])
    assert sequence_nll(logps, lengths).item() == pytest.approx(1.5)
    assert (-logps.sum() / lengths.sum()).item() == pytest.approx(1.8)


def test_each_sequence_has_the_same_weight_in_the_nll_whatever_its_length():
    """d/dp of mean(-p / length) over 2 sequences is -1 / (2 * length): a token of the short one weighs 4 times more."""
    logps = torch.tensor([-2.0, -16.0], requires_grad=True)
    sequence_nll(logps, torch.tensor([2, 8])).backward()
    assert logps.grad is not None
    assert logps.grad.tolist() == pytest.approx([-1 / 4, -1 / 16])


def test_label_log_probabilities_are_those_of_the_whole_softmax_at_labelled_positions_and_zero_elsewhere():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 4, 3, generator=generator)
    head = torch.randn(5, 3, generator=generator)
    labels = torch.tensor([[IGNORED, IGNORED, 4, 1], [IGNORED, 2, IGNORED, IGNORED]])
    found = label_logps(hidden, labels, lambda states: states @ head.T)
    whole = (hidden @ head.T).log_softmax(-1)
    expected = torch.zeros(2, 3)
    expected[0, 1], expected[0, 2], expected[1, 0] = whole[0, 1, 4], whole[0, 2, 1], whole[1, 0, 2]
    torch.testing.assert_close(found, expected)


def test_a_batch_without_labels_gives_zeros_that_can_be_differentiated():
    hidden = torch.zeros(1, 2, 3, requires_grad=True)
    found = label_logps(hidden, torch.full((1, 2), IGNORED), lambda states: states)
    found.sum().backward()
    assert found.tolist() == [[0.0]]


def test_the_labels_only_forward_pass_agrees_with_the_models_own_loss():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=30, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    ids, mask = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    labels = torch.tensor([[IGNORED, IGNORED, 7, 8], [IGNORED, IGNORED, 11, IGNORED]])
    own = model(input_ids=ids, attention_mask=mask, labels=labels).loss.item()
    install_label_forward(model)
    log_probs = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True).log_probs
    assert -log_probs.sum().item() / 3 == pytest.approx(own, rel=1e-5)
