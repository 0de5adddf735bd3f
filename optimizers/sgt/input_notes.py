"""Notes on a run's inputs and its generator, for a person; empty where there is nothing to say."""

from __future__ import annotations

from collections.abc import Sequence

from optimizers.core.records import Query
from sgt_modules.generator import SupplementGenerator
from sgt_modules.generator_prompt import SHORTENED


def explain_shortened(queries: Sequence[Query], generator: SupplementGenerator) -> str:
    """Say how many inputs were too long for the generator, which reads them without their middle."""
    short = sum(SHORTENED in query.prompt for query in queries)
    if not short:
        return ""
    return (
        f"{short} of {len(queries)} inputs were too long for {generator.name} and are read without the middle of their "
        "longest field, in training as at inference. Give a generator with a longer context, or raise "
        "max_prompt_tokens, to read them whole."
    )


def explain_unscored(generator: SupplementGenerator) -> str:
    """Say that a generator behind a server may write a text that is not on the menu, which then counts as none."""
    if not generator.menu or generator.in_process:
        return ""
    return (
        f"{generator.name} is behind a server, which does not say how likely each given text is. A reply that is one "
        "of them word for word counts as that, and any other as no supplement. Use a local generator to have the "
        "likeliest text always."
    )
