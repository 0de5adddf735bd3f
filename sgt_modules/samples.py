"""A request to a generator (`SampleRequest`), and its result (`Sample`). Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sgt_modules.kinds import FREE, NONE, Kind, Supplement


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """A request for one sample of a generator and its model.

    `SupplementGenerator` takes a prompt that names no kind. It writes the kind into the prompt, and sets what the model
    needs besides: `max_new_tokens`, `opening` and `among`.

    Args:
        prompt: The text of the user's message.
        seed: The seed of the draws; equal requests give equal samples.
        kind: A `Kind` of the table, `FREE` for one of the generator's own choice, another kind's bare name, or None
            where no kind is asked for. A model ignores it.
        temperature: 0 takes the likeliest tokens.
        top_p: The share of probability in (0, 1] that tokens are drawn from.
        max_new_tokens: The most tokens of the reply; by default the model's own limit.
        opening: What the reply is made to begin with. A server that cannot do that replies as it likes.
        among: The replies to choose among: nothing is drawn, the likeliest of them is the reply, its end token
            included, the earlier one on a tie. A server gives no such likelihood, and replies as it likes.
    """

    prompt: str
    seed: int = 0
    kind: Kind | str | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    opening: str = ""
    among: tuple[str, ...] = ()

    @property
    def kind_name(self) -> str:
        """The name of the requested kind; empty if there is none.

        >>> SampleRequest("2+2?", kind=Kind("units")).kind_name, SampleRequest("2+2?").kind_name
        ('units', '')
        """
        return self.kind.name if isinstance(self.kind, Kind) else self.kind or ""

    @property
    def given(self) -> Sample | None:
        """The kind's fixed text, which needs no model call; None if it has none."""
        kind = self.kind
        return Sample(kind.text, kind=kind.name) if isinstance(kind, Kind) and kind.text else None


@dataclass(frozen=True, slots=True)
class Sample:
    """The result of a request: a model's reply, or the supplement that a generator reads in it.

    Args:
        text: The reply as the model wrote it, which begins with the opening; of a generator, the supplement's text.
        prompt_tokens: The tokens that the model read, the opening's included.
        tokens: The tokens that the model wrote, the end token included.
        logprob: Their mean log-probability (natural, untempered); 0.0 where a server gives none.
        cut: Whether the token limit ended the reply, and not the model.
        kind: The kind that the reply names; `free` for a reply that nobody has read yet.

    >>> Sample("Add.", 7, 3, -0.5, kind="cot").supplement
    Supplement(kind='cot', text='Add.')
    """

    text: str
    prompt_tokens: int = 0
    tokens: int = 0
    logprob: float = 0.0
    cut: bool = False
    kind: str = FREE

    @property
    def supplement(self) -> Supplement:
        """The kind and the text as a supplement."""
        return Supplement(self.kind, self.text, cut=self.cut)

    def read_as(self, supplement: Supplement) -> Sample:
        """Return the sample with this supplement instead of the reply."""
        return replace(self, text=supplement.text, kind=supplement.kind, cut=supplement.cut)


SILENT = Sample("", kind=NONE)
"""A sample without a supplement, for which no model is called."""
