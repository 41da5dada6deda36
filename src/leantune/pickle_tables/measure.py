"""Limits the size of a decoded pickle, counting shared parts once per use, before other code traverses it."""

from __future__ import annotations

from collections.abc import Iterator

from leantune.errors import DataError, UnsafeFileError
from leantune.pickle_tables.nodes import UNSET, Built, Group, Mapping
from leantune.pickle_tables.opcodes import refusal

MAX_DEPTH = 64
MAX_SIZE = 2**32


def check_size(root: object, name: str) -> None:
    """Check the size of the values below a root, counting shared containers once per use.

    Raises:
        UnsafeFileError: the values are nested deeper than ``MAX_DEPTH``, or have more than ``MAX_SIZE`` characters and
            values in total.
        DataError: a list or dict contains itself.
    """
    measured: dict[int, tuple[int, int]] = {}
    active: set[int] = set()
    todo: list[tuple[object, bool]] = [(root, False)]
    while todo:
        node, is_ready = todo.pop()
        if is_ready:
            measured[id(node)] = _measure(node, measured, name)
            active.remove(id(node))
        elif id(node) not in measured and _is_container(node):
            if id(node) in active:
                raise DataError("a list or dict that holds itself, expected rows", path=name)
            active.add(id(node))
            if len(active) > MAX_DEPTH:
                raise _too_deep(name)
            todo.append((node, True))
            todo.extend((child, False) for child in _children(node) if _is_container(child))


def _measure(node: object, measured: dict[int, tuple[int, int]], name: str) -> tuple[int, int]:
    """Return depth and size of a container whose children have been measured."""
    depth, size = 0, 0
    for child in _children(node):
        if isinstance(child, (str, bytes, bytearray)):
            size += 1 + len(child)
        elif _is_container(child):
            child_depth, child_size = measured[id(child)]
            depth, size = max(depth, child_depth), size + 1 + child_size
        else:
            size += 1
    if depth >= MAX_DEPTH:
        raise _too_deep(name)
    if size > MAX_SIZE:
        raise refusal(name, "structure", f"more than {MAX_SIZE:,} characters, shared parts counted again")
    return depth + 1, size


def _too_deep(name: str) -> UnsafeFileError:
    return refusal(name, "structure", f"nested more than {MAX_DEPTH} deep")


def _is_container(node: object) -> bool:
    return isinstance(node, (list, tuple, Mapping, Group, Built))


def _children(node: object) -> Iterator[object]:
    if isinstance(node, (list, tuple)):
        yield from node
    elif isinstance(node, Group):
        yield from node.items
    elif isinstance(node, Mapping):
        for pair in node.pairs:
            yield from pair
    elif isinstance(node, Built):
        yield from node.args
        for pair in node.pairs:
            yield from pair
        if node.state is not UNSET:
            yield node.state
