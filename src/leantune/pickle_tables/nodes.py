"""What a pickle says, as inert values.

Numbers, texts, bytes, None, lists and tuples are themselves. Everything else is one of these nodes,
which hold names but never look them up.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from leantune.system.messages import shown, type_word


class Unset:
    """The state of an object that was given none."""


UNSET = Unset()

Pairs = list[tuple[object, object]]


@dataclass(slots=True, eq=False)
class Name:
    """A module and a name in it.

    Args:
        kind: what the name stands for, whichever version wrote it: ``"pandas.DataFrame"``.
        offset: the byte of the opcode.
    """

    kind: str
    offset: int


@dataclass(slots=True, eq=False)
class Mapping:
    """A dict: its pairs in their order; a key may come twice."""

    pairs: Pairs = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Group:
    """A set or a frozenset."""

    items: list[object] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Built:
    """An object that unpickling would have made.

    Args:
        kind: what would have been called, as in ``Name.kind``.
        args: with which arguments.
        offset: the byte of the opcode that would have called it.
        state: what BUILD would have set, or UNSET.
        pairs: what SETITEM(S) would have added.
    """

    kind: str
    args: tuple[object, ...]
    offset: int
    state: object = UNSET
    pairs: Pairs = field(default_factory=list)


def described(node: object) -> str:
    """A few words for an error message: ``"the name pandas.DataFrame"``, ``"a list"``, ``"'abc'"``."""
    if isinstance(node, Name):
        return f"the name {node.kind}"
    if isinstance(node, Built):
        return f"an object of {node.kind}"
    if isinstance(node, Mapping):
        return "a dict"
    if isinstance(node, Group):
        return "a set"
    if isinstance(node, (list, bytes, bytearray)):
        return type_word(node)
    return f"a tuple of {len(node)}" if isinstance(node, tuple) else shown(node)
