"""What a pickle says, as inert values.

Numbers, texts, bytes, None, lists and tuples are themselves. Everything else is one of these nodes,
which name things but never look them up.
"""

from __future__ import annotations

from dataclasses import dataclass, field


class Unset:
    """The state of an object that was given none."""


UNSET = Unset()


@dataclass(slots=True, eq=False)
class Name:
    """A module and a name in it, from GLOBAL or STACK_GLOBAL.

    Args:
        kind: what the name stands for, whichever version wrote it: ``"pandas.DataFrame"``.
        offset: the opcode's byte in the pickle.
    """

    kind: str
    offset: int


@dataclass(slots=True, eq=False)
class Mapping:
    """A dict: pairs in their order; a key may come twice."""

    pairs: list[tuple[object, object]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Group:
    """A set or frozenset."""

    items: list[object] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Built:
    """An object that unpickling would have made.

    Args:
        name: what would have been called.
        args: with which arguments.
        offset: the byte of the opcode that would have called it.
        state: what BUILD would have set, or UNSET.
        pairs: what SETITEM(S) would have added.
    """

    name: Name
    args: tuple[object, ...]
    offset: int
    state: object = UNSET
    pairs: list[tuple[object, object]] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """What the name stands for."""
        return self.name.kind
