"""What a run of several actors says of each of them: `actors.json`, and a note."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optimizers.core.result import StageResult
from optimizers.core.run_folder import ACTORS_FILE, RunFolder
from optimizers.core.usage import Usage


def keep_actors(folder: RunFolder, stages: Sequence[StageResult], selected: str, usage: Mapping[str, Usage]) -> str:
    """Write what each of several actors cost and how it scored, and return it in a sentence; empty for one actor."""
    if not usage:
        return ""
    folder.write(ACTORS_FILE, actors_content(stages, usage))
    return describe_by_actor(stages, selected, usage)


def describe_by_actor(stages: Sequence[StageResult], selected: str, usage: Mapping[str, Usage]) -> str:
    """Each actor's validation scores without a supplement and in the selected stage, and its calls, in one sentence.

    Empty where no stage is scored.
    """
    found = {stage.name: stage.by_actor for stage in stages if stage.by_actor}
    if selected not in found:
        return ""
    before = {} if selected == "none" else found.get("none", {})
    parts = [
        f"{name} {f'{before[name]:.3f} -> ' if name in before else ''}{score:.3f} ({usage[name].calls:,} calls)"
        for name, score in found[selected].items()
    ]
    stage = "no supplement" if selected == "none" else f"no supplement -> {selected}"
    return f"By actor, validation scores of {stage}: {'; '.join(parts)}."


def actors_content(stages: Sequence[StageResult], usage: Mapping[str, Usage]) -> dict[str, object]:
    """What `actors.json` holds: by actor, its usage and the validation score of each stage."""
    return {
        name: {
            "calls": used.calls,
            "tokens_in": used.tokens_in,
            "tokens_out": used.tokens_out,
            "cost": used.cost,
            "scores": {stage.name: stage.by_actor[name] for stage in stages if name in stage.by_actor},
        }
        for name, used in usage.items()
    }
