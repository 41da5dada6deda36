"""Functions that extract parts of nodes and raise `Mismatch` if a node is not as expected."""

from __future__ import annotations

from leantune.pickle_tables.nodes import UNSET, Built, Mapping, Name, described


class Mismatch(Exception):  # noqa: N818 - never leaves the package: read.py makes it an UnsafeFileError
    """A node that is not part of a known table.

    Args:
        node: the node that was found.
        expected: a description of the expected node.
    """

    def __init__(self, node: object, expected: str) -> None:
        self.place = f"byte {node.offset}" if isinstance(node, (Built, Name)) else "structure"
        self.found = f"{described(node)}, expected {expected}"
        super().__init__(self.found)


def is_built(node: object, *kinds: str) -> bool:
    """Whether a node is an object of one of these kinds."""
    return isinstance(node, Built) and node.kind in kinds


def args_of(node: object, kind: str, count: int) -> tuple[object, ...]:
    """Return the arguments of an object that has ``count`` arguments and no state."""
    if not isinstance(node, Built) or node.kind != kind or len(node.args) != count or node.pairs:
        raise Mismatch(node, f"an object of {kind} with {count} arguments")
    if node.state is not UNSET:
        raise Mismatch(node, f"an object of {kind} without a state")
    return node.args


def state_of(node: object, *kinds: str) -> object:
    """Return the state of an object without arguments."""
    if not isinstance(node, Built) or node.kind not in kinds or node.args != () or node.pairs:
        raise Mismatch(node, f"an object of {' or '.join(kinds)}")
    return node.state


def member(node: object, *keys: str) -> object:
    """Return the value of the first of these keys that a dict has; the key must occur exactly once."""
    if isinstance(node, Mapping):
        for key in keys:
            values = [value for found, value in node.pairs if found == key and type(found) is str]
            if values:
                return values[0] if len(values) == 1 else _no_member(node, keys)
    return _no_member(node, keys)


def list_of(node: object) -> list[object]:
    """Return a node that must be a list."""
    if type(node) is not list:
        raise Mismatch(node, "a list")
    return node


def tuple_of(node: object, count: int) -> tuple[object, ...]:
    """Return a node that must be a tuple of ``count`` items."""
    items = tuple_from(node, count)
    if len(items) != count:
        raise Mismatch(node, f"a tuple of {count}")
    return items


def tuple_from(node: object, count: int) -> tuple[object, ...]:
    """Return a node that must be a tuple of at least ``count`` items, because newer versions may add items."""
    if type(node) is not tuple or len(node) < count:
        raise Mismatch(node, f"a tuple of {count} or more")
    return node


def size_of(node: object) -> int:
    """Return a node that must be a whole number that can be a length."""
    if type(node) is not int or not 0 <= node < 2**31:
        raise Mismatch(node, "a length")
    return node


def bytes_of(node: object) -> bytes | bytearray:
    """Return a node that must be raw bytes."""
    if not isinstance(node, (bytes, bytearray)):
        raise Mismatch(node, "bytes")
    return node


def _no_member(node: object, keys: tuple[str, ...]) -> object:
    raise Mismatch(node, f"a dict with {' or '.join(map(repr, keys))} once")
