"""A simulated language model, for examples whose task the embedded actors cannot do: a script.

It is a real `dspy.LM` over an engine of DSPy's contract, so all other code works as with a model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import dspy
from dspy.lm15 import Message, Request, Response, Usage

Fields = Mapping[str, str]
Script = Callable[[Fields, list[str]], Fields]
"""Maps the inputs by name and the names of the wanted outputs to the outputs."""

_FIELD = re.compile(r"^\[\[ ## (\w+) ## \]\]\n(.*?)(?=^\[\[ ## |\Z)", re.DOTALL | re.MULTILINE)


def scripted_lm(script: Script) -> dspy.LM:
    """Return an LM that answers the last message of `dspy.ChatAdapter` by a script.

    >>> adder = scripted_lm(lambda given, wanted: {"answer": "4"})
    >>> with dspy.context(lm=adder):
    ...     dspy.Predict("question -> answer")(question="2+2?").answer
    '4'
    """
    return dspy.LM("scripted/actor", engine=_Engine(script), cache=False, num_retries=0)


class _Engine:
    """Implements DSPy's engine contract with a script. A token is a word here."""

    def __init__(self, script: Script) -> None:
        self._script = script

    def complete(self, request: Request) -> Response:
        """Return the script's answer to the last message."""
        asked, _, wanted = (request.messages[-1].text or "").rpartition("Respond with the corresponding output fields")
        given = {name: text.strip() for name, text in _FIELD.findall(asked)}
        names = [name for name in re.findall(r"`\[\[ ## (\w+) ## \]\]`", wanted) if name != "completed"]
        outputs = self._script(given, names)
        parts = [f"[[ ## {name} ## ]]\n{text}" for name, text in outputs.items()]
        answer = "\n\n".join([*parts, "[[ ## completed ## ]]"])
        read, wrote = len(asked.split()), len(answer.split())
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant(answer),
            finish_reason="stop",
            usage=Usage(input_tokens=read, output_tokens=wrote, total_tokens=read + wrote),
        )
