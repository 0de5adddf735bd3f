"""Objects that a program shares with its copies, as DSPy copies programs often."""

from __future__ import annotations

from typing import Self


class SharedByCopies:
    """A copy, deep or not, of such an object is the object itself: its model, lock or table exists once.

    >>> import copy
    >>> one = SharedByCopies()
    >>> copy.deepcopy([one])[0] is one
    True
    """

    __slots__ = ()

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self
