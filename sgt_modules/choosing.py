"""Choosing among samples: the generator writes several notes for a call, and a scorer chooses one before the actor.

One note is greedy (at the generator's own temperature), the others are sampled at temperature 1 with seeds that the
prompt decides, so equal prompts give equal notes. The actor is called as often as without it.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from sgt_modules.errors import SetupError
from sgt_modules.generator import SupplementGenerator
from sgt_modules.note_chooser import NoteChooser
from sgt_modules.samples import Sample, SampleRequest
from sgt_modules.saving.state_checks import check_mapping, read_whole_number
from sgt_modules.sharing import SharedByCopies
from sgt_modules.winner_lookup import WinnerLookup

DEFAULT_SAMPLES = 8
"""The notes for a call where a chooser is given and no number of samples."""

MOST_SAMPLES = 256
"""The most notes for a call."""


@dataclass(frozen=True, slots=True)
class Choice(SharedByCopies):
    """How a predictor gets its note: the number of samples, and the scorer that chooses one of them or silence."""

    samples: int
    chooser: NoteChooser

    def requests(self, generator: SupplementGenerator, prompt: str) -> list[SampleRequest]:
        """Return the requests for a prompt: the one that is made without a choice, then `samples` - 1 sampled ones.

        >>> from sgt_modules.embedded import embedded_generator
        >>> choice = Choice(3, NoteChooser((), (0.0,) * 5, (1.0,) * 5, (0.0,) * 7))
        >>> [request.temperature for request in choice.requests(embedded_generator(), "2+2?")]
        [0.0, 1.0, 1.0]
        """
        sampled = [SampleRequest(prompt, seed_of(prompt, number), temperature=1.0) for number in range(1, self.samples)]
        return [generator.as_request(prompt), *sampled]

    def draw(self, generator: SupplementGenerator, prompt: str) -> Sample:
        """Draw the notes, together in the generator's batches, and return the chosen one."""
        first, *others = self.requests(generator, prompt)
        if not others:
            return self.chooser.choose(prompt, [generator.draw(first)])
        with ThreadPoolExecutor(len(others)) as pool:
            # Each thread has the caller's context: its usage tracker and callbacks.
            waiting = [pool.submit(contextvars.copy_context().run, generator.draw, each) for each in others]
            samples = [generator.draw(first), *(each.result() for each in waiting)]
        return self.chooser.choose(prompt, samples)

    async def adraw(self, generator: SupplementGenerator, prompt: str) -> Sample:
        """Do the same as `draw`, for coroutines."""
        samples = await asyncio.gather(*map(generator.adraw, self.requests(generator, prompt)))
        return self.chooser.choose(prompt, samples)

    def dump_state(self) -> dict[str, object]:
        """Return the choice as JSON."""
        return {"samples": self.samples, "chooser": self.chooser.dump_state()}

    @classmethod
    def load_state(cls, state: object) -> Choice:
        """Load the choice of a saved program. Raises `SavedStateError` if the state is not a choice's."""
        values = check_mapping(state, "the state of a choice among samples")
        samples = read_whole_number(values, "samples", 1, MOST_SAMPLES)
        return cls(samples, NoteChooser.load_state(values.get("chooser")))


def draw_note(choice: Choice | None, generator: SupplementGenerator, prompt: str) -> Sample:
    """Draw the note for a prompt: the chosen one of several, or without a choice the generator's only one."""
    return generator.draw(prompt) if choice is None else choice.draw(generator, prompt)


async def adraw_note(choice: Choice | None, generator: SupplementGenerator, prompt: str) -> Sample:
    """Do the same as `draw_note`, for coroutines."""
    return await (generator.adraw(prompt) if choice is None else choice.adraw(generator, prompt))


def choice_of(samples: int | None, chooser: NoteChooser | None) -> Choice | None:
    """Return the choice of these two arguments of `supplement()`; None without either. Raises `SetupError`.

    >>> choice_of(None, None) is None
    True
    """
    if chooser is None and samples is None:
        return None
    if not isinstance(chooser, NoteChooser):
        raise SetupError(
            f"Expected a NoteChooser with samples={samples!r}, got {chooser!r}. Fit one on a run's rollouts: "
            "fit_chooser('runs/demo').chooser."
        )
    samples = DEFAULT_SAMPLES if samples is None else samples
    if isinstance(samples, bool) or not isinstance(samples, int) or not 1 <= samples <= MOST_SAMPLES:
        raise SetupError(f"Expected samples as a whole number in [1, {MOST_SAMPLES}], got {samples!r}.")
    return Choice(samples, chooser)


def check_choice(choice: Choice | None, generator: SupplementGenerator) -> Choice | None:
    """Return the choice; raise `SetupError` for several samples of a generator that has one note for a prompt."""
    if choice is not None and choice.samples > 1 and (generator.menu or isinstance(generator.engine, WinnerLookup)):
        what = "a menu, of which it takes the likeliest choice" if generator.menu else "a table, in which it looks up"
        raise SetupError(
            f"Expected a generator that writes freely with samples={choice.samples}, got one with {what}: all samples "
            "are the same. Use samples=1 to choose between its note and none, or leave the chooser out."
        )
    return choice


def seed_of(prompt: str, number: int) -> int:
    """Return the seed of a prompt's sample, in [0, 2**31); the same on every machine.

    >>> seed_of("2+2?", 1) == seed_of("2+2?", 1), seed_of("2+2?", 1) == seed_of("2+2?", 2)
    (True, False)
    """
    digest = hashlib.sha256(f"{number}/{prompt}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") >> 1
