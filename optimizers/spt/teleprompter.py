"""Supervisory Prompt Training as a DSPy teleprompter: the method on one screen.

Source: SPT (arXiv 2403.18051); `docs/method.md` maps each step to its place here and lists what is our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dspy
from dspy.teleprompt import Teleprompter

from optimizers.run_options import RunOptions, sizes
from optimizers.spt.impact import Way
from optimizers.spt.recipe import SPTRecipe, Variant
from optimizers.spt.settings import SPTSettings, check_corrector
from sgt_modules.wrapping import instructions_of

if TYPE_CHECKING:
    from optimizers.core.estimate import Estimate


@dataclass(eq=False, repr=False, kw_only=True)
class SupervisoryPromptTeleprompter(RunOptions, Teleprompter):
    """Have a corrector LM rewrite a program's instructions from the mistakes that it makes under them.

    No weights are trained. Demos, fields, LMs and settings of the program stay as they are; so do the supplements of a
    program that reads some.

    Args:
        metric: Any DSPy metric. This and every option that is not below is one of
            [`RunOptions`][optimizers.run_options.RunOptions]: threads, limits, seed, folder, trackers, and more.
        corrector: The LM that writes instructions; a capable one is the idea.
        variant: `pc`: the corrector also rewrites its own brief, from what the first and the best prompt both fail;
            `p`: it does not. The recipe's by default, which is `p`.
        impact: Whether the corrector reads each sentence's impact on the training score, and how it is measured:
            `prefix` (or True) or `leave-one-out`. The recipe's by default, which is `prefix`.
        rounds: How often instructions are corrected, where not the recipe's 5. Several predictors take turns.
        candidates: Prompts that the corrector writes a round, where not the recipe's 4.
        recipe: All options of the method; see `SPTRecipe`.

    Source: SPT (arXiv 2403.18051).

    >>> spt = SupervisoryPromptTeleprompter(lambda example, prediction: True, dspy.LM("openai/gpt-4.1"), variant="pc")
    >>> spt.recipe.variant, spt.recipe.impact, spt.recipe.candidates
    ('pc', 'prefix', 4)
    """

    corrector: dspy.LM = field(kw_only=False)
    variant: Variant | None = None
    impact: bool | Way | None = None
    rounds: int | None = None
    candidates: int | None = None
    recipe: SPTRecipe | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.recipe = recipe = (self.recipe or SPTRecipe()).with_options(
            variant=self.variant, impact=self.impact, rounds=self.rounds, candidates=self.candidates
        )
        self.settings = SPTSettings(options=self, corrector=check_corrector(self.corrector), recipe=recipe)

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
        from optimizers.spt.history import History, ScoredCandidate
        from optimizers.spt.run import PromptRun

        recipe = self.settings.recipe
        with PromptRun.opened(student, trainset, valset, self.settings) as run:
            history = History(instructions_of(student), [recipe.meta_prompts.correct])
            with run.within_budget(history):
                history.stages.append(run.validate(history))
                for round_ in range(1, recipe.rounds + 1):
                    history.answered.append(answers := run.answer_trainset(history))
                    mistakes = run.find_mistakes(answers, history)
                    if not mistakes:
                        break
                    impacts = run.measure_impacts(history)
                    candidates = run.write_candidates(mistakes, impacts, history)
                    scored: list[ScoredCandidate] = []
                    for each in run.score_candidates(candidates, mistakes, history):
                        scored.append(each)
                        history.explored.append(each.rollouts)
                    history.rounds.append(run.choose(scored, answers, mistakes, impacts, history))
                    if history.rounds[-1].accepted:
                        history.stages.append(run.validate(history))
                    if recipe.variant == "pc" and round_ < recipe.rounds:
                        history.briefs += run.improve_corrector(history)
            return run.finish(history)

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
        from optimizers.spt.estimate import estimate_spt
        from optimizers.spt.run import PromptRun

        settings, found = self.settings, None
        train, validation = sizes(trainset, valset, self.seed)
        sentences = settings.sentences(program)
        if probe:
            with PromptRun.opened(program, trainset, valset, settings, probe=probe) as run:
                found = run.probe(probe)
        return estimate_spt(settings.recipe, train=train, validation=validation, sentences=sentences, probe=found)
