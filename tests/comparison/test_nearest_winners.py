"""The nearest winner: which supplement is the nearest winner, and the control and the contender made of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import dspy
import pytest
from scripted import ScriptedEngine, ScriptedGenerator, ScriptedTrainer, reply
from secrets_task import RECIPE, exact

from optimizers import SGTTeleprompter
from optimizers.comparison import Comparison, Problem, compare, controls
from optimizers.core.records import Query, Reward, Rollout
from optimizers.core.result import result_of
from optimizers.sgt.nearest.winners import collect_winners
from optimizers.store.rollout_store import RolloutStore
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.winner_lookup import WinnerLookup


def tried(query: str, text: str, score: float | None = 1.0, prompt: str = "") -> Rollout:
    """An outcome of a supplement on a query; without a text, of the program alone."""
    given = Supplement("cot", text) if text else SILENCE
    return Rollout(
        Query(query, 0, "self", prompt or query), "warm", "free", given, None if score is None else Reward(score)
    )


def choose(rollouts: list[Rollout], prompt: str, neighbours: int, **settings: float) -> Supplement:
    return WinnerLookup(collect_winners(rollouts, **settings), neighbours).choose(prompt)


def test_the_supplement_that_won_most_often_for_the_neighbours_is_chosen() -> None:
    """The nearest alone says A; of the three that share the word, two say B."""
    rollouts = [
        tried("zoka one two", "A"),
        tried("zoka one", "B"),
        tried("zoka two", "B"),
        tried("bima one two", "C"),
        tried("bima", "C"),
    ]
    assert [choose(rollouts, "zoka one two", number).text for number in (1, 3)] == ["A", "B"]


def test_words_that_all_queries_share_say_nothing() -> None:
    """By shared words alone, the second query would be the nearest."""
    schema = "customers products orders staff"
    rollouts = [tried(f"zoka {schema}", "A"), tried(f"bima {schema} {schema} count", "B"), tried(f"dulu {schema}", "C")]
    assert choose(rollouts, f"zoka {schema} {schema} {schema}", 1).text == "A"


def test_a_lost_supplement_an_outage_and_an_unknown_reward_are_no_winners() -> None:
    lost = [tried("zoka", "A", 0.0), tried("zoka", "B", None), tried("bima", "C")]
    assert choose(lost, "zoka", 1) == SILENCE
    assert choose([tried("zoka", "A", 0.5)], "zoka", 1, threshold=0.5).text == "A"
    assert choose([], "zoka", 4) == SILENCE


def test_no_supplement_wins_where_the_program_is_right_without_one() -> None:
    rollouts = [tried("zoka one", ""), tried("zoka two", ""), tried("zoka two", "A")]
    assert choose(rollouts, "zoka", 2) == SILENCE


def test_a_supplement_that_several_stages_tried_on_a_query_counts_once() -> None:
    """Otherwise B, which won twice on one query, would tie with A, which won on two."""
    rollouts = [tried("zoka one two", "B"), tried("zoka one two", "B"), tried("zoka one two", "B")]
    rollouts += [tried("zoka one", "A"), tried("zoka two", "A"), tried("bima", "C")]
    assert choose(rollouts, "zoka one two", 3).text == "A"


def test_ties_are_broken_by_nearness_and_then_by_the_seed() -> None:
    near = [tried("zoka one two", "A"), tried("zoka one", "B"), tried("bima two", "C")]
    assert {choose(near, "zoka one two", 2, seed=seed).text for seed in range(8)} == {"A"}
    tied = [tried("zoka", text) for text in "ABCD"]
    by_seed = [choose(tied, "zoka", 1, seed=seed).text for seed in range(12)]
    assert len(set(by_seed)) > 1
    assert by_seed == [choose(tied[::-1], "zoka", 1, seed=seed).text for seed in range(12)]


COLORS = ("red", "blue", "green")


def ask(number: int, color: str) -> dspy.Example:
    return dspy.Example(question=f"What is thing-{number} in {color}?", answer=f"{number}").with_inputs("question")


TRAIN, VAL, TEST = (
    [ask(10 * start + n, COLORS[n % 3]) for n in range(count)] for start, count in ((1, 6), (2, 6), (3, 9))
)


def color_in(text: str) -> str:
    return re.findall(r"thing-\d+ in (\w+)\?", text)[-1]


def knows_colors(text: str) -> str:
    """Answer like an actor that is right exactly when the supplement holds the secret of its question's color."""
    number = re.findall(r"thing-(\d+) in", text)[-1]
    return reply(answer=number if f"secret-{color_in(text)}" in text else "no idea")


def write(prompt: str) -> Supplement:
    """Background tells the secret of the color; every other kind, and what names none, says nothing."""
    kind = prompt.rpartition("\nKind: ")[2].partition(".")[0] if "\nKind: " in prompt else "cot"
    kind = "rule" if kind.startswith("a new one") else kind
    return Supplement(kind, f"It is secret-{color_in(prompt)}." if kind == "background" else "Think first.")


def writer() -> ScriptedGenerator:
    return ScriptedGenerator(write, trained=ScriptedGenerator(lambda _: Supplement("cot", "Think first.")))


PROBLEM = Problem(dspy.Predict("question -> answer"), exact, TRAIN, VAL, TEST)


def compared(folder: Path, engine: ScriptedEngine, *names: str, **changes: object) -> Comparison:
    with dspy.context(lm=engine.lm()):
        return compare(
            PROBLEM.program,
            *(TRAIN, VAL, TEST, exact, list(names)),
            **{
                "seeds": [0],
                "generator": writer(),
                "trainer": ScriptedTrainer(),
                "recipe": RECIPE,
                "num_threads": 4,
                "log_dir": folder,
                "display_progress": False,
                **changes,
            },
        )


def test_the_contender_finds_what_the_untrained_generator_found_and_stays_within_its_budget(tmp_path: Path) -> None:
    engine = ScriptedEngine(knows_colors)
    found = compared(tmp_path, engine, "nearest_winner", "sgt", budget=150)
    row = found.row("nearest_winner")
    assert (found.row("none").test, row.test) == (0.0, 1.0)
    assert 0 < row.compiling.actor_calls <= 150
    assert row.answer.generator.tokens == 0
    assert (
        json.loads((tmp_path / "nearest_winner" / "seed-0" / "nearest_winner" / "result.json").read_text())["selected"]
        == "nearest"
    )
    assert not (tmp_path / "nearest_winner" / "seed-0" / "nearest_winner" / "checkpoints").exists()


def test_sgt_against_the_nearest_winner_is_reported_and_read_again(tmp_path: Path) -> None:
    """This generator learns nothing worth a word, so all nine questions are lost against the lookup: 2 / 2**9."""
    found = compared(tmp_path, ScriptedEngine(knows_colors), "nearest_winner", "sgt", budget=150)
    [difference] = found.differences
    assert (difference.name, difference.other, difference.gain, difference.examples) == (
        "sgt",
        "nearest_winner",
        -1.0,
        9,
    )
    assert difference.p_value == pytest.approx(2 / 2**9)
    assert difference.words in found.to_markdown()
    assert difference.words.partition(",")[0] in str(found)
    assert Comparison.read(tmp_path).differences == found.differences
    assert compared(tmp_path / "alone", ScriptedEngine(knows_colors), "nearest_winner", budget=150).differences == ()


@pytest.mark.parametrize("budget", [1, 7, 20, 60, None])
def test_the_contender_has_a_program_at_any_budget(tmp_path: Path, budget: int | None) -> None:
    engine = ScriptedEngine(knows_colors)
    row = compared(tmp_path, engine, "nearest_winner", budget=budget).row("nearest_winner")
    assert not row.skipped
    assert row.compiling.actor_calls <= (budget or 10**9)
    asked = len(engine.asked)
    assert compared(tmp_path, engine, "nearest_winner", budget=budget).row("nearest_winner") == row
    assert len(engine.asked) == asked


class TwoSteps(dspy.Module):
    """A program of two predictors, each of which may need help."""

    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict("question -> hint")
        self.second = dspy.Predict("question, hint -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.second(question=question, hint=self.first(question=question).hint)


def hints(text: str) -> str:
    """The first predictor gives the hint `go` with its color's secret; the second is right after such a hint."""
    number = re.findall(r"thing-(\d+) in", text)[-1]
    if "[[ ## answer ## ]]" in text.rpartition("Respond with")[2]:
        return reply(answer=number if "go" in text.rpartition("[[ ## hint ## ]]")[2] else "no idea")
    return reply(hint="go" if f"secret-{color_in(text)}" in text else "stop")


def test_a_program_of_several_predictors_is_looked_up_at_each_of_its_places(tmp_path: Path) -> None:
    engine = ScriptedEngine(hints)
    with dspy.context(lm=engine.lm()):
        found = compare(
            TwoSteps(), TRAIN, VAL, TEST, exact, ["nearest_winner"], seeds=[0], generator=writer(),
            trainer=ScriptedTrainer(), recipe=RECIPE, num_threads=4, log_dir=tmp_path, display_progress=False,
            budget=600,
        )  # fmt: skip
    assert (found.row("none").test, found.row("nearest_winner").test) == (0.0, 1.0)


def test_the_control_reads_the_whole_run_s_own_store_and_chooses_on_validation(tmp_path: Path) -> None:
    """What the trained generator writes is worth nothing here, what exploration found is."""
    engine = ScriptedEngine(knows_colors)
    sgt = SGTTeleprompter(
        exact, writer(), trainer=ScriptedTrainer(), recipe=RECIPE, log_dir=tmp_path, display_progress=False
    )
    with dspy.context(lm=engine.lm()):
        better = sgt.compile(PROBLEM.program, trainset=TRAIN, valset=VAL)
        found = controls(better, PROBLEM, names=["lookup"], repeats=1, display_progress=False)
        asked = len(engine.asked)
        assert controls(better, PROBLEM, names=["lookup"], repeats=1, display_progress=False).content() == (
            found.content()
        )
    assert len(engine.asked) == asked
    row = found.row("lookup")
    assert (row.score, row.gain) == (1.0, 1.0)
    assert row.note == "1 nearest training query, chosen on validation"
    assert "The selected stage gains -1.000 (" in str(found)
    assert found.over_lookup is not None
    assert found.over_lookup.p_none == pytest.approx(2 / 2**9)
    with RolloutStore(tmp_path / "rollouts.sqlite") as store:
        assert result_of(better).spent.actor_calls == store.spent("run").calls


def test_a_run_of_another_metric_has_no_outcomes_to_look_up(tmp_path: Path) -> None:
    engine = ScriptedEngine(knows_colors)
    sgt = SGTTeleprompter(
        exact, writer(), trainer=ScriptedTrainer(), recipe=RECIPE, log_dir=tmp_path, display_progress=False
    )
    other = Problem(PROBLEM.program, lambda example, prediction, trace=None: 1.0, TRAIN, VAL, TEST)
    with dspy.context(lm=engine.lm()):
        better = sgt.compile(PROBLEM.program, trainset=TRAIN, valset=VAL)
        found = controls(better, other, names=["lookup"], repeats=1, display_progress=False)
    assert "no training rollouts" in found.row("lookup").skipped


def test_the_former_name_still_runs_it_and_stays_in_the_rows(tmp_path: Path) -> None:
    found = compared(tmp_path, ScriptedEngine(knows_colors), "lookup", budget=150)
    assert found.row("lookup").test == 1.0
