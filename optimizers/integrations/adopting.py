"""Takes an adapter that was trained elsewhere into a run: checked, scored on validation, compared with other stages.

adapter's folder -> `check_foreign_adapter` -> checkpoints/<name> -> validation -> `Adopted`

What the run recorded stays as it is. Added are the weights, the rollouts of one stage, and an entry in `adopted.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dspy

from optimizers.core.best_stage import select_best
from optimizers.core.budget import Budget, Limits
from optimizers.core.events import EventBus
from optimizers.core.fingerprints import BORDER, fingerprint, generator_settings, read_metric, read_program
from optimizers.core.paired_scores import pair_scores
from optimizers.core.records import Checkpoint, Rollout
from optimizers.core.result import SGTResult, StageResult, mark_compiled
from optimizers.core.reward import Metric, Scorer
from optimizers.core.run_folder import RunFolder
from optimizers.core.stages import ADAPTER_STAGE, STUDENT, Stage
from optimizers.core.statistics import gain_interval
from optimizers.core.usage import RunUsage
from optimizers.core.validation import check_examples
from optimizers.rollouts.engine import RolloutEngine
from optimizers.rollouts.evaluation import Evaluator, mean_score
from optimizers.store.rollout_store import RolloutStore, open_run_store
from sgt_modules.errors import RunFolderError, SetupError
from sgt_modules.generator import GeneratorLike, SupplementGenerator
from sgt_modules.local.engine import LocalEngine
from sgt_modules.prompts import Template
from sgt_modules.saving.shapes import read_shapes
from sgt_modules.saving.state_file import copy_folder
from sgt_modules.saving.weights import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    TRAINED_FROM,
    WANTED,
    Weights,
    check_adapter,
    fingerprint_of,
    record_base,
)
from sgt_modules.wrapping import supplement, with_generator

ADOPTED_FILE = "adopted.json"
"""Where a run's folder keeps what was adopted, by name: the weights' origin and sha256, and what validation found."""

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_OWN_STAGES = re.compile(r"none|gated|student|adapter|sft|warm|elsewhere|(dpo|grpo|round)\d*")


@dataclass(frozen=True, slots=True)
class Adopted:
    """An adapter from elsewhere as a stage of a run.

    `program` reads its supplements and can be saved; `stage` is its validation, and `result` holds it next to the
    run's own stages, with the best of all as `selected`. `said` compares it with the program without supplements and
    with the run's best stage.
    """

    program: dspy.Module
    stage: StageResult
    result: SGTResult
    said: str

    @property
    def is_best(self) -> bool:
        """Whether it is better on validation than every stage of the run's own."""
        return self.result.selected == self.stage.name


def adopt(
    run: str | Path,
    adapter: str | Path,
    *,
    name: str,
    program: dspy.Module,
    metric: Metric,
    valset: Sequence[dspy.Example],
    generator: GeneratorLike,
    store: str | Path | None = None,
    num_threads: int | None = None,
    max_actor_calls: int | None = None,
    version: str = "",
) -> Adopted:
    """Add a PEFT adapter that was trained elsewhere to a finished run, as one more stage.

    It is scored as a stage of the run's own is: the generator decodes as at inference, the actor runs once on each
    validation example, and what the store knows is not paid again. Adopted again under the same name, it costs nothing.

    Args:
        run: The run's folder.
        adapter: A PEFT folder: `adapter_config.json` and `adapter_model.safetensors`.
        name: The stage's name: small letters, digits, `_` and `-`.
        program: The program that was compiled, under the same LM.
        metric: The run's metric.
        valset: The run's validation set, in its order.
        generator: The run's generator, as it was given to the teleprompter.
        store: Where the run's rollouts are, if not in its folder.
        num_threads: Program runs at once; `dspy.settings.num_threads` by default.
        max_actor_calls: The most calls of the program's LMs for this.
        version: As it was given to the teleprompter.

    Raises:
        GeneratorNotFoundError: the adapter lacks files, or is for another base model.
        RunFolderError: the folder holds no run of SGT, or one of other settings; or it is in use.
        SetupError: the name is taken, or something else passed in cannot work. Nothing has been paid for.
    """
    folder, source = RunFolder(Path(run)), Path(adapter)
    settings = _settings_of(folder)
    writer = SupplementGenerator.of(generator)
    _check_same(folder, settings, writer, valset)
    if settings["recipe"].get("closed") and not writer.menu:
        raise SetupError(
            "Expected a generator that chooses among the run's texts. Pass generator.choosing(recipe.menu)."
        )
    _check_name(name)
    base = _base_of(writer)
    notes = check_foreign_adapter(source, base)
    if settings["recipe"].get("cost"):
        notes.append("The run's recipe has prices. Stages are compared here by the metric alone.")
    wrapped = supplement(
        program,
        generator=writer,
        only=settings.get("only"),
        scope=settings.get("scope"),
        template=None if settings.get("template") is None else Template(**settings["template"]),
        draft=bool(settings["recipe"].get("draft")),
    )
    scope = _check_code(folder, wrapped, metric, version)
    limits = Limits(max_actor_calls)
    with folder.lock():
        checkpoint = _take_in(folder, source, base, name)
        known = folder.read("run.json") or {}
        with open_run_store(folder, store, run=str(known.get("id", ""))) as rollouts:
            engine = RolloutEngine(
                wrapped,
                Scorer(metric),
                rollouts,
                scope=scope,
                num_threads=num_threads,
                budget=Budget(limits),
                version=version,
            )
            validation = Evaluator(engine, "val", valset, EventBus([]))
            trained = writer.with_checkpoint(checkpoint.path)
            scored = validation.score(name, trained)
            stage = StageResult(name, mean_score(scored.rollouts), scored.rollouts, checkpoint)
            stages = [*_own_stages(folder, rollouts, scope, validation.unaided, name), stage]
        best = _select(stages)
        said = _compare(stages, name)
        result = SGTResult(
            stages=tuple(stages),
            selected=stages[best].name,
            spent=RunUsage.read(folder.read("spent.json") or {}),
            notes=tuple(notes),
            log_dir=folder.path,
            generator=writer,
            store=store,
            verdict=said,
        )
        _record(folder, source, stage, said, notes)
    return Adopted(mark_compiled(with_generator(wrapped, trained), result), stage, result, said)


def check_foreign_adapter(adapter: Path, base: Weights) -> list[str]:
    """Check an adapter's files against themselves and a base model; returns what a person should know of it.

    Raises:
        GeneratorNotFoundError: files are missing or damaged, or the adapter is for another base model.
        SetupError: it is no LoRA adapter, or its config and its weights differ in rank or layers.
    """
    check_adapter(adapter)
    try:
        config: Mapping[str, Any] = json.loads((adapter / ADAPTER).read_text(encoding="utf-8"))
        kind, rank = str(config["peft_type"]), int(config["r"])
    except (KeyError, TypeError, ValueError) as problem:
        raise SetupError(
            f"Expected the config of a LoRA adapter, with peft_type and r, in {str(adapter / ADAPTER)!r}, got another "
            f"({type(problem).__name__}: {problem}). Save the adapter with PEFT's save_pretrained()."
        ) from problem
    if kind != "LORA":
        raise SetupError(f"Expected an adapter of PEFT's LoRA in {str(adapter)!r}, got {kind}. Train one with LoRA.")
    shapes = read_shapes([adapter / ADAPTER_WEIGHTS])
    ranks = {shape[0] for tensor, shape in shapes.items() if ".lora_A." in tensor and len(shape) == 2}
    allowed = {rank, *map(int, (config.get("rank_pattern") or {}).values())}
    if not ranks <= allowed or not ranks:
        found = ", ".join(map(str, sorted(ranks))) or "none"
        raise SetupError(
            f"Expected LoRA weights of rank {rank} in {str(adapter)!r}, as its {ADAPTER} says, got {found}. The two "
            "files are of different trainings: export the adapter again."
        )
    targets = config.get("target_modules")
    layers = {tensor.partition(".lora_A.")[0].rpartition(".")[2] for tensor in shapes if ".lora_A." in tensor}
    if isinstance(targets, list) and (missing := sorted(layers ^ {str(each).rpartition(".")[2] for each in targets})):
        raise SetupError(
            f"Expected weights for the layers {', '.join(sorted(map(str, targets)))} in {str(adapter)!r}, as its "
            f"{ADAPTER} says, got {', '.join(sorted(layers))}: {', '.join(missing)} differ. Export the adapter again."
        )
    base.with_adapter(adapter).check()
    return _notes(adapter, config, base)


def _notes(adapter: Path, config: Mapping[str, Any], base: Weights) -> list[str]:
    """The base that the adapter names, if it is not known to be the run's: shapes do not tell two versions apart."""
    named, own = str(config.get("base_model_name_or_path") or ""), base.folders[0]
    if (adapter / TRAINED_FROM).is_file() or not named or Path(named).name in (own.name, Path(base.model).name):
        return []
    said = (
        f"The adapter's config names {named} as its base model, and this run's is {base.model}. Its layers fit; that "
        "the weights are the same is not known."
    )
    return [said]


def _settings_of(folder: RunFolder) -> Mapping[str, Any]:
    settings: Mapping[str, Any] = (folder.read("run.json") or {}).get("settings") or {}
    if not settings.get("recipe") or "prompt" not in settings:
        raise RunFolderError(
            f"Expected a run of SGTTeleprompter in {folder.path}, got none. Pass the log_dir of a compile."
        )
    if settings.get("actors"):
        raise RunFolderError(
            f"Expected a run of one actor in {folder.path}, got one of {', '.join(settings['actors'])}, whose scores "
            "are means over all of them. Adopt the adapter into a run of one actor."
        )
    return settings


def _check_same(
    folder: RunFolder, settings: Mapping[str, Any], writer: SupplementGenerator, valset: Sequence[dspy.Example]
) -> None:
    """Raise `RunFolderError` unless generator and validation set are the run's."""
    check_examples(valset, "valset")
    if fingerprint(valset, "valset") != settings.get("val"):
        raise RunFolderError(
            f"Expected the validation set of the run in {folder.path}, got {len(valset)} others, on which no score "
            "could be compared. Pass the same examples in the same order."
        )
    own = json.loads(json.dumps(generator_settings(writer), default=str))
    if changed := sorted(name for name, each in own.items() if settings.get(name) != each):
        shown = ", ".join(f"{each} {str(settings.get(each))[:40]!r}, now {str(own[each])[:40]!r}" for each in changed)
        raise RunFolderError(
            f"Expected the generator of the run in {folder.path}, got another: {shown}. Pass the base model and the "
            "settings that were given to the teleprompter."
        )


def _check_code(folder: RunFolder, wrapped: dspy.Module, metric: Metric, version: str) -> str:
    """The scope of the run's rollouts; raises `RunFolderError` if program, LM or metric are others."""
    recorded: Mapping[str, Any] = ((folder.read("run.json") or {}).get("free") or {}).get("code") or {}
    now = {"program": read_program(wrapped, version).mark, "metric": read_metric(metric, version).mark}
    if changed := [name for name, mark in now.items() if recorded.get(name) not in (None, mark)]:
        raise RunFolderError(
            f"Expected the {' and the '.join(changed)} of the run in {folder.path}, got another, whose scores cannot "
            "be compared with the run's. Restore the code, the LM and its settings, and DSPy's adapter."
        )
    return f"{now['program']}{BORDER}{now['metric']}"


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or _OWN_STAGES.fullmatch(name):
        raise SetupError(
            f"Expected a new stage's name of small letters, digits, '_' and '-', got {name!r}. Stages of the method "
            "have names of their own, such as sft and dpo1: choose another."
        )


def _base_of(writer: SupplementGenerator) -> Weights:
    """The base model's files; raises `SetupError` for a generator that has none here."""
    if not isinstance(writer.engine, LocalEngine):
        raise SetupError(
            f"Expected a generator with its base model on this machine, to check the adapter against it, got "
            f"{writer.name} behind a server. Pass the base model's folder or hub id."
        )
    return writer.engine.weights.with_adapter(None)


def _take_in(folder: RunFolder, source: Path, base: Weights, name: str) -> Checkpoint:
    """Copy the weights to the run's checkpoints; raises `SetupError` if the name has other weights."""
    from optimizers.training.side_effects import replace_folder  # imports torch

    target, sha256 = folder.checkpoint(name), fingerprint_of(source)
    if not target.is_dir():
        with replace_folder(target) as scratch:  # with its record, or not at all
            weights = scratch / "weights"
            copy_folder(source, weights, WANTED)
            if not (weights / TRAINED_FROM).is_file():
                record_base(weights, base.folders[0], {"stage": name, "origin": source.resolve().name})
    if fingerprint_of(target) != sha256:
        raise SetupError(
            f"Expected a name that no stage of {folder.path} has, got {name!r}, which has other weights (sha256 "
            f"{fingerprint_of(target)[:12]}...). Choose another."
        )
    return Checkpoint(name, target, sha256)


def _own_stages(
    folder: RunFolder, store: RolloutStore, scope: str, unaided: Sequence[Rollout], new: str
) -> list[StageResult]:
    """The run's stages on validation as its store has them, in the order in which they were scored."""
    left_out = {"none", "gated", new, *(folder.read(ADOPTED_FILE) or {})}  # a folder keeps no gate
    found: dict[str, dict[int, Rollout]] = {}
    for rollout in store.iter_rollouts(scope):
        stage = Stage.read(rollout.stage)
        if stage.split == "val" and not stage.part and stage.name not in left_out:
            of_stage = found.setdefault(stage.name, {})
            if rollout.reward is not None or rollout.query.index not in of_stage:
                of_stage[rollout.query.index] = rollout
    stages = [StageResult("none", mean_score(unaided), unaided)]
    for name, by_index in found.items():
        if len(by_index) != len(unaided):
            continue
        rollouts, weights = [by_index[index] for index in sorted(by_index)], folder.checkpoint(name)
        checkpoint = Checkpoint(name, weights, fingerprint_of(weights)) if weights.is_dir() else None
        stages.append(StageResult(name, mean_score(rollouts), rollouts, checkpoint))
    return stages


def _select(stages: Sequence[StageResult]) -> int:
    """The position of the best stage, by the run's own rule."""
    names = [stage.name for stage in stages]
    came_in = names.index(STUDENT) if STUDENT in names else 0
    floors = [names.index(ADAPTER_STAGE)] if ADAPTER_STAGE in names else []
    return select_best([stage.rollouts for stage in stages], came_in, floors)


def _compare(stages: Sequence[StageResult], name: str) -> str:
    """A sentence each on the gain over no supplement, and over the best of the run's own stages."""
    new, own = stages[-1], stages[:-1]
    others = {"no supplement": own[0]}
    if best := _select(own):
        others[f"stage {own[best].name}, the best of the run's own"] = own[best]
    said = [f"Stage {name} scores {new.score:.3f} on validation."]
    for what, other in others.items():
        first, second = pair_scores(other.rollouts, new.rollouts)
        if first:
            low, high = gain_interval(first, second)
            gain = (sum(second) - sum(first)) / len(first)
            said.append(f"Against {what}: {gain:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}, n = {len(first)}.")
    return " ".join(said)


def _record(folder: RunFolder, source: Path, stage: StageResult, said: str, notes: Sequence[str]) -> None:
    """Add the stage to `adopted.json`."""
    checkpoint = stage.checkpoint
    entry = {
        "origin": str(source),
        "sha256": "" if checkpoint is None else checkpoint.fingerprint,
        "score": stage.score,
        "said": said,
        "notes": list(notes),
        "adopted": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    folder.write(ADOPTED_FILE, {**(folder.read(ADOPTED_FILE) or {}), stage.name: entry})
