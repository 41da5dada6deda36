"""Inert values for the content of a pickle.

Numbers, texts, bytes, None, lists and tuples are kept as they are. Everything else is one of these nodes, which contain
names but never look them up.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from leantune.system.messages import shown, type_word


class Unset:
    """The state of an object without a state."""


UNSET = Unset()

Pairs = list[tuple[object, object]]


@dataclass(slots=True, eq=False)
class Name:
    """A module and a name in it.

    Args:
        kind: the meaning of the name for all library versions, such as ``"pandas.DataFrame"``.
        offset: byte offset of the opcode.
    """

    kind: str
    offset: int


@dataclass(slots=True, eq=False)
class Mapping:
    """A dict as its pairs in order; keys may be repeated."""

    pairs: Pairs = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Group:
    """A set or a frozenset."""

    items: list[object] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Built:
    """An object that unpickling would have made.

    Args:
        kind: the function that would have been called, as in ``Name.kind``.
        args: the arguments of the call.
        offset: byte offset of the opcode of the call.
        state: the state that BUILD would have set, or UNSET.
        pairs: the items that SETITEM(S) would have added.
    """

    kind: str
    args: tuple[object, ...]
    offset: int
    state: object = UNSET
    pairs: Pairs = field(default_factory=list)


def described(node: object) -> str:
    """Describe a node for an error message: ``"the name pandas.DataFrame"``, ``"a list"``, ``"'abc'"``."""
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
