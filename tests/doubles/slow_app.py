"""A program, a metric and a model so slow that its first batch takes minutes; for runs that are stopped meanwhile.

`SLOW_SECONDS` is what each layer's feed-forward part takes longer, `SLOW_ACTOR` the folder of the actor's model, where
it is a local one.
"""

from __future__ import annotations

import os
import sys
import threading
import time

import dspy
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from sgt_modules.local.activity import list_activities
from sgt_modules.local.engine import LocalEngine

_SECONDS = float(os.environ.get("SLOW_SECONDS", "0"))


def _slow(module: nn.Module, _: object) -> None:
    if type(module).__name__.endswith("MLP"):
        time.sleep(_SECONDS)


def _tell() -> None:
    """Say on standard output when a model is in the midst of each kind of work."""
    told: set[str] = set()
    while True:
        for each in list_activities():
            if each.phase not in told:
                told.add(each.phase)
                print(each.phase, each.model, flush=True)
        time.sleep(0.02)


class Echo:
    """An actor that answers at once."""

    def complete(self, request: dspy.lm15.Request) -> dspy.lm15.Response:
        """The same to everybody."""
        text = "[[ ## answer ## ]]\nno\n\n[[ ## completed ## ]]"
        message = dspy.lm15.Message.assistant([dspy.lm15.TextPart(text)])
        usage = dspy.lm15.Usage(input_tokens=1, output_tokens=1)
        return dspy.lm15.Response(None, request.model, message, finish_reason="stop", usage=usage)


def program() -> dspy.Module:
    """A program with an LM of its own."""
    made = dspy.Predict("question -> answer")
    folder = os.environ.get("SLOW_ACTOR")
    if folder:
        engine = LocalEngine(folder, max_new_tokens=400)
        made.set_lm(dspy.LM(engine.model_name, engine=engine, async_engine=engine.asynchronous(), cache=False))
    else:
        made.set_lm(dspy.LM("echo/actor", engine=Echo(), cache=False))
    return made


def metric(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    """Whether the answer is the example's."""
    return str(example.answer) == str(prediction.answer)


if _SECONDS:
    register_module_forward_pre_hook(_slow)
if sys.argv[0].endswith("sgt") or "optimizers.cli" in " ".join(sys.argv):
    threading.Thread(target=_tell, daemon=True).start()
