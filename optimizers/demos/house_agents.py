"""The embedded agent world: an agent looks for the meaning of a house word step by step; a note can spare it that.

Simulated: the company, its words, the tool that answers the agent, and by default the agent's policy, which follows a
note and otherwise tries one condition after another. Real: DSPy's calls, the generator, its training, the database.

    python -m optimizers.demos.house_agents --seed 0
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, Usage
from dspy.signatures.signature import make_signature

from optimizers.core.cost import Cost, Pricing
from optimizers.core.result import SGTResult, result_of
from optimizers.core.run_folder import RunFolder
from optimizers.core.statistics import saving_interval
from optimizers.sgt.recipe import Recipe
from optimizers.sgt.settings import check_credit
from optimizers.sgt.teleprompter import SGTTeleprompter
from optimizers.training.embedded import embedded_trainer
from sgt_modules.embedded import QUICK, HouseTermsWorld, Sizes, embedded_generator
from sgt_modules.embedded.company import TABLES, Condition, Table, conditions
from sgt_modules.lms import acting_as, lm_named
from sgt_modules.predictor import check_scope

STEPS = 12
"""The most LM calls of an episode: enough to find any meaning without a note."""

STEP_PRICE = 0.03
"""The price of a step in units of reward, by default."""

RECIPE = Recipe(rounds=0, warm_samples=3)
"""A warm start and SFT. On validation of seed 0 neither rounds of DPO nor twice the samples were better."""

NextCall = make_signature(
    "seen: str, tables: str, question: str -> call: str",
    "Answer with one call. `open TABLE` shows a table, `check CONDITION` asks whether the question's unknown word "
    "means that, `submit CONDITION` answers the question with it and ends the work.",
)
"""One step: the calls so far with their answers, the tables and the question -> the next call.

The question comes last, as in the prompts of the embedded generator's pretraining: it copies the unknown word from a
prompt's last line. With `seen` last, a sixth of its notes name no condition of the table; with `seen` first, 1 in 100.
"""


class TableAgent(dspy.Module):
    """An agent of one predictor, called until it submits, `most_steps` times at most; its tools are the world's.

    The prediction has the rows of the submitted condition (None: it submitted none) and the calls.
    """

    def __init__(self, world: HouseTermsWorld, most_steps: int = STEPS) -> None:
        super().__init__()
        self.world, self.most_steps = world, most_steps
        self.act = dspy.Predict(NextCall)

    def forward(self, tables: str, question: str) -> dspy.Prediction:
        """Call the predictor and the tools in turn."""
        seen: list[str] = []
        for _ in range(self.most_steps):
            call = str(self.act(tables=tables, question=question, seen="\n".join(seen) or "nothing").call).strip()
            verb, _, said = call.partition(" ")
            if verb == "submit":
                return dspy.Prediction(condition=said, calls=[*seen, call])
            seen.append(f"{call}: {_use_tool(self.world, question, verb, said)}")
        return dspy.Prediction(condition="", calls=seen)


def _use_tool(world: HouseTermsWorld, question: str, verb: str, said: str) -> str:
    """The answer of the tool `open` or `check`; any other call is an error that the agent reads."""
    if verb == "open":
        return TABLES[said].line if said in TABLES else "no such table"
    if verb != "check":
        return "expected open, check or submit"
    meaning = _meaning(world, question)
    if said == str(meaning):
        return "yes"
    return "no, other value" if said.partition(" ")[0] == meaning.column else "no, other column"


def _table(question: str) -> Table:
    """The table that a question names."""
    return next(table for table in TABLES.values() if re.search(rf"\b{table.name}\b", question))


def _meaning(world: HouseTermsWorld, question: str) -> Condition:
    """The condition that a question's house word means, or that it names in plain words."""
    found = next((term.condition for term in world.terms if re.search(rf"\b{term.word}\b", question)), None)
    return found or next(each for each in conditions(_table(question)) if each.words in question)


def score_episode(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> float:  # noqa: ARG001 - DSPy's metric
    """1.0 if the submitted condition is what the question means, else 0.0; the number of steps makes no difference."""
    return float(str(prediction.condition) == example.condition)


def episodes(world: HouseTermsWorld, split: str) -> list[dspy.Example]:
    """The questions of a split with a house word, each with the condition that it means."""
    return [
        dspy.Example(
            tables=each.tables, question=each.question, condition=str(_meaning(world, each.question)), term=each.term
        ).with_inputs("tables", "question")
        for each in world.splits[split]
        if each.term
    ]


class SimulatedPolicy:
    """A frozen, simulated agent behind `dspy.LM`: it follows a note, otherwise it tries a table's conditions in turn.

    It opens the table, then checks the first condition that the supplement names, then each one that the answers so far
    allow, and submits what was confirmed. Deterministic.
    """

    def complete(self, request: Request) -> Response:
        """Answer a request with the next call."""
        text = request.messages[-1].text or ""
        reply = f"[[ ## call ## ]]\n{self.next_call(_fields(text))}\n\n[[ ## completed ## ]]"
        read, wrote = len(text.split()), len(reply.split())
        usage = Usage(input_tokens=read, output_tokens=wrote, total_tokens=read + wrote)
        return Response(
            id=None, model=request.model, message=Message.assistant(reply), finish_reason="stop", usage=usage
        )

    def next_call(self, fields: Mapping[str, str]) -> str:
        """The next call, given the prompt's fields."""
        table = _table(fields["question"])
        seen = [line for line in fields.get("seen", "").splitlines() if ": " in line]
        if not seen:
            return f"open {table.name}"
        answers = {call.removeprefix("check "): said for call, _, said in (line.partition(": ") for line in seen)}
        confirmed = next((condition for condition, said in answers.items() if said == "yes"), "")
        if confirmed:
            return f"submit {confirmed}"
        possible = [each for each in conditions(table) if str(each) not in answers and _fits(each, answers)]
        advice = fields.get("supplement", "")
        named = sorted((advice.find(str(each)), n) for n, each in enumerate(possible) if str(each) in advice)
        first = len(seen) == 1 and named
        return f"check {possible[named[0][1] if first else 0]}" if possible else "submit nothing"

    def lm(self) -> dspy.LM:
        """The policy as an LM, without a cache."""
        return dspy.LM("simulated/agent", engine=self, cache=False, num_retries=0)


def _fits(condition: Condition, answers: Mapping[str, str]) -> bool:
    """Whether a condition is possible after what the tool answered."""
    columns = {said: {each.partition(" ")[0] for each in answers if answers[each] == said} for said in answers.values()}
    right = columns.get("no, other value")
    return condition.column in right if right else condition.column not in columns.get("no, other column", set[str]())


def _fields(text: str) -> dict[str, str]:
    """The input fields of a prompt of `dspy.ChatAdapter`."""
    parts = re.split(r"\[\[ ## (\w+) ## \]\]\n", text)
    return {name: value.strip() for name, value in zip(parts[1::2], parts[2::2], strict=True)}


@dataclass(frozen=True, slots=True)
class AgentRow:
    """A row of the table: who acted, and each test question's score and number of steps."""

    name: str
    scores: Sequence[float]
    counts: Sequence[int]

    @property
    def success(self) -> float:
        """The mean score."""
        return mean(self.scores)

    @property
    def steps(self) -> float:
        """The mean number of steps."""
        return mean(self.counts)


@dataclass(frozen=True, slots=True)
class AgentDemonstration:
    """The rows on test, the house word of each test question, and each compile's result, with a price and without."""

    rows: Sequence[AgentRow]
    words: Sequence[str]
    results: Mapping[str, SGTResult]

    @property
    def saved(self) -> float:
        """The share of steps that the stage selected with a price saves, compared with no supplement."""
        return self.saved_by(PRICED)[0]

    def saved_by(self, name: str) -> tuple[float, float, float]:
        """The share of steps that a row saves, compared with no supplement, and its 95 % interval: low and high.

        The interval draws whole house words: the questions of a word are saved steps together.
        """
        by_name = {row.name: row for row in self.rows}
        before, after = by_name[UNAIDED].counts, by_name[name].counts
        return 1 - sum(after) / sum(before), *saving_interval(before, after, clusters=self.words)

    @property
    def summary(self) -> dict[str, Any]:
        """The table as data, with every test question's steps."""
        return {
            "task": "house-agents",
            "words": list(self.words),
            "rows": {
                row.name: {
                    "success": row.success,
                    "steps": row.steps,
                    "counts": list(row.counts),
                    "saved": None if row.name == UNAIDED else self.saved_by(row.name),
                }
                for row in self.rows
            },
            "selected": {name: result.selected for name, result in self.results.items()},
            "validation": {name: _on_validation(result) for name, result in self.results.items()},
            "actor_calls": {name: result.spent.actor_calls for name, result in self.results.items()},
            "log_dirs": {name: str(result.log_dir) for name, result in self.results.items()},
        }


UNAIDED, FREE, PRICED = "no supplement", "selected, no price", "selected, price of steps"


def demonstrate_agents(
    seed: int = 0,
    *,
    actor: dspy.LM | None = None,
    sizes: Sizes = QUICK,
    recipe: Recipe = RECIPE,
    scope: str = "episode",
    credit: str = "isolate",
    most_steps: int = STEPS,
    price: float = STEP_PRICE,
    log_dir: Path | None = None,
    display: bool | None = False,
) -> AgentDemonstration:
    """Compile the agent without a price and with one for steps, in one store, and run both on the test questions.

    `actor` replaces the simulated policy. A folder of the same run is resumed; by default a new one under `runs/`.
    """
    world, lm = HouseTermsWorld(seed, sizes=sizes), actor or SimulatedPolicy().lm()
    agent, folder = TableAgent(world, most_steps), RunFolder.create(log_dir).path
    train, val, test = (episodes(world, split) for split in ("train", "val", "test"))
    results: dict[str, SGTResult] = {}
    with acting_as(lm):
        rows = [_run(UNAIDED, agent, test)]
        for name, cost in ((FREE, None), (PRICED, Cost(steps=price))):
            teleprompter = SGTTeleprompter(
                score_episode,
                embedded_generator(),
                recipe=replace(recipe, cost=cost),
                trainer=embedded_trainer(),
                scope=check_scope(scope),
                credit=check_credit(credit),
                num_threads=8,
                seed=seed,
                store=folder / "rollouts.sqlite",
                log_dir=folder / ("priced" if cost else "free"),
                display_progress=display,
            )
            better = teleprompter.compile(agent, trainset=train, valset=val)
            results[name] = result_of(better)
            rows.append(_run(name, better, test))
    return AgentDemonstration(rows, [each.term for each in test], results)


def _run(name: str, agent: dspy.Module, examples: Sequence[dspy.Example]) -> AgentRow:
    """Run an agent on the questions, each once."""
    predictions = [agent(**dict(each.inputs().items())) for each in examples]
    scores = [score_episode(example, each) for example, each in zip(examples, predictions, strict=True)]
    return AgentRow(name, scores, [len(each.calls) for each in predictions])


def _on_validation(result: SGTResult) -> dict[str, tuple[float, float]]:
    """The success and mean steps of each stage on validation."""
    price = Pricing(Cost(steps=1.0))
    found = {stage.name: price.stage(stage.rollouts) for stage in result.stages}
    return {
        stage.name: (stage.score, cost.used.steps if (cost := found[stage.name]) else 0.0) for stage in result.stages
    }


def show_agents(demonstration: AgentDemonstration) -> str:
    """The table as text: test rows with the share of steps saved, and the stages of each compile on validation."""
    lines: list[str] = []
    for row in demonstration.rows:
        line = f"{row.name:28} success {row.success:.2f}  steps {row.steps:.2f}"
        if row.name != UNAIDED:
            share, low, high = demonstration.saved_by(row.name)
            line += f"  fewer {share:.0%} [{low:.0%}, {high:.0%}]"
        lines.append(line)
    for name, result in demonstration.results.items():
        lines.append(f"{name}, on validation (selected: {result.selected})")
        for stage, (score, steps) in _on_validation(result).items():
            lines.append(f"  {stage:8} success {score:.2f}  steps {steps:.2f}")
    return "\n".join(lines)


def print_agents(arguments: Sequence[str] | None = None) -> None:
    """Run the demonstration and print its table."""
    parser = argparse.ArgumentParser(description="An agent that learns to ask less: the embedded agent world.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--actor", default="", help="an LM by name in place of the simulated policy")
    parser.add_argument("--scope", default="episode", help="episode: one note a run; turn: one a step")
    parser.add_argument("--credit", default="isolate")
    parser.add_argument("--most-steps", type=int, default=STEPS)
    parser.add_argument("--price", type=float, default=STEP_PRICE, help="the price of a step in units of reward")
    parser.add_argument("--log-dir", type=Path, default=None)
    parser.add_argument("--json", action="store_true", help="print the table as JSON, with every question's steps")
    given = vars(parser.parse_args(arguments))
    name, as_json = given.pop("actor"), given.pop("json")
    demonstration = demonstrate_agents(**given, actor=lm_named(name) if name else None)
    print(json.dumps(demonstration.summary, indent=2) if as_json else show_agents(demonstration))


if __name__ == "__main__":
    print_agents()
