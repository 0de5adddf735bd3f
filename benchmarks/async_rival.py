"""The rival of serving with threads: coroutines whose calls wait for transformers' `generate` over padded batches.

It is what a user writes without our queue: one program, one batching client for each model, and `asyncio.gather`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass

import dspy
from dspy.lm15 import Request, Response
from padded_batch import PaddedBatches

from sgt_modules.backend import answer, chat
from sgt_modules.generator_prompt import COMPACT
from sgt_modules.local.chat_template import render_chat
from sgt_modules.local.devices import use_one_core
from sgt_modules.prompts import SUPPLEMENT, with_supplement
from sgt_modules.samples import Sample


@dataclass(frozen=True, slots=True)
class Batching:
    """How a client collects calls: the most of a batch, the seconds it waits for more, and one core or all."""

    size: int
    wait: float
    one_core: bool

    def __str__(self) -> str:
        return f"batches of {self.size}, wait {self.wait * 1000:.0f} ms, {'one core' if self.one_core else 'all cores'}"


class BatchingClient:
    """Answers chats of many coroutines together. Use `running()` around the calls."""

    def __init__(self, model: PaddedBatches, batching: Batching) -> None:
        self._model, self._batching = model, batching
        self._waiting: asyncio.Queue[tuple[str, asyncio.Future[str]]] = asyncio.Queue()

    async def ask(self, text: str) -> str:
        """Return the reply to a rendered chat."""
        reply = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((text, reply))
        return await reply

    async def complete(self, request: Request) -> Response:
        """Answer DSPy, as an async engine."""
        return answer(request, Sample(await self.ask(render_chat(self._model.tokenizer, chat(request))), 0, 0, 0.0))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve inside, in a thread of this model's own."""
        with ThreadPoolExecutor(1) as thread:
            server = asyncio.create_task(self._serve(thread))
            try:
                yield
            finally:
                server.cancel()

    async def _serve(self, thread: ThreadPoolExecutor) -> None:
        while True:
            batch = [await self._waiting.get()]
            await asyncio.sleep(self._batching.wait)
            while len(batch) < self._batching.size and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            texts = [text for text, _ in batch]
            replies = await asyncio.get_running_loop().run_in_executor(thread, self._write, texts)
            for (_, future), reply in zip(batch, replies, strict=True):
                future.set_result(reply)

    def _write(self, texts: Sequence[str]) -> list[str]:
        with use_one_core() if self._batching.one_core else nullcontext():
            return self._model.write(texts, self._batching.size)[0]


class _NoSyncEngine:
    """The synchronous half of an LM that only coroutines call."""

    def complete(self, request: Request) -> Response:
        raise NotImplementedError(f"Expected a call of `acall`, got a synchronous one of {request.model}.")


async def answer_all(
    program: dspy.Predict,
    examples: Sequence[dspy.Example],
    generator: PaddedBatches,
    actor: PaddedBatches,
    batching: Batching,
    at_once: int,
) -> list[dspy.Prediction]:
    """Answer all examples, `at_once` at a time: a supplement from the generator, then the actor."""
    writer, speaker = BatchingClient(generator, batching), BatchingClient(actor, batching)
    supplemented = dspy.Predict(with_supplement(program.signature))
    lm = dspy.LM("rival/actor", engine=_NoSyncEngine(), async_engine=speaker, cache=False)
    left: Iterator[tuple[int, dspy.Example]] = iter(enumerate(examples))
    answers: dict[int, dspy.Prediction] = {}

    async def call() -> None:
        for place, example in left:
            prompt = COMPACT.write(program.signature, example.inputs().toDict())
            written = await writer.ask(generator.render([prompt])[0])
            supplement = {SUPPLEMENT: written} if written.strip() else {}
            answers[place] = await supplemented.acall(**example.inputs(), **supplement)

    async with writer.running(), speaker.running():
        with dspy.context(lm=lm, disable_history=True):
            await asyncio.gather(*(call() for _ in range(at_once)))
    return [answers[place] for place in range(len(examples))]
