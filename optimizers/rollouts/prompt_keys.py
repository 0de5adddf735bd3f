"""Keys of the prompts that a program's generators write, as runs that share a store may have different generators."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property

import dspy

from optimizers.core.records import Query
from sgt_modules.generator import SupplementGenerator
from sgt_modules.generator_prompt import SHORTENED
from sgt_modules.prompt_length import most_prompt_tokens, most_tokens
from sgt_modules.safety import clean_text
from sgt_modules.wrapping import supplemented_predictors

NO_KEY = ""
"""The key of a program without generators, and of all rows of an earlier version."""


class PromptKeys:
    """The keys under which a store may hold runs with the prompts of a program's generators.

    Prompts of full length have the key of their templates, so that generators with the same templates share them.
    Shortened ones have a key of templates and limits.
    """

    def __init__(self, program: dspy.Module) -> None:
        self._generators = {each.role: each.generator for _, each in supplemented_predictors(program)}

    @cached_property
    def all(self) -> Sequence[str]:
        """The keys to look under, in this order."""
        if not self._generators:
            return [NO_KEY]
        states = {role: each.prompt.dump_state() for role, each in sorted(self._generators.items())}
        limits = [
            each.max_prompt_tokens or most_tokens(each.engine, each.max_new_tokens)
            for _, each in sorted(self._generators.items())
        ]
        return [_hash(states), _hash([states, limits]), NO_KEY]

    def find(self, queries: Iterable[Query]) -> str:
        """The key of a run's prompts, which are those of this program."""
        if len(self.all) == 1:
            return NO_KEY
        whole, shortened, _ = self.all
        return whole if all(SHORTENED not in each.prompt and self._fits(each) for each in queries) else shortened

    def accepts(self, key: str, query: Query) -> bool:
        """Whether this program's generator writes the prompt of a query that a store holds under one of the keys.

        Of an earlier version's row, the introduction, the closing and the length are compared.
        """
        generator = self._generators.get(query.predictor)
        if generator is None or key != NO_KEY:
            return key != self.all[0] or self._fits(query)
        prompt = generator.prompt
        begin, end = (clean_text(each.format(words=prompt.max_words)) for each in (prompt.introduction, prompt.closing))
        same = query.prompt.startswith(begin) and end in query.prompt
        return same and (SHORTENED in query.prompt or self._fits(query))

    def _fits(self, query: Query) -> bool:
        generator: SupplementGenerator | None = self._generators.get(query.predictor)
        if generator is None:
            return True
        engine, text = generator.engine, query.prompt
        limit = generator.max_prompt_tokens or most_prompt_tokens(text, engine, generator.max_new_tokens)
        return limit is None or len(text.encode()) <= limit or engine.count(text) <= limit


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
