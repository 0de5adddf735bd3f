"""A model that tells a `Work` how far each pass is, and may be stopped within one: by hooks, for as long as asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sgt_modules.local.activity import Work


@contextmanager
def watched(model: PreTrainedModel, work: Work, *, inside: bool) -> Iterator[None]:
    """Inside, `work` counts what goes through the model, and is checked before each pass.

    With `inside` it is checked before each part of a layer too, as a pass of a large model takes seconds.
    """
    decoder = cast("nn.Module", model.get_decoder())

    def begins(_: nn.Module, given: Sequence[object], named: Mapping[str, object]) -> None:
        work.check()
        ids = given[0] if given else named.get("input_ids")
        if isinstance(ids, Tensor) and ids.ndim >= 2:
            work.passing(ids.shape[0], ids.shape[1])

    def ends(*_: object) -> None:
        work.passed()

    with ExitStack() as hooks:
        hooks.callback(decoder.register_forward_pre_hook(begins, with_kwargs=True).remove)
        hooks.callback(decoder.register_forward_hook(ends).remove)
        parts = parts_of(decoder) if inside else []
        for number, part in enumerate(parts):
            at = partial(_within, work, number / len(parts))
            hooks.callback(part.register_forward_pre_hook(at).remove)
        yield


def parts_of(decoder: nn.Module) -> list[nn.Module]:
    """The parts of a decoder's layers (attention, feed-forward, norms), in their order."""
    lists = [each for each in decoder.children() if isinstance(each, nn.ModuleList)]
    layers = max(lists, key=len, default=[])
    return [part for layer in layers for part in layer.children()]


@contextmanager
def stoppable(model: nn.Module, check: Callable[[], None]) -> Iterator[None]:
    """Inside, `check` is called before each part of a layer, forwards and backwards; what it raises ends the pass.

    A step of training takes half a minute, and its backward half lets no signal through but in such a call.
    """

    def forwards(_: nn.Module, __: object) -> None:
        check()

    def backwards(_: nn.Module, __: object, output: object) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, Tensor) and first.requires_grad:
            first.register_hook(seen)

    def seen(_: Tensor) -> None:
        check()

    layers = [each for each in model.modules() if isinstance(each, nn.ModuleList)]
    with ExitStack() as hooks:
        for layer in max(layers, key=len, default=[]):
            for part in layer.children():
                hooks.callback(part.register_forward_pre_hook(forwards).remove)
                hooks.callback(part.register_forward_hook(backwards).remove)
        yield


def _within(work: Work, share: float, *_: object) -> None:
    work.check()
    work.passes(share)
