"""Supervisory Prompt Training as a DSPy teleprompter: the method on one screen.

Source: SPT (arXiv 2403.18051); `docs/method.md` maps each step to its place here and lists what is our choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import dspy
from dspy.teleprompt import Teleprompter

from optimizers.core.budget import Limits
from optimizers.observe.tracking.report_to import ReportTo, check_report_to
from optimizers.rollouts.runners import Runner, RunnerName, check_runner, check_seconds, open_runner
from optimizers.spt.impact import Way
from optimizers.spt.recipe import SPTRecipe, Variant
from optimizers.spt.settings import SPTSettings, check_corrector

if TYPE_CHECKING:
    from optimizers.core.estimate import Estimate
    from optimizers.observe.progress import Display


class SupervisoryPromptTeleprompter(Teleprompter):
    """Have a corrector LM rewrite a program's instructions from the mistakes that it makes under them.

    No weights are trained. Demos, fields, LMs and settings of the program stay as they are; so do the supplements of a
    program that reads some.

    Args:
        metric: Any DSPy metric of 2, 3 or 5 arguments that returns a bool, a number in [0, 1], or
            `Prediction(score=, feedback=)`; the corrector reads the feedback.
        corrector: The LM that writes instructions; a capable one is the idea.
        variant: `pc`: the corrector also rewrites its own brief, from what the first and the best prompt both fail;
            `p`: it does not. The recipe's by default, which is `p`.
        impact: Whether the corrector reads each sentence's impact on the training score, and how it is measured:
            `prefix` (or True) or `leave-one-out`. The recipe's by default, which is `prefix`.
        rounds: How often instructions are corrected, where not the recipe's 5. Several predictors take turns.
        candidates: Prompts that the corrector writes a round, where not the recipe's 4.
        recipe: All options of the method; see `SPTRecipe`.
        only: The names of the predictors whose instructions are written; all by default.
        runner: Where program runs are worked: `threads` here, `ray` on a cluster, or an object such as `RayRunner()`.
        num_threads: Program runs at once; `dspy.settings.num_threads` by default.
        max_errors: Runs in a row without a reward (see [Faults](faults.md)) after which everything stops; as many
            replies of the corrector.
        max_actor_calls: The most calls of the program's LMs; asked before each run of the program.
        max_cost_usd: The most dollars, for the program's LMs and the corrector together.
        max_seconds: The most seconds at work. Where one of the three is reached, the run ends in good order with the
            best program so far; each counts all sessions in `log_dir`, so a later call with more goes on from there.
        max_run_seconds: How long one run of the program may take before it is given up; no limit by default.
        seed: Seeds every choice.
        log_dir: The run's folder; a fresh one under `runs/` by default. A folder with a run of the same settings is
            gone on with: no run of the program and no reply of the corrector is paid for again.
        store: Where rollouts and replies are kept, if not in `log_dir`: a file, or a database's URL.
        report_to: Trackers and observers of the run, none by default: `mlflow`, `wandb`, `tensorboard` (they need
            `dspy-sgt[trackers]`; see [Tracking](tracking.md)), an `Observer` of your own (see [Events](events.md)), or
            several.
        display_progress: False is silence; by default a live view on a terminal or in a notebook, and plain lines
            elsewhere. A function is called with a `Snapshot` of the run at most four times a second, an `Observer` with
            every event; see [Live view](live.md).
        version: A word of yours for the state of code that cannot be read: a metric written in C, or an object without
            code that the metric or the program uses; a note names them. Another word has answers judged again and,
            where the program holds such an object, paid for again. See
            [Scaling](scaling.md#what-makes-two-rewards-the-same).

    Source: SPT (arXiv 2403.18051).

    >>> spt = SupervisoryPromptTeleprompter(lambda example, prediction: True, dspy.LM("openai/gpt-4.1"), variant="pc")
    >>> spt.recipe.variant, spt.recipe.impact, spt.recipe.candidates
    ('pc', 'prefix', 4)
    """

    def __init__(
        self,
        metric: Callable[..., object],
        corrector: dspy.LM,
        *,
        variant: Variant | None = None,
        impact: bool | Way | None = None,
        rounds: int | None = None,
        candidates: int | None = None,
        recipe: SPTRecipe | None = None,
        only: Sequence[str] | None = None,
        runner: RunnerName | Runner = "threads",
        num_threads: int | None = None,
        max_errors: int = 10,
        max_actor_calls: int | None = None,
        max_cost_usd: float | None = None,
        max_seconds: float | None = None,
        max_run_seconds: float | None = None,
        seed: int = 0,
        log_dir: str | Path | None = None,
        store: str | Path | None = None,
        report_to: ReportTo = None,
        display_progress: Display = None,
        version: str = "",
    ) -> None:
        super().__init__()
        self.metric = metric
        self.recipe = (recipe or SPTRecipe()).with_options(
            variant=variant, impact=impact, rounds=rounds, candidates=candidates
        )
        self.settings = SPTSettings(
            metric=metric,
            corrector=check_corrector(corrector),
            recipe=self.recipe,
            num_threads=num_threads,
            max_errors=max_errors,
            seed=seed,
            log_dir=Path(log_dir) if log_dir else None,
            only=only,
            limits=Limits(max_actor_calls, max_cost_usd, max_seconds),
            store=store,
            max_run_seconds=check_seconds(max_run_seconds),
            version=version,
        )
        self.runner: RunnerName | Runner = check_runner(runner)
        self.display_progress: Display = display_progress
        self.report_to = check_report_to(report_to)

    def compile(  # pyright: ignore[reportIncompatibleMethodOverride]  (no **kwargs: a misspelt argument is an error)
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Sequence[dspy.Example] | None = None,
    ) -> dspy.Module:
        """Write instructions for `student` and return a new program; `student` is untouched.

        The prompts returned are the best on `valset` among the student's and those that each round accepted, the
        earlier on a tie: never worse on validation than the program that came in. Without a `valset`, a seeded 30 % of
        the training set is held out. `teacher` is accepted as by every teleprompter and not used. The result's
        `detailed_results` has each round's diff, impacts and candidates. The first Ctrl-C ends the run in good order,
        the second at once; both raise `KeyboardInterrupt`, and what was paid is saved.

        Raises:
            SetupError: something passed in cannot work; nothing has been paid for.
        """
        from optimizers.observe.progress import build_observers
        from optimizers.spt.run import PromptRun

        settings, observers = self.settings, build_observers(self.display_progress, self.report_to)
        with (
            open_runner(self.runner) as runner,
            PromptRun.opened(
                student, trainset=trainset, valset=valset, settings=settings, observers=observers, runner=runner
            ) as run,
        ):
            with run.within_budget():
                run.validate()
                for number in range(1, self.recipe.rounds + 1):
                    mistakes = run.mistakes(number)
                    if not mistakes:
                        break
                    measured = run.sentence_impacts()
                    candidates = run.scored(run.corrected(mistakes, measured), mistakes)
                    if run.accept(mistakes, measured, candidates):
                        run.validate()
                    if self.recipe.variant == "pc" and number < self.recipe.rounds:
                        run.improve_corrector()
            return run.finish()

    def estimate(
        self,
        program: dspy.Module,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None = None,
        *,
        probe: int = 0,
    ) -> Estimate:
        """What `compile` on the same would take, round by round: calls and, with a `probe`, tokens, dollars and seconds
        of the program. It prints as a table; each round's `samples` are the corrector's replies.

        `probe` is how many training examples the program is run on, which is paid for; with the same `log_dir` or
        `store`, `compile` does not pay for it again. Without one nothing is paid, and half of the answers count as
        mistakes.

        Raises:
            SetupError: something passed in cannot work; nothing has been paid for.

        >>> examples = [dspy.Example(question=f"{n}+1?").with_inputs("question") for n in range(150)]
        >>> spt = SupervisoryPromptTeleprompter(lambda example, prediction: True, dspy.LM("openai/gpt-4.1"), rounds=1)
        >>> spt.estimate(dspy.Predict("question -> answer"), examples[:100], examples[100:]).total.actor_calls
        490.0
        """
        from optimizers.observe.progress import build_views
        from optimizers.session import sizes
        from optimizers.spt.estimate import estimate_spt
        from optimizers.spt.run import PromptRun

        settings, (train, validation), found = self.settings, sizes(trainset, valset), None
        counts = settings.sentences(program)
        if probe:
            observers = build_views(self.display_progress)
            with (
                open_runner(self.runner) as runner,
                PromptRun.opened(
                    program, trainset=trainset, valset=valset, settings=settings, observers=observers, runner=runner
                ) as run,
            ):
                found = run.probe(min(probe, train))
        return estimate_spt(self.recipe, train=train, validation=validation, sentences=counts, probe=found)
