"""Attacks by chance: files of a run, tables and recipes that are changed at random, the same for the same seed."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from attacks.box import Attack, Box, unchanged
from attacks.crafted import rehash

VALUES = (
    None, True, -1, 0, 1.5, 10**30, float("nan"), "", "x", "../x", "/etc/passwd", "\ud7ff" * 9, [], [[]], {}, {"a": {}},
    "a" * 10_000, [None] * 1000,
)  # fmt: skip


def generated(count: int, seed: int) -> Iterator[Attack]:
    """``count`` attacks."""
    makers = (_bytes_of_a_run, _values_of_a_run, _values_and_checksums, _table, _words)
    for number in range(count):
        yield makers[number % len(makers)](number, random.Random(f"{seed} {number}"))


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Some bytes flipped, taken out, put in, repeated or cut off."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        place = rng.randrange(len(changed) + 1)
        kind = rng.randrange(5)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[place : place + rng.choice((1, 7, 300))]
        elif kind == 2:
            changed[place:place] = rng.choice(
                (b"\0", b"\xff\xff\xff\x7f", b"[" * 500, b'"', b"\n", b",", b"\x80\x04")
            )
        elif kind == 3:
            changed[place:place] = changed[place : place + 100]
        else:
            del changed[max(1, place) :]
    return bytes(changed)


def _command(box: Box, rng: random.Random) -> list[str]:
    return rng.choice(
        [
            box.predict, box.resume, partial(box.export, "lora"), partial(box.export, "merged"),
            lambda: ["report", str(box.run)],
        ]
    )()  # fmt: skip


def _files(run: Path) -> list[Path]:
    return sorted(path for path in run.rglob("*") if path.is_file())


def _bytes_of_a_run(number: int, rng: random.Random) -> Attack:
    def prepare(box: Box) -> list[str]:
        for path in rng.sample(_files(box.run), rng.choice((1, 1, 3))):
            path.write_bytes(mutated(path.read_bytes(), rng))
        return _command(box, rng)

    return Attack("by chance: bytes of a run", f"{number}", prepare, (0, 2, 4, 5), unchanged)


def _change_value(value: Any, rng: random.Random) -> Any:
    """``value`` with another one in some place."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        return {**value, key: _change_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        return [*value[:place], _change_value(value[place], rng), *value[place + 1 :]]
    return rng.choice(VALUES)


def _change_json(run: Path, rng: random.Random) -> None:
    path = rng.choice([path for path in _files(run) if path.suffix == ".json"])
    value = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps(_change_value(value, rng)), "utf-8")


def _values_of_a_run(number: int, rng: random.Random) -> Attack:
    def prepare(box: Box) -> list[str]:
        for _ in range(rng.choice((1, 1, 2))):
            _change_json(box.run, rng)
        return _command(box, rng)

    return Attack("by chance: values of a run", f"{number}", prepare, (0, 2, 4, 5))


def _values_and_checksums(number: int, rng: random.Random) -> Attack:
    def prepare(box: Box) -> list[str]:
        path = rng.choice(
            sorted([*(box.run / "merged").glob("*.json"), *(box.run / "adapter").glob("*.json")])
        )
        value = json.loads(path.read_text("utf-8"))
        for _ in range(rng.choice((1, 1, 2))):
            value = _change_value(value, rng)
        path.write_text(json.dumps(value), "utf-8")
        rehash(box.run)
        part = "lora" if path.parent.name == "adapter" else "predict"
        return box.predict() if part == "predict" else box.export("lora")

    return Attack("by chance: values, with checksums", f"{number}", prepare, (0, 4, 5))


def _table(number: int, rng: random.Random) -> Attack:
    rows = {"text": [f"word{i % 97} word{i % 7}" for i in range(300)], "id": list(range(300))}

    def content(kind: str) -> bytes:
        if kind == "csv":
            return ("id,text\n" + "".join(f'{i},"{text}"\n' for i, text in enumerate(rows["text"]))).encode()
        if kind == "jsonl":
            return "".join(
                json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(rows["text"])
            ).encode()
        sink = io.BytesIO()
        table = pa.table(rows)
        if kind == "parquet":
            pq.write_table(table, sink, compression=rng.choice(("none", "snappy", "zstd")))
        else:
            opener = pa.ipc.new_file if kind == "arrow" else pa.ipc.new_stream
            with opener(sink, table.schema) as writer:
                writer.write_table(table, max_chunksize=50)
        return sink.getvalue()

    def prepare(box: Box) -> list[str]:
        kind = rng.choice(("csv", "jsonl", "parquet", "arrow", "arrows"))
        return box.read(f"rows.{kind}", mutated(content(kind), rng))

    return Attack("by chance: tables", f"{number}", prepare, (0, 3, 4))


def _words(number: int, rng: random.Random) -> Attack:
    def prepare(box: Box) -> list[str]:
        words = box.train()[1:-1]
        output = box.train()[-1]
        for _ in range(rng.choice((1, 2))):
            place = rng.randrange(len(words))
            key = words[place].partition("=")[0]
            value = rng.choice(
                ("", "none", "nan", "inf", "-1", "0", "1e308", "1e-308", "9" * 40, "x", "[", "{}", "a,b", "../..",
                 "/dev/zero", "/proc/self/mem", "1_0", "٣", "0x10", "true", "asset:../x", "-", "~", "*", "\x1b[31m")
            )  # fmt: skip
            words[place] = f"{key}={value}"
        if rng.random() < 0.5:
            (box.root / "recipe.yaml").write_bytes(
                mutated("\n".join(word.replace("=", ": ", 1) for word in words).encode(), rng)
            )
            return ["plan", str(box.root / "recipe.yaml"), output]
        return ["plan", *words, output]

    return Attack("by chance: recipes", f"{number}", prepare, (0, 2, 3, 4, 6))
