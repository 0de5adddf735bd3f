"""Hooks on a model's modules: they count its forward passes for a `Work`, and check for cancellation within a pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sgt_modules.local.work_progress import Work


@contextmanager
def track_passes(model: PreTrainedModel, work: Work, *, inside: bool) -> Iterator[None]:
    """Inside the block, `work` counts the model's forward passes and is checked before each one.

    With `inside` it is also checked before each part of a layer, as a pass of a large model takes seconds.
    """
    decoder = cast("nn.Module", model.get_decoder())

    def begin(_: nn.Module, positional: Sequence[object], named: Mapping[str, object]) -> None:
        work.check()
        ids = positional[0] if positional else named.get("input_ids")
        if isinstance(ids, Tensor) and ids.ndim >= 2:
            work.begin_pass(ids.shape[0], ids.shape[1])

    def end(*_: object) -> None:
        work.end_pass()

    with ExitStack() as hooks:
        hooks.callback(decoder.register_forward_pre_hook(begin, with_kwargs=True).remove)
        hooks.callback(decoder.register_forward_hook(end).remove)
        parts = list_layer_parts(decoder) if inside else []
        for number, part in enumerate(parts):
            check = partial(_check_part, work, number / len(parts))
            hooks.callback(part.register_forward_pre_hook(check).remove)
        yield


def list_layer_parts(decoder: nn.Module) -> list[nn.Module]:
    """The parts of a decoder's layers (attention, feed-forward, norms), in their order."""
    lists = [each for each in decoder.children() if isinstance(each, nn.ModuleList)]
    layers = max(lists, key=len, default=[])
    return [part for layer in layers for part in layer.children()]


@contextmanager
def check_during_passes(model: nn.Module, check: Callable[[], None]) -> Iterator[None]:
    """Inside the block, `check` is called before each part of a layer, forwards and backwards; its error ends the pass.

    A training step takes half a minute, and Python handles a signal in the backward pass only within such a call.
    """

    def check_forwards(_: nn.Module, __: object) -> None:
        check()

    def hook_output(_: nn.Module, __: object, output: object) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, Tensor) and first.requires_grad:
            first.register_hook(check_backwards)

    def check_backwards(_: Tensor) -> None:
        check()

    layers = [each for each in model.modules() if isinstance(each, nn.ModuleList)]
    with ExitStack() as hooks:
        for layer in max(layers, key=len, default=[]):
            for part in layer.children():
                hooks.callback(part.register_forward_pre_hook(check_forwards).remove)
                hooks.callback(part.register_forward_hook(hook_output).remove)
        yield


def _check_part(work: Work, share: float, *_: object) -> None:
    work.check()
    work.set_pass_share(share)
