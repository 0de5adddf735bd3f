"""Wordings of the generator's prompt on real instruct models and training questions of Spider.

    python benchmarks/prompts.py --questions 6 --actor FOLDER/qwen2.5-coder-0.5b FOLDER/smollm2-135m

For each generator and wording: the share of replies with the requested kind, of free-style replies that name a kind, of
replies cut by the limit, too long, copied from an example or holding the gold query; with an `--actor`, its success by
kind. `SGT_REAL_DATA` names the folder that holds spider/.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import dspy
from rich.console import Console

from optimizers.observe.tables import plain_table
from optimizers.tasks.spider import SPIDER, AnswerInSQLite
from sgt_modules import KINDS, GeneratorPrompt, Supplement, SupplementGenerator, supplement
from sgt_modules.generator_prompt import NOTE
from sgt_modules.kinds import FREE, NONE, Kind
from sgt_modules.lms import acting_as, lm_named

WORDINGS: dict[str, GeneratorPrompt] = {
    "instruction": NOTE,
    "example, then instruction": replace(
        NOTE,
        kind=(
            "A note of the kind [{kind}] about another task: [{kind}] {example}\n"
            "Now write the note of the kind [{kind}] about the task above. {instruction}{answer}"
        ),
    ),
    "instruction, then example": replace(
        NOTE, kind="Kind of note: [{kind}]. {instruction}{answer}\nThe form, with another task: [{kind}] {example}"
    ),
}


@dataclass(frozen=True)
class Reply:
    """A question's prompt, and the reply."""

    example: dspy.Example
    kind: Kind | str
    supplement: Supplement

    @property
    def asked(self) -> str:
        return self.kind.name if isinstance(self.kind, Kind) else self.kind

    @property
    def copied(self) -> bool:
        return isinstance(self.kind, Kind) and self.kind.example[:25] in self.supplement.text

    @property
    def gives_away(self) -> bool:
        return self.asked != "answer" and _plain(self.example.query) in _plain(self.supplement.text)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generators", nargs="+", help="folders or hub ids")
    parser.add_argument("--actor", default="", help="a folder, local:HUB_ID, or a name of LiteLLM's")
    parser.add_argument("--questions", type=int, default=6)
    parser.add_argument("--wordings", default=",".join(WORDINGS), help="names, with commas between")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    options = parser.parse_args()
    train = SPIDER.splits(Path(os.environ["SGT_REAL_DATA"]) / "spider").train[: options.questions]
    names = ("generator", "wording", "replies", "kind", "free named", "cut", "long", "copied", "gold", "success", "s")
    rows: list[tuple[str, ...]] = []
    for model in options.generators:
        for wording in options.wordings.split(","):
            prompt = WORDINGS[wording.strip()]
            generator = SupplementGenerator(model, prompt=prompt, max_new_tokens=options.max_new_tokens)
            began = time.perf_counter()
            replies = _replies(generator, train)
            took = time.perf_counter() - began
            success = _success(generator, replies, options.actor) if options.actor else ""
            rows.append((generator.name, wording, *_shares(replies, prompt), success, f"{took:.0f}"))
    table = plain_table("Shares of replies on training questions of Spider")
    for name in names:
        table.add_column(name)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _replies(generator: SupplementGenerator, examples: Sequence[dspy.Example]) -> list[Reply]:
    asks = [(example, kind) for example in examples for kind in (*KINDS.values(), FREE)]
    prompts = [generator.prompt_for(AnswerInSQLite, example.inputs().toDict()) for example, _ in asks]
    rng = random.Random(0)
    drawn = generator.sample(
        prompts,
        seeds=[rng.getrandbits(32) for _ in asks],
        kinds=[kind for _, kind in asks],
        temperature=generator.prompt.temperature,
        top_p=generator.prompt.top_p,
    )
    return [Reply(example, kind, each.supplement) for (example, kind), each in zip(asks, drawn, strict=True)]


def _shares(replies: Sequence[Reply], prompt: GeneratorPrompt) -> tuple[str, ...]:
    written = [reply for reply in replies if reply.supplement]
    named = [reply for reply in written if reply.kind != FREE]
    free = [reply for reply in replies if reply.kind == FREE]
    shares = (
        sum(reply.supplement.kind == reply.asked for reply in named) / max(1, len(named)),
        sum(reply.supplement.kind not in (FREE, NONE) for reply in free) / max(1, len(free)),
        sum(reply.supplement.cut for reply in replies) / len(replies),
        sum(len(reply.supplement.text.split()) > prompt.max_words for reply in replies) / len(replies),
        sum(reply.copied for reply in replies) / len(replies),
        sum(reply.gives_away for reply in replies) / len(replies),
    )
    return (str(len(written)), *(f"{share:.2f}" for share in shares))


def _success(generator: SupplementGenerator, replies: Sequence[Reply], actor: str) -> str:
    """Return the actor's share of right answers without a supplement, and with each kind."""
    program = supplement(dspy.Predict(AnswerInSQLite), generator=generator)
    bare = {id(reply.example): Reply(reply.example, "none", Supplement(NONE, "")) for reply in replies}
    asked = [*bare.values(), *(reply for reply in replies if reply.supplement)]

    def judged(reply: Reply) -> bool:
        try:
            answer = program(**reply.example.inputs(), supplement=reply.supplement)
        except Exception:  # noqa: BLE001 - an answer that cannot be read is a wrong one
            return False
        return bool(SPIDER.metric(reply.example, answer))

    with acting_as(lm_named(actor)):
        pairs = [(judged, (reply,)) for reply in asked]
        right = dspy.Parallel(num_threads=64, disable_progress_bar=True)(pairs)
    by_kind: dict[str, list[bool]] = defaultdict(list)
    for reply, each in zip(asked, right, strict=True):
        by_kind[reply.asked].append(bool(each))
    return ", ".join(f"{kind} {sum(each) / len(each):.2f}" for kind, each in by_kind.items())


def _plain(text: str) -> str:
    return " ".join(text.casefold().replace(";", " ").replace('"', "'").split())


if __name__ == "__main__":
    main()
