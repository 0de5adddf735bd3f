"""A worker's side of the way to its caller: one JSON object a line, from standard input and to standard output."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]
AnswerFunction = Callable[[Message], Message]


def serve(prepare: Callable[[Message, int], AnswerFunction]) -> None:
    """Answers requests until the caller ends, or closes its side.

    The first line holds the settings. `prepare` takes them, and the descriptor that requests come from, and returns
    what answers a request; where it raises `OSError`, the caller gets the reason and no request is read.
    """
    with os.fdopen(os.dup(0), "rb") as requests, os.fdopen(os.dup(1), "wb") as answers:
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)
        os.close(nothing)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller handles its Ctrl-C

        def send(message: Message) -> None:
            answers.write(json.dumps(message).encode() + b"\n")
            answers.flush()

        try:
            answer = prepare(json.loads(requests.readline()), requests.fileno())
        except OSError as refused:
            send({"problem": str(refused)})
            return
        send({"problem": ""})
        for request in requests:
            send(answer(json.loads(request)))
