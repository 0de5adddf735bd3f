"""A menu: the only supplements that a generator may choose among. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from sgt_modules.errors import SavedStateError, SetupError
from sgt_modules.kinds import FREE, SILENCE, Kind, Supplement
from sgt_modules.replies import read_reply

_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Menu:
    """The supplements that a generator may choose among; an empty menu leaves it free to write.

    A choice stands for itself to the letter: two differ in kind and in text, and each reads back as itself from the
    reply that names it. Raises `SetupError` for other choices.

    >>> menu = Menu.of([Kind("refunds", text="Refunds take five days."), Kind("hours", text="We open at nine.")])
    >>> menu.replies
    ('[refunds] Refunds take five days.', '[hours] We open at nine.', '[none]')
    >>> menu.read("[hours] We open at nine."), menu.read("[hours] We open at ten.")
    (Supplement(kind='hours', text='We open at nine.'), Supplement(kind='none', text=''))
    """

    choices: tuple[Supplement, ...] = ()

    def __post_init__(self) -> None:
        for choice in self.choices:
            found = read_reply(choice.reply())
            if found != choice or (choice and choice.kind == FREE):
                raise SetupError(
                    f"Expected a given text that reads back as it is, got {choice.reply()[:_SHOWN]!r}, which reads "
                    f"as {found.reply()[:_SHOWN]!r}. Name its kind in small letters, digits and underscores (not "
                    "'free' or 'none'), and give a text without blanks at its ends, tags of its own kind or thoughts."
                )
        for name, found in (("kind", [each.kind for each in self.choices]), ("text", list(map(_plain, self.choices)))):
            if twice := sorted({each for each in found if found.count(each) > 1}):
                raise SetupError(
                    f"Expected each {name} of a menu once, got {twice[0][:_SHOWN]!r} twice. Leave one out."
                )
        if len(self.choices) == 1:
            raise SetupError(
                f"Expected two choices or more, got {self.choices[0].reply()!r} alone. Give another text, or let the "
                "generator keep silent (silence=True)."
            )

    @classmethod
    def of(cls, kinds: Iterable[Kind], *, silence: bool = True) -> Menu:
        """The texts of these kinds, and with `silence` no supplement at all. Raises `SetupError` for one without."""
        kinds = list(kinds)
        if without := [kind.name for kind in kinds if not kind.text]:
            raise SetupError(
                f"Expected a text for each kind of a menu, got none for {', '.join(without)}. Write "
                "Kind(name, text='...'), or closed=False to let the generator write."
            )
        return cls((*(kind.given for kind in kinds), *([SILENCE] if silence else [])))

    def __bool__(self) -> bool:
        """Whether there is anything to choose among."""
        return bool(self.choices)

    @property
    def replies(self) -> tuple[str, ...]:
        """What the generator writes for each choice."""
        return tuple(choice.reply() for choice in self.choices)

    def read(self, reply: str) -> Supplement:
        """The choice that a reply is, word for word, with its kind before it or without; silence for any other reply.

        Blanks and line breaks count as one blank.
        """
        return self.same(read_reply(reply)) or SILENCE

    def same(self, supplement: Supplement) -> Supplement | None:
        """The choice with this kind and text; of a supplement that names no kind, the one with its text."""
        own = supplement.kind, _plain(supplement)
        return next((each for each in self.choices if own in ((each.kind, _plain(each)), (FREE, _plain(each)))), None)

    def dump_state(self) -> list[list[str]]:
        """Kind and text of each choice, as a saved program keeps them."""
        return [[each.kind, each.text] for each in self.choices]

    @classmethod
    def load_state(cls, state: object) -> Menu:
        """The menu of a saved program; an empty one for None. Raises `SavedStateError` for anything else."""
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


def _plain(supplement: Supplement) -> str:
    return " ".join(supplement.text.split())
