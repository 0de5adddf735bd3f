"""Retrieval with two predictors, one of which must learn from experience which words to search for.

A company's wiki has a passage for each group of rows ("customers with age over 45"), and its people ask with their own
words ("kula customers") that no passage contains. `search` writes keywords, `respond` reads the passage. The generator
learns how to advise `search` from right and wrong answers of the whole program. `only` excludes `respond`, which needs
no help and so costs nothing; without `only`, the run detects that by itself.

Simulated: a seed draws the wiki, and the actor is a script that searches for the words of the question and of its
advice, and reads numbers from the first passage. The generator and its training are real.

    python examples/rag_several_predictors.py
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping

import dspy
from scripted_lm import scripted_lm
from small import small

from optimizers import SGTTeleprompter
from sgt_modules.embedded import HouseTermsWorld, Sizes
from sgt_modules.embedded.company import SCHEMA, TABLES, Condition, Table, conditions
from sgt_modules.embedded.questions import Ask, asks, plain_rows, term_rows

ACTOR = lambda: scripted_lm(script)  # noqa: E731  yours: lambda: dspy.LM("openai/gpt-4.1-mini")
TRAINED = small  # yours: lambda: {"generator": "Qwen/Qwen3-1.7B"}

WORLD = HouseTermsWorld(seed=0, sizes=Sizes(terms=4, shifted_terms=4))
FACTS = ("count", "average", "highest", "total")
"""The forms of question that a passage answers."""


class Lookup(dspy.Module):
    """Searches the wiki, and answers from the passage."""

    def __init__(self) -> None:
        super().__init__()
        self.search = dspy.Predict(dspy.Signature("tables, question -> keywords", "Write keywords to search for."))
        self.respond = dspy.Predict("question, passage -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        """Return the answer and its passage."""
        keywords = self.search(tables=SCHEMA, question=question).keywords
        passage = find_passage(keywords)
        return dspy.Prediction(answer=self.respond(question=question, passage=passage).answer, passage=passage)


def metric(example: dspy.Example, prediction: dspy.Prediction) -> bool:
    """Return whether the answer is the expected one."""
    return example.answer == prediction.answer


# The wiki, and how it is searched.


def facts(table: Table) -> list[Ask]:
    """Return the questions that a passage answers about its rows."""
    return [ask for ask in asks(table) if ask.form.name in FACTS]


def answer(ask: Ask, condition: Condition) -> str:
    """Return the database's answer, to two places."""
    [[value]] = WORLD.database.rows(ask.sql(condition))
    return f"{value or 0:.2f}".removesuffix(".00")


def passages() -> Mapping[str, str]:
    """Return the wiki: each group's facts by its title."""
    return {
        plain_rows(condition, table): "; ".join(f"{fact(ask)}: {answer(ask, condition)}" for ask in facts(table))
        for table in TABLES.values()
        for condition in conditions(table)
    }


def fact(ask: Ask) -> str:
    """Return a fact's name in a passage: `average age`."""
    return f"{ask.form.name} {ask.column}".strip()


def words(text: str) -> set[str]:
    """Return a text's words, as the search compares them."""
    plain = text.casefold().replace(">", " over ").replace("<", " under ")
    return set(re.findall(r"\w+", plain)) - {"with"}


WIKI = passages()


def find_passage(keywords: str) -> str:
    """Return the passage whose title has the largest share of its words among the keywords."""
    wanted = words(keywords)
    title = max(WIKI, key=lambda each: len(words(each) & wanted) / len(words(each)))
    return f"{title}: {WIKI[title]}"


# The simulated actor.

SAID = {"how many": "count", "count": "count", "mean": "average", "top": "highest", "sum": "total"} | {
    name: name for name in FACTS
}


def script(given: Mapping[str, str], wanted: list[str]) -> Mapping[str, str]:
    """Search for the words of question and advice, or read the fact that the question names."""
    question = given["question"].casefold()
    if "keywords" in wanted:
        return {"keywords": f"{question} {given.get('supplement', '')}"}
    form = next(form for said, form in SAID.items() if said in question)
    facts_read = [each.rsplit(": ", 1) for each in given["passage"].partition(": ")[2].split("; ")]
    fitting = (
        value for name, value in facts_read if name.split()[0] == form and name.split()[-1] in {*question.split(), form}
    )
    return {"answer": next(fitting, "unknown")}


def examples() -> list[dspy.Example]:
    """Return every question about the four house terms, in both phrasings."""
    questions = [
        dspy.Example(
            question=ask.question(term_rows(term.word, term.table), phrasing), answer=answer(ask, term.condition)
        ).with_inputs("question")
        for term in WORLD.terms
        for ask in facts(term.table)
        for phrasing in (0, 1)
    ]
    random.Random(0).shuffle(questions)
    return questions


def main() -> None:
    """Train, and print the change."""
    every = examples()
    train, val, test = every[:32], every[32:44], every[44:]
    sgt = SGTTeleprompter(metric, **TRAINED(), only=["search"])
    with dspy.context(lm=ACTOR()):
        better = sgt.compile(Lookup(), trainset=train, valset=val)
        right = {
            name: sum(metric(each, program(question=each.question)) for each in test)
            for name, program in (("before", Lookup()), ("after", better))
        }
        example = test[0]
        with dspy.context(trace=[]):
            after = better(question=example.question)
            supplement = dspy.settings.trace[0][1]["supplement"]
    print("validation:", {stage.name: round(stage.score, 2) for stage in better.detailed_results.stages})
    print(f"test: {right['before']} of {len(test)} right before, {right['after']} after")
    print("question:", example.question, "->", example.answer)
    print("search read:", supplement)
    print("found:", after.passage)
    print("answer:", after.answer)


if __name__ == "__main__":
    main()
