"""Encodes requests as token ids that leave space for a reply, and chooses the likeliest of given replies."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dspy.lm15 import ContextLengthError

from sgt_modules.local.batching import TokenRequest
from sgt_modules.local.chat_template import ChatTokenizer
from sgt_modules.local.prefix_tree import TokenIds
from sgt_modules.samples import Sample, SampleRequest
from sgt_modules.saving.weights import Weights


class Encoder:
    """Encodes for one model; `max_new_tokens` is the limit of requests without one, `name` is for warnings."""

    def __init__(self, weights: Weights, tokenizer: ChatTokenizer, max_new_tokens: int, name: str) -> None:
        self._weights, self._tokenizer, self._max_new_tokens, self._name = weights, tokenizer, max_new_tokens, name

    def encode(self, messages: Sequence[Mapping[str, str]], opening: str = "", reserve: int = 0) -> TokenIds:
        """The token ids of a chat and of the opening of its reply.

        Raises `ContextLengthError` unless the context has space for `reserve` more tokens and an end token.
        """
        ids = self._tokenizer.encode(self._weights.folders[0], messages, opening)
        most = self._weights.context - reserve
        if len(ids) >= most:
            raise ContextLengthError(f"Expected a prompt of fewer than {most} tokens, got {len(ids)}.")
        return ids

    def encode_request(self, request: SampleRequest) -> list[TokenRequest]:
        """One token request that draws a reply, or one for each reply to choose among. Raises as `encode`."""
        replies = self._encode_replies(request.among)
        return self._make_token_requests(request, self._encode_prompt(request, replies), replies)

    def encode_requests(self, requests: Sequence[SampleRequest]) -> list[list[TokenRequest]]:
        """The token requests of each request; for a prompt that is too long, an empty list and a warning."""
        replies = {among: self._encode_replies(among) for among in dict.fromkeys(request.among for request in requests)}
        ids: dict[tuple[str, str, tuple[str, ...]], TokenIds | None] = {}
        encoded: list[list[TokenRequest]] = []
        for request in requests:
            key = request.prompt, request.opening, request.among
            if key not in ids:
                ids[key] = self._encode_or_warn(request, replies[request.among])
            prompt = ids[key]
            encoded.append([] if prompt is None else self._make_token_requests(request, prompt, replies[request.among]))
        return encoded

    def make_token_request(self, ids: TokenIds, request: SampleRequest) -> TokenRequest:
        """A token request that draws a reply to these ids, with the settings of `request`.

        Without randomness, seed and `top_p` have no effect and are set to constants: equal requests are decoded once.
        """
        limit = min(request.max_new_tokens or self._max_new_tokens, self._weights.context - len(ids))
        if request.temperature > 0:
            return TokenRequest(ids, request.seed, request.temperature, limit, request.top_p, request.opening)
        return TokenRequest(ids, 0, request.temperature, limit, 1.0, request.opening)

    def _encode_replies(self, among: Sequence[str]) -> list[TokenIds]:
        return [self._tokenizer.encode_reply(self._weights.folders[0], text) for text in among]

    def _encode_prompt(self, request: SampleRequest, replies: Sequence[TokenIds]) -> TokenIds:
        longest = max(map(len, replies), default=0)
        return self.encode([{"role": "user", "content": request.prompt}], request.opening, longest)

    def _encode_or_warn(self, request: SampleRequest, replies: Sequence[TokenIds]) -> TokenIds | None:
        try:
            return self._encode_prompt(request, replies)
        except ContextLengthError as error:
            logging.getLogger(__name__).warning("No reply to a prompt that does not fit %s: %s", self._name, error)
            return None

    def _make_token_requests(
        self, request: SampleRequest, ids: TokenIds, replies: Sequence[TokenIds]
    ) -> list[TokenRequest]:
        if not replies:
            return [self.make_token_request(ids, request)]
        return [TokenRequest(ids, 0, 0.0, len(each) + 1, opening=request.opening, reply=each) for each in replies]


def choose_likeliest(samples: Sequence[Sample], among: Sequence[str]) -> Sample:
    """A request's sample: the one that was drawn, or the likeliest of the replies to choose among.

    An empty sample for a request without samples, whose prompt is too long.

    >>> choose_likeliest([Sample("yes", 3, 1, -0.9), Sample("no way", 3, 2, -0.4)], ["yes", "no way"]).text
    'no way'
    """
    if not samples:
        return Sample("")
    if not among:
        return samples[0]
    best = max(range(len(samples)), key=lambda place: samples[place].logprob * samples[place].tokens)
    return replace(samples[best], text=among[best], cut=False)
