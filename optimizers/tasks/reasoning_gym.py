"""Reasoning Gym's games as a task for agents: sokoban and water jugs, one LM call a move; needs neither hub nor files.

The package `reasoning-gym` (Stojanovski et al. 2025, arXiv 2505.24760; Apache-2.0) makes the puzzles from a seed,
applies the moves and scores them. It is imported when a puzzle is first made, shown or scored.
"""

from __future__ import annotations

import importlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, cast

import dspy
from dspy.utils.exceptions import AdapterParseError

from optimizers.tasks.definition import Source, Task
from optimizers.tasks.replies import visible_reply
from optimizers.tasks.rows import Placed, Pools
from optimizers.tasks.splitting import Sizes
from sgt_modules.errors import SetupError, TaskDataError

MOST_STEPS = 12
"""The most LM calls of an episode: twice the longest known solution of a puzzle."""

SOLUTION_LENGTHS = range(2, 7)
"""The numbers of moves of known solutions that a puzzle may have: short enough for small models to succeed at times."""

_SHOWN_CHARACTERS = 60


@cache
def _import_gym(module: str = "") -> Any:  # the package has no types
    """Return a module of the package, or the package itself."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # shown where its dependency cellpylib is first compiled
            return importlib.import_module(f"reasoning_gym{module}")
    except ModuleNotFoundError as missing:
        raise SetupError(
            f"Expected the package reasoning-gym, got none ({missing}). Run `pip install 'dspy-sgt[gym]'`."
        ) from missing


class Game(Protocol):
    """A game of the package. A puzzle is a text; a position is the puzzle with the legal moves so far."""

    @property
    def rules(self) -> str:
        """The goal, and the form of a move."""
        ...

    def read_moves(self, reply: str) -> list[str]:
        """Return the moves that a reply names, in the package's form."""
        ...

    def show(self, puzzle: str, moves: Sequence[str]) -> tuple[str, bool]:
        """Return the position after some legal moves as text, and whether it is solved; `SetupError` for no puzzle."""
        ...

    def why_illegal(self, puzzle: str, moves: Sequence[str], move: str) -> str:
        """Return why a move is illegal after these moves; empty if it is legal."""
        ...

    def score(self, puzzle: str, moves: Sequence[str]) -> float:
        """Return the score of the package's own scorer, in [0, 1]; 1.0 if the moves solve the puzzle."""
        ...

    def generate(self, seed: int) -> Iterator[tuple[str, list[str]]]:
        """Yield puzzles, each with a known solution; some may be equal."""
        ...


class Jugs:
    """Three jugs and a tap: measure a number of litres.

    >>> Jugs().show("A holds 3, B holds 5, C holds 8; target 2", ["fill B", "pour B->A"])
    ('A has 3 of 3 litres, B has 2 of 5 litres, C has 0 of 8 litres; the target is 2 litres in any jug', True)
    """

    rules = (
        "Get exactly the target amount of water into any jug. All jugs are empty at first. A move is `fill A` (to the "
        "brim), `empty A` (on the ground) or `pour A->B` (until A is empty or B is full), with any of the jugs A, B, C."
    )
    _move = re.compile(
        r"\b(fill|empty)\s+(?:jug\s+)?([ABC])\b|\bpour\s+(?:jug\s+)?([ABC])\s*(?:->|to|into)\s*(?:jug\s+)?([ABC])\b",
        re.I,
    )

    def read_moves(self, reply: str) -> list[str]:
        """As `Game`: `pour A to B` is `pour A->B`."""
        found = [[part for part in each.groups() if part] for each in self._move.finditer(reply)]
        return [
            f"pour {one.upper()}->{other.upper()}" if one.upper() in "ABC" else f"{one.lower()} {other.upper()}"
            for one, other in found
        ]

    def show(self, puzzle: str, moves: Sequence[str]) -> tuple[str, bool]:
        """As `Game`, from the package's own simulation."""
        known = self._puzzle(puzzle)
        solved, states = _import_gym(".algorithmic.jugs").verify_solution(known, list(moves))
        jugs = zip("ABC", states[-1], known["jug_capacities"], strict=True)
        amounts = ", ".join(f"{jug} has {amount} of {capacity} litres" for jug, amount, capacity in jugs)
        return f"{amounts}; the target is {known['target']} litres in any jug", bool(solved)

    def why_illegal(self, puzzle: str, moves: Sequence[str], move: str) -> str:
        """As `Game`: any move that can be read is legal, as in the package, even if it changes nothing."""
        return ""

    def score(self, puzzle: str, moves: Sequence[str]) -> float:
        """As `Game`."""
        return _score("jugs", json.dumps(list(moves)), {"puzzle": self._puzzle(puzzle)})

    def generate(self, seed: int) -> Iterator[tuple[str, list[str]]]:
        """As `Game`: the capacities rise from A to C, so that no puzzle is another one with its jugs renamed."""
        solve = _import_gym(".algorithmic.jugs").generate_jug_solution
        for difficulty in range(2, 6):
            for entry in _entries("jugs", seed, 150, difficulty=difficulty):
                capacities, target = (
                    sorted(entry["metadata"]["puzzle"]["jug_capacities"]),
                    entry["metadata"]["puzzle"]["target"],
                )
                sizes = ", ".join(f"{jug} holds {capacity}" for jug, capacity in zip("ABC", capacities, strict=True))
                yield f"{sizes}; target {target}", solve(tuple(capacities), target)

    def _puzzle(self, puzzle: str) -> dict[str, Any]:
        found = re.fullmatch(r"A holds (\d+), B holds (\d+), C holds (\d+); target (\d+)", puzzle.strip())
        if not found:
            raise SetupError(f"Expected jugs as 'A holds 3, B holds 5, C holds 8; target 4', got {puzzle!r}.")
        *capacities, target = map(int, found.groups())
        return {"jug_capacities": capacities, "target": target}


class Sokoban:
    """Push the box onto the goal.

    >>> walk = Sokoban()
    >>> walk.why_illegal("+ + + + +\\n+ * @ X +\\n+ + + + +", [], "U")
    'a wall is there'
    >>> walk.show("+ + + + +\\n+ * @ X +\\n+ + + + +", ["R"])
    ('+ + + + +\\n+ - * $ +\\n+ + + + +', True)
    """

    rules = (
        "Push every box onto a goal. A move is one letter: U (up), D (down), L (left) or R (right). You push a box by "
        "walking into it, if the cell behind it is free; you cannot pull. `*` is you, `%` you on a goal, `@` a box, "
        "`X` a goal, `$` a box on a goal, `+` a wall, `-` an empty cell."
    )
    _move = re.compile(r"(?<![\w'-])(?:(?i:up|down|left|right)|[UDLR])(?![\w'-])")

    def read_moves(self, reply: str) -> list[str]:
        """As `Game`: `up` is `U`, and so is `u` alone."""
        text = reply.upper() if len(reply) == 1 else reply
        return [found.group()[0].upper() for found in self._move.finditer(text)]

    def show(self, puzzle: str, moves: Sequence[str]) -> tuple[str, bool]:
        """As `Game`, from the package's own simulation."""
        game = self._play(puzzle, moves)
        return "\n".join(" ".join(row) for row in game.get_matrix().tolist()), bool(game.is_level_complete())

    def why_illegal(self, puzzle: str, moves: Sequence[str], move: str) -> str:
        """As `Game`."""
        game = self._play(puzzle, moves)
        down, right = {"U": (-1, 0), "D": (1, 0), "L": (0, -1), "R": (0, 1)}[move]
        ahead = game.puzzle[game.player.y + down, game.player.x + right].char
        if game.player.update(key=move):
            return ""
        return (
            "a wall is there" if ahead == "+" else "the box there cannot be pushed, as the cell behind it is not free"
        )

    def score(self, puzzle: str, moves: Sequence[str]) -> float:
        """As `Game`."""
        return _score("sokoban", "".join(moves), {"gamestr": puzzle})

    def generate(self, seed: int) -> Iterator[tuple[str, list[str]]]:
        """As `Game`: boards of 5 or 6 cells a side, walls included, with one box; solved ones are left out."""
        for entry in _entries("sokoban", seed, 600, min_w=5, max_w=6, min_h=5, max_h=6, min_boxes=1, max_boxes=1):
            board = entry["metadata"]["gamestr"]
            if "@" in board:
                yield "\n".join(line.strip() for line in board.strip().splitlines()), list(entry["answer"])

    def _play(self, puzzle: str, moves: Sequence[str]) -> Any:
        cells = [line.replace(" ", "") for line in puzzle.strip().splitlines()]
        walls = "".join(cells[:1] + cells[-1:] + [line[0] + line[-1] for line in cells if line])
        fits = len({len(line) for line in cells}) == 1 and re.fullmatch(r"\++", walls)
        players = len(re.findall(r"[*%]", "".join(cells)))
        if not fits or players != 1 or re.search(r"[^-+*%@X$]", "".join(cells)):
            raise SetupError(f"Expected a sokoban board within walls (+) with one player (* or %), got {puzzle!r}.")
        game = _import_gym(".games.contrib.sokoban.src.game").Game(height=len(cells), width=len(cells[0]))
        game.load_puzzle_matrix([list(line) for line in cells])
        for move in moves:
            game.player.update(key=move)
        return game


GAMES: Mapping[str, Game] = {"sokoban": Sokoban(), "jugs": Jugs()}
"""The games by their names in the package."""


def _entries(name: str, seed: int, size: int, **config: int) -> Iterator[dict[str, Any]]:
    yield from _import_gym().create_dataset(name, seed=seed * size, size=size, **config)


def _score(name: str, answer: str, metadata: Mapping[str, Any]) -> float:
    return float(_import_gym().get_score_answer_fn(name)(answer, {"metadata": metadata}))


class NextMove(dspy.Signature):
    """Play the game. Answer with one move."""

    rules: str = dspy.InputField()
    seen: str = dspy.InputField(desc="your moves so far")
    position: str = dspy.InputField(desc="the position now")
    move: str = dspy.OutputField(desc="one move, in the form that the rules name")


class GamePlayer(dspy.Module):
    """An agent of one predictor, `act`, which is called for each move until the puzzle is solved or the steps end.

    An illegal move changes nothing: the agent reads why at its next step, and so it does where its reply cannot be
    parsed. The prediction has `moves` (the legal ones, in the package's form), `illegal` (their number), `steps` (the
    number of calls) and `solved`. Raises `SetupError` for a game that does not exist, or a text that is no puzzle.

    >>> from dspy.utils import DummyLM
    >>> with dspy.context(lm=DummyLM([{"move": "up"}, {"move": "R"}])):
    ...     GamePlayer()(game="sokoban", puzzle="+ + + + +\\n+ * @ X +\\n+ + + + +")
    Prediction(
        moves=['R'],
        illegal=1,
        steps=2,
        solved=True
    )
    """

    def __init__(self, most_steps: int = MOST_STEPS) -> None:
        super().__init__()
        if most_steps < 1:
            raise SetupError(f"Expected at least one step as most_steps, got {most_steps}.")
        self.most_steps = most_steps
        self.act = dspy.Predict(NextMove)

    def forward(self, game: str, puzzle: str) -> dspy.Prediction:
        """Call the predictor and apply its moves in turn."""
        rules, moves, seen = _find_game(game), list[str](), list[str]()
        position, solved = rules.show(puzzle, moves)
        while not solved and len(seen) < self.most_steps:
            reply = self._ask(rules.rules, "\n".join(seen) or "nothing", position)
            move, problem = _judge_move(rules, puzzle, moves, reply)
            if problem:
                seen.append(f"{move}: illegal, {problem}")
                continue
            moves.append(move)
            position, solved = rules.show(puzzle, moves)
            seen.append(f"{move}: done")
        return dspy.Prediction(moves=moves, illegal=len(seen) - len(moves), steps=len(seen), solved=solved)

    def _ask(self, rules: str, seen: str, position: str) -> str:
        try:
            return str(self.act(rules=rules, seen=seen, position=position).move or "")
        except AdapterParseError:
            return ""


def _find_game(name: str) -> Game:
    if name not in GAMES:
        raise SetupError(f"There is no game {name!r}. There are {', '.join(GAMES)}.")
    return GAMES[name]


def _judge_move(game: Game, puzzle: str, moves: Sequence[str], reply: str) -> tuple[str, str]:
    """Return the move that a reply names, and why it is illegal; an unreadable reply is its own beginning."""
    text = " ".join(visible_reply(reply).split())
    named = list(dict.fromkeys(game.read_moves(text.strip("`'\". "))))
    if len(named) != 1:
        shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
        return repr(shown), f"expected one move, got {', '.join(named) or 'none that can be read'}"
    return named[0], game.why_illegal(puzzle, moves, named[0])


def game_solved(example: dspy.Example, prediction: dspy.Prediction, *_: object, **__: object) -> dspy.Prediction:
    """Score 1.0 if the package's own scorer accepts the prediction's `moves` as a whole solution, else 0.0.

    Raises `SetupError` for an example of another game.

    >>> board = dspy.Example(game="sokoban", puzzle="+ + + + +\\n+ * @ X +\\n+ + + + +", solution=["R"])
    >>> game_solved(board, dspy.Prediction(moves=["R"])).score
    1.0
    >>> game_solved(board, dspy.Prediction(moves=[], illegal=12, steps=12)).feedback
    'Not solved after 0 legal moves and 12 illegal ones. A solution is R.'
    """
    given: object = prediction.get("moves")
    moves = [str(each) for each in cast("list[object]", given)] if isinstance(given, list) else []
    solved = _find_game(str(example.game)).score(str(example.puzzle), moves) >= 1
    tried = f"after {len(moves)} legal moves and {prediction.get('illegal', 0)} illegal ones"
    missed = f"Not solved {tried}. A solution is {', '.join(example.solution)}."
    return dspy.Prediction(score=float(solved), feedback=f"Solved {tried}." if solved else missed)


@cache
def _puzzles(game: str, seed: int) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return a game's different puzzles with solutions of `SOLUTION_LENGTHS`."""
    found: dict[str, tuple[str, ...]] = {}
    for puzzle, solution in _find_game(game).generate(seed):
        if len(solution) in SOLUTION_LENGTHS:
            found.setdefault(puzzle, tuple(solution))
    return tuple(found.items())


def _load(games: Sequence[str], seed: int, folder: Path | None) -> Pools:
    if folder is not None:
        raise TaskDataError(
            f"Expected no folder of rows, got {folder}: the puzzles are made from a seed. Leave it out."
        )
    placed = [
        Placed(dspy.Example(game=game, puzzle=text, solution=list(moves)).with_inputs("game", "puzzle"), f"{game}[{n}]")
        for game in games
        for n, (text, moves) in enumerate(_puzzles(game, seed))
    ]
    return Pools({"train": placed}, f"reasoning-gym {version('reasoning-gym')}: {', '.join(games)} of seed {seed}")


def gym_task(
    games: Sequence[str] = tuple(GAMES), *, seed: int = 0, most_steps: int = MOST_STEPS, name: str = "reasoning_gym"
) -> Task:
    """Return a task of some of the `GAMES`, with a seed's puzzles (0 or above) and at most `most_steps` calls a run.

    Raises:
        SetupError: there is no such game, or no game at all, or a number is too small.

    >>> jugs = gym_task(["jugs"], seed=1, name="jugs")
    >>> jugs.new_program().most_steps
    12
    """
    if isinstance(games, str) or not games or seed < 0:
        raise SetupError(f"Expected a list of games and a seed of at least 0, got games={games!r} and seed={seed}.")
    for each in games:
        _find_game(each)
    GamePlayer(most_steps)
    return Task(
        name=name,
        description="Games of Reasoning Gym, played move by move; the puzzle must be solved.",
        program=partial(GamePlayer, most_steps),
        metric=game_solved,
        loader=partial(_load, tuple(games), seed),
        sizes=Sizes(train=100, val=60, test=150),
        gold=lambda example: dspy.Prediction(moves=list(example.solution)),
        question_fields="puzzle",
        shows_gold=False,  # a gold answer is a list of moves, and no example of a step
        source=Source("Stojanovski et al. 2025, arXiv 2505.24760", "Apache-2.0"),
    )


REASONING_GYM = gym_task()
