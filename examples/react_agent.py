"""An agent with tools that learns its task from right and wrong answers.

The agent queries a company's database with two tools. The company's people use their own words ("kula customers"),
which no tool knows; the generator learns which rows the agent should ask for, and advises it once a run
(`scope="episode"`).

Simulated: a seed draws the company, and the agent's model is a script. It passes the condition in its advice to the
tools, else the word in the question. `dspy.ReAct`, the tools' queries, the generator and its training are real.

    python examples/react_agent.py
"""

from __future__ import annotations

import json
import random
import re
import sqlite3
from collections.abc import Mapping

import dspy
from scripted_lm import scripted_lm
from small import small

from optimizers import SGTTeleprompter
from sgt_modules.embedded import HouseTermsWorld, Sizes
from sgt_modules.embedded.company import SCHEMA, TABLES
from sgt_modules.embedded.questions import asks, term_rows

ACTOR = lambda: scripted_lm(script)  # noqa: E731  yours: lambda: dspy.LM("openai/gpt-4.1-mini")
TRAINED = small  # yours: lambda: {"generator": "Qwen/Qwen3-1.7B"}

WORLD = HouseTermsWorld(seed=0, sizes=Sizes(terms=4, shifted_terms=4))
FORMS = ("count", "average", "highest", "total")


def count(table: str, condition: str) -> str:
    """How many rows of the table meet the condition."""
    return _query(f"SELECT count(*) FROM {table} WHERE {condition}")


def figure(table: str, condition: str, function: str, column: str) -> str:
    """The avg, max or sum of a column, over the rows of the table that meet the condition."""
    return _query(f"SELECT {function}({column}) FROM {table} WHERE {condition}")


def _query(sql: str) -> str:
    try:
        [[value]] = WORLD.database.rows(sql)
    except (sqlite3.Error, ValueError) as problem:
        return f"Nothing was found: {problem}."
    return f"{value or 0:.2f}".removesuffix(".00")


def agent() -> dspy.Module:
    """Return DSPy's agent with both tools."""
    react = dspy.ReAct("tables, question -> answer", tools=[count, figure], max_iters=3)
    # The embedded generator reads letter by letter, and DSPy's instructions are long. Yours: without this line.
    react.react.signature = react.react.signature.with_instructions("Use the tools to answer the question.")
    return react


def metric(example: dspy.Example, prediction: dspy.Prediction) -> bool:
    """Return whether the answer is the expected one."""
    return example.answer == prediction.answer


# The simulated model.

CONDITION = re.compile(r"(\w+) ([<>]|=) ('\w+'|\d+)")
FUNCTIONS = {"average": "avg", "mean": "avg", "highest": "max", "top": "max", "total": "sum", "sum up": "sum"}


def script(given: Mapping[str, str], wanted: list[str]) -> Mapping[str, str]:
    """Call a tool, then repeat the tool's answer."""
    seen = [text for name, text in given.items() if name.startswith("observation_")]
    if "answer" in wanted:
        return {"reasoning": "The tool said so.", "answer": seen[0] if seen else ""}
    if seen:
        return {"next_thought": "That is it.", "next_tool_name": "finish", "next_tool_args": "{}"}
    question = given["question"]
    table = next(name for name in TABLES if name in question)
    advice = CONDITION.search(given.get("supplement", ""))
    arguments = {"table": table, "condition": advice[0] if advice else question.partition(f" {table}")[0].split()[-1]}
    function = next((sql for said, sql in FUNCTIONS.items() if said in question.casefold()), "")
    if function:
        column = next(name for name in TABLES[table].numbers if name in question)
        arguments |= {"function": function, "column": column}
    name = "figure" if function else "count"
    return {"next_thought": "Look.", "next_tool_name": name, "next_tool_args": json.dumps(arguments)}


def examples() -> list[dspy.Example]:
    """Return every question about the four house terms that the tools answer, in both phrasings."""
    questions = [
        dspy.Example(
            tables=SCHEMA,
            question=ask.question(term_rows(term.word, term.table), phrasing),
            answer=_query(ask.sql(term.condition)),
        ).with_inputs("tables", "question")
        for term in WORLD.terms
        for ask in asks(term.table)
        if ask.form.name in FORMS
        for phrasing in (0, 1)
    ]
    random.Random(0).shuffle(questions)
    return questions


def main() -> None:
    """Train, and print a run of the agent before and after."""
    every = examples()
    train, val, test = every[:32], every[32:44], every[44:]
    sgt = SGTTeleprompter(metric, **TRAINED(), scope="episode", only=["react"])
    with dspy.context(lm=ACTOR()):
        better = sgt.compile(agent(), trainset=train, valset=val)
        print("validation:", {stage.name: round(stage.score, 2) for stage in better.detailed_results.stages})
        example = test[0]
        print("question:", example.question, "->", example.answer)
        for name, program in (("before", agent()), ("after", better)):
            right = sum(metric(each, program(**each.inputs())) for each in test)
            with dspy.context(trace=[]):
                ended = program(**example.inputs())
                supplement = dspy.settings.trace[0][1].get("supplement", "")
            print(f"{name}: {right} of {len(test)} test questions right; with {supplement!r} it asked", end=" ")
            print(ended.trajectory["tool_name_0"], ended.trajectory["tool_args_0"], "and answered", ended.answer)


if __name__ == "__main__":
    main()
