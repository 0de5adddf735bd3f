"""What MLflow has of wrapped calls and of compiles, in a process of its own, as autolog changes DSPy's classes.

python tracked_alone.py    in an empty folder; prints JSON
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import mlflow
import mlflow.dspy
from scripted import ScriptedEngine, ScriptedGenerator, ScriptedTrainer, reply

from optimizers import Recipe, SGTTeleprompter
from sgt_modules import supplement
from sgt_modules.generator import SupplementGenerator
from sgt_modules.kinds import Supplement

SUMS = [dspy.Example(question=f"{n}+1?", answer=str(n + 1)).with_inputs("question") for n in range(6)]


def acting(text: str) -> str:
    """Right where the supplement says so; the reasoning is for programs that want some."""
    question = next(each for each in SUMS if each.question in text)
    return reply(reasoning="", answer=question.answer if "[background]" in text else "?")


def exact(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    return example.answer == prediction.answer


def compiled(folder: str, **changes: Any) -> str:
    """A compile in which nothing is trained; the selected stage."""
    sgt = SGTTeleprompter(
        exact,
        ScriptedGenerator(
            lambda prompt: Supplement("background" if "Kind: background" in prompt else "cot", "Add."),
            trained=ScriptedGenerator(lambda prompt: Supplement("background", "Add.")),
        ),
        recipe=Recipe(rounds=1, warm_samples=1, pool_samples=1),
        trainer=ScriptedTrainer(),
        log_dir=folder,
        display_progress=False,
        **changes,
    )
    better = sgt.compile(dspy.Predict("question -> answer"), trainset=SUMS[:4], valset=SUMS[4:])
    return better.detailed_results.selected


def spans() -> list[list[str]]:
    """Each span of a wrapped program's call with the one that it stands under, and the supplement that was written."""
    writer = ScriptedEngine(lambda text: "[background] Add one.").lm("scripted/writer")
    wrapped = supplement(dspy.ChainOfThought("question -> answer"), generator=SupplementGenerator(writer))
    wrapped(question="1+1?")
    mlflow.flush_trace_async_logging()
    (trace,) = mlflow.search_traces(return_type="list")
    names = {span.span_id: span.name for span in trace.data.spans}
    return [
        [span.name, names.get(span.parent_id, ""), _text(span.outputs) if "Generator" in span.name else ""]
        for span in trace.data.spans
    ]


def _text(outputs: Any) -> str:
    return outputs["text"]


def main() -> None:
    found: dict[str, object] = {}
    dspy.configure(lm=ScriptedEngine(acting).lm())
    with mlflow.start_run() as mine:
        found["selected"] = compiled("a", report_to="mlflow")
        active = mlflow.active_run()
        found["still open"] = active is not None and active.info.run_id == mine.info.run_id
        found["status"] = mlflow.MlflowClient().get_run(mine.info.run_id).info.status
    mlflow.dspy.autolog(log_compiles=True)
    found["spans"] = spans()
    compiled("b", report_to="mlflow")
    mlflow.flush_trace_async_logging()
    found["traces"] = len(mlflow.search_traces(return_type="list"))
    runs = mlflow.MlflowClient().search_runs(["0"], order_by=["attributes.start_time"])
    found["runs"] = [
        [each.info.status, each.data.tags["sgt.selected"], "val/score" in each.data.metrics] for each in runs
    ]
    known = [json.loads(Path(folder, "trackers.json").read_text())["trackers"]["mlflow"]["run"] for folder in "ab"]
    found["known"] = known == [each.info.run_id for each in runs]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
