"""A menu: the fixed supplements that a generator chooses from. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from sgt_modules.errors import SavedStateError, SetupError
from sgt_modules.kinds import FREE, SILENCE, Kind, Supplement
from sgt_modules.replies import read_reply

_MAX_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Menu:
    """The supplements that a generator chooses from; with an empty menu it writes freely.

    The choices differ in kind and in text, and `read_reply` turns each reply into its choice. Raises `SetupError` for
    other choices.

    >>> menu = Menu.of([Kind("refunds", text="Refunds take five days."), Kind("hours", text="We open at nine.")])
    >>> menu.replies
    ('[refunds] Refunds take five days.', '[hours] We open at nine.', '[none]')
    >>> menu.read("[hours] We open at nine."), menu.read("[hours] We open at ten.")
    (Supplement(kind='hours', text='We open at nine.'), Supplement(kind='none', text=''))
    """

    choices: tuple[Supplement, ...] = ()

    def __post_init__(self) -> None:
        for choice in self.choices:
            as_read = read_reply(choice.reply())
            if as_read != choice or (choice and choice.kind == FREE):
                raise SetupError(
                    f"Expected a given text that reads back as it is, got {choice.reply()[:_MAX_SHOWN]!r}, which reads "
                    f"as {as_read.reply()[:_MAX_SHOWN]!r}. Name its kind in small letters, digits and underscores (not "
                    "'free' or 'none'), and give a text without blanks at its ends, tags of its own kind or thoughts."
                )
        for name, values in (
            ("kind", [each.kind for each in self.choices]),
            ("text", list(map(_join_blanks, self.choices))),
        ):
            if twice := sorted({each for each in values if values.count(each) > 1}):
                raise SetupError(
                    f"Expected each {name} of a menu once, got {twice[0][:_MAX_SHOWN]!r} twice. Leave one out."
                )
        if len(self.choices) == 1:
            raise SetupError(
                f"Expected two choices or more, got only {self.choices[0].reply()!r}. Give another text, or let the "
                "generator keep silent (silence=True)."
            )

    @classmethod
    def of(cls, kinds: Iterable[Kind], *, silence: bool = True) -> Menu:
        """Build a menu of the kinds' texts, with `silence` also of none; raise `SetupError` if a text is missing."""
        kinds = list(kinds)
        if without := [kind.name for kind in kinds if not kind.text]:
            raise SetupError(
                f"Expected a text for each kind of a menu, got none for {', '.join(without)}. Write "
                "Kind(name, text='...'), or closed=False to let the generator write."
            )
        return cls((*(kind.given for kind in kinds), *([SILENCE] if silence else [])))

    def __bool__(self) -> bool:
        """Whether the menu has choices."""
        return bool(self.choices)

    @property
    def replies(self) -> tuple[str, ...]:
        """The generator's reply for each choice."""
        return tuple(choice.reply() for choice in self.choices)

    def read(self, reply: str) -> Supplement:
        """Return the choice that equals a reply word for word, with or without its kind; `SILENCE` for any other.

        Blanks and line breaks count as one blank.
        """
        return self.same(read_reply(reply)) or SILENCE

    def same(self, supplement: Supplement) -> Supplement | None:
        """Return the choice with this kind and text; with its text alone if the supplement names no kind."""
        own = supplement.kind, _join_blanks(supplement)
        return next(
            (each for each in self.choices if own in ((each.kind, _join_blanks(each)), (FREE, _join_blanks(each)))),
            None,
        )

    def dump_state(self) -> list[list[str]]:
        """Return kind and text of each choice, as a saved program keeps them."""
        return [[each.kind, each.text] for each in self.choices]

    @classmethod
    def load_state(cls, state: object) -> Menu:
        """Load the menu of a saved program; an empty menu for None. Raises `SavedStateError` for anything else."""
        rows = cast("list[object]", state) if isinstance(state, list) else [] if state is None else [state]
        choices: list[Supplement] = []
        for row in rows:
            match row:
                case [str(kind), str(text)]:
                    choices.append(Supplement(kind, text))
                case _:
                    raise SavedStateError(
                        f"Expected [kind, text] in a saved menu, got {row!r}. Save the program again."
                    )
        try:
            return cls(tuple(choices))
        except SetupError as problem:
            raise SavedStateError(f"{problem} Save the program again.") from problem


def _join_blanks(supplement: Supplement) -> str:
    return " ".join(supplement.text.split())
