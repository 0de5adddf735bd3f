"""An actor for several processes: it answers by rule, and notes each call it was paid for in a file.

Ray's workers import this module, so it imports little.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import dspy
from dspy.lm15 import Message, RateLimitError, Request, Response, Usage


class Paid(NamedTuple):
    """One call: which process made it, and the question and supplement it was about."""

    process: int
    asked: str


@dataclass(frozen=True)
class PayingEngine:
    """Answers n for the question `n+1?`, and n+1 where a supplement says `Add one.`; slowly, if so wished.

    Whoever asks `deadly` dies of it, as of a crash in native code; `down` is answered with a provider's error.
    """

    notes: Path
    seconds: float = 0.0
    deadly: str = "nothing"
    down: str = "nothing"

    def complete(self, request: Request) -> Response:
        text = request.messages[-1].text or ""
        asked = " ".join(text.split("Respond with")[0].split())
        with self.notes.open("a") as file:
            file.write(f"{os.getpid()}\t{asked}\n")
        time.sleep(self.seconds)
        if self.deadly in text:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.down in text:
            raise RateLimitError("slow down")
        number = int(text.split("+1?")[0].split()[-1])
        answer = f"[[ ## answer ## ]]\n{number + ('Add one.' in text)}\n\n[[ ## completed ## ]]"
        usage = Usage(input_tokens=len(text.split()), output_tokens=1, total_tokens=len(text.split()) + 1)
        return Response(
            id=None, model=request.model, message=Message.assistant(answer), finish_reason="stop", usage=usage
        )

    def lm(self) -> dspy.LM:
        """A `dspy.LM` over it that neither caches nor retries."""
        return dspy.LM("scripted/actor", engine=self, cache=False, num_retries=0)

    def paid(self) -> list[Paid]:
        """Every call so far, whichever process made it."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [Paid(int(process), asked) for process, _, asked in (line.partition("\t") for line in lines)]


def right(example: dspy.Example, prediction: dspy.Prediction) -> bool:
    """Whether it added."""
    return prediction.answer == example.answer
