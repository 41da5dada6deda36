"""The attacks that are known by name: the nineteen points of the first half hour, and their relatives."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import stat
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from attacks.box import CANARY, Attack, Box, unchanged, without_own_script
from attacks.crafted import ADAPTER, BROKEN, MERGED, STATES, change_json, describe_file, rehash
from attacks.inputs import BOMBS, INPUTS, OUTSIDE, PAIRS


def all_attacks() -> list[Attack]:
    """Every attack by name, in the order of the table."""
    makers = (
        _names, _caches, _records, _tables, _training, _short_inputs, _recipes, _arrow, _outputs, _labels, _crafted,
        _numbers, _pages, _pickles,
    )  # fmt: skip
    return [attack for make in makers for attack in make()]


def _names() -> Iterator[Attack]:
    group = "1 names in records and links"

    def listed(name: str, part: str, form: str, box: Box) -> list[str]:
        record = json.loads((box.run / "record.json").read_text("utf-8"))
        source = box.run / "note"
        source.write_text("theirs")
        with_name = box.root / "out" / "export" / name if "\0" not in name else source
        with_name.parent.mkdir(parents=True, exist_ok=True)
        for folder in (box.run / part, box.root / "out"):
            target = Path(os.path.normpath(folder / name)) if "\0" not in name else source
            if box.root in target.parents and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text("theirs")
        record["artefacts"][part]["files"][name] = describe_file(source)
        (box.run / "record.json").write_text(json.dumps(record), "utf-8")
        shutil.rmtree(box.root / "out" / "export", ignore_errors=True)
        return box.export(form) if form != "predict" else box.predict()

    for name in OUTSIDE:
        for part, form in (
            ("adapter", "lora"),
            ("adapter", "adalora"),
            ("merged", "merged"),
            ("merged", "predict"),
        ):
            yield Attack(group, f"{name!r} in {part}, {form}", partial(listed, name, part, form), (4, 5))

    def linked(part: str, form: str, is_listed: bool, box: Box) -> list[str]:
        secret = box.outside / "canary"
        (box.run / part / "id_rsa").symlink_to(secret)
        record = json.loads((box.run / "record.json").read_text("utf-8"))
        if is_listed:
            record["artefacts"][part]["files"]["id_rsa"] = describe_file(secret)
        else:
            del record["artefacts"][part]["files"]
        (box.run / "record.json").write_text(json.dumps(record), "utf-8")
        return box.export(form)

    for part, form in (("adapter", "adalora"), ("merged", "merged")):
        for is_listed in (True, False):
            name = f"a link out of {part}, {'listed' if is_listed else 'record without files'}"
            yield Attack(group, name, partial(linked, part, form, is_listed), (4,))

    def folder_link(part: str, box: Box) -> list[str]:
        (box.run / part).rename(box.root / "elsewhere")
        (box.run / part).symlink_to(box.root / "elsewhere")
        return box.export("merged" if part == "merged" else "lora")

    for part in ("adapter", "merged"):
        yield Attack(group, f"{part} is a link", partial(folder_link, part), (4,))

    def checkpoints_elsewhere(box: Box) -> list[str]:
        shutil.rmtree(box.run / "checkpoints")
        (box.outside / ".tmp-precious").mkdir()
        (box.run / "checkpoints").symlink_to(box.outside)
        return box.resume()

    def precious_is_there(box: Box) -> str | None:
        return None if (box.outside / ".tmp-precious").is_dir() else "a folder elsewhere was removed"

    yield Attack("15 checkpoints as a link", "resume", checkpoints_elsewhere, (4,), precious_is_there)

    def written(name: str, command: str, box: Box) -> list[str]:
        canary = box.outside / "canary"
        if name in ("record.json", "recipe.yaml", "history.jsonl") and command != "train":
            shutil.copy(box.run / name, canary)
            (box.root / "before").write_bytes(canary.read_bytes())
        (box.run / name).unlink(missing_ok=True)
        (box.run / name).symlink_to(canary)
        return _commands(box)[command]()

    def is_not_written(box: Box) -> str | None:
        before = box.root / "before"
        if not before.exists():
            return None  # the canary itself is looked at for every attack
        canary = box.outside / "canary"
        same = canary.read_bytes() == before.read_bytes()
        canary.write_text(CANARY)
        return None if same else "written through a link"

    for name in ("run.lock", "record.json", "history.jsonl", "report.html", "README.md", "recipe.yaml"):
        for command in ("resume", "report"):
            yield Attack(
                group,
                f"{name} is a link, {command}",
                partial(written, name, command),
                (0, 2, 4),
                is_not_written,
            )

    def manifest(name: str, box: Box) -> list[str]:
        for folder in (box.run / "checkpoints").iterdir():
            files = json.loads((folder / "MANIFEST.json").read_text())["files"]
            change_json(folder / "MANIFEST.json", files={**files, name: files["state.json"]})
        return box.resume()

    for name in ("../../x", "/etc/passwd"):
        yield Attack(group, f"{name} in a manifest", partial(manifest, name), (4, 5))


def _caches() -> Iterator[Attack]:
    group = "2 and 4 files in a cache"

    def table(change: Callable[[Path], None], box: Box) -> list[str]:
        box.environment["LEANTUNE_CACHE"] = os.environ["LEANTUNE_CACHE"] = str(box.root / "cache")
        assert box.main(box.train()) == 0
        (box.root / "new").rename(box.root / "first")
        entry = max((box.root / "cache" / "tokens").glob("*.arrow"), key=lambda path: path.stat().st_size)
        change(entry)
        return box.train()

    def same_model(box: Box) -> str | None:
        if not (box.root / "new" / "adapter").exists():
            return None
        first, second = (
            (box.root / name / "adapter" / "adapter_model.safetensors").read_bytes()
            for name in ("first", "new")
        )
        return None if first == second else "another model without a word"

    def rewritten(change: Callable[[pa.Table], pa.Table], entry: Path) -> None:
        whole = entry.read_bytes()
        end = whole.rfind(b"ARROW1") + 6
        read = pa.ipc.open_file(pa.py_buffer(whole[:end])).read_all()
        changed = change(read)
        with pa.OSFile(str(entry), "wb") as sink, pa.ipc.new_file(sink, changed.schema) as writer:
            writer.write_table(changed)
        with entry.open("ab") as file:
            file.write(whole[end:])

    def reversed_labels(read: pa.Table) -> pa.Table:
        if "label" not in read.schema.names:
            return read.slice(0, 20)
        return read.set_column(
            read.schema.get_field_index("label"),
            "label",
            read["label"].take(pa.array(range(len(read))[::-1])),
        )

    def other_ids(read: pa.Table) -> pa.Table:
        return read.set_column(0, read.schema.field(0), pa.array([[10**6]] * len(read), pa.list_(pa.int32())))

    def flipped(entry: Path) -> None:
        whole = bytearray(entry.read_bytes())
        for place in range(700, min(len(whole) - 700, 2000)):
            whole[place] ^= 1
        entry.write_bytes(whole)

    def replaced_by(make: Callable[[Path], Any], entry: Path) -> None:
        entry.unlink()
        make(entry)

    changes: dict[str, Callable[[Path], None]] = {
        "cut rows": partial(rewritten, lambda read: read.slice(0, 100)),
        "labels reversed": partial(rewritten, reversed_labels),
        "ids out of range": partial(rewritten, other_ids),
        "flipped bits": flipped,
        "a pipe": partial(replaced_by, os.mkfifo),
        "a folder": partial(replaced_by, lambda path: (path / "x").mkdir(parents=True)),
        "nothing": lambda entry: entry.write_bytes(b"") and None,
        "another schema": partial(rewritten, lambda read: pa.table({"x": list(range(len(read)))})),
    }
    for name, change in changes.items():
        yield Attack(group, f"token table: {name}", partial(table, change), (0,), same_model)

    def asset(open_door: Callable[[Path], None], box: Box) -> list[str]:
        cache = box.root / "cache"
        shutil.copytree(box.inputs / "encoder", cache / "minilm")
        open_door(cache / "minilm")
        box.environment["LEANTUNE_CACHE"] = str(cache)
        return box.train("model=asset:minilm")

    def for_all(path: Path) -> None:
        path.chmod(0o777)

    yield Attack(group, "asset: folder for all", partial(asset, for_all), (4,))
    yield Attack(
        group,
        "asset: weights for all",
        partial(asset, lambda path: for_all(path / "model.safetensors")),
        (4,),
    )
    if os.geteuid() == 0:
        yield Attack(
            group,
            "asset: of another user",
            partial(asset, lambda path: os.chown(path / "config.json", 4242, 4242)),
            (4,),
        )

    def read_only(box: Box) -> list[str]:
        box.environment["LEANTUNE_CACHE"] = "/proc/none"
        return box.train()

    yield Attack(group, "a cache that is read-only", read_only, (0,))


def _commands(box: Box) -> dict[str, Callable[[], list[str]]]:
    return {
        "resume": box.resume,
        "predict": box.predict,
        "evaluate": lambda: ["evaluate", str(box.run), "--data", str(box.inputs / "test.csv")],
        "export": lambda: box.export("lora"),
        "report": lambda: ["report", str(box.run)],
    }


def _records() -> Iterator[Attack]:
    group = "3 damaged records"

    def damaged(damage: Callable[[str], bytes], command: str, box: Box) -> list[str]:
        path = box.run / "record.json"
        path.write_bytes(damage(path.read_text("utf-8")))
        return _commands(box)[command]()

    for name, damage in BROKEN.items():
        for command in ("resume", "predict", "evaluate", "export", "report"):
            codes = (0, 5) if (name, command) == ("empty", "report") else (5,)
            yield Attack(group, f"{name}, {command}", partial(damaged, damage, command), codes)

    def changed(key: str, value: Any, command: str, box: Box) -> list[str]:
        record = json.loads((box.run / "record.json").read_text("utf-8"))
        del record[key]
        (box.run / "record.json").write_text(
            json.dumps(record | ({} if value is None else {key: value})), "utf-8"
        )
        return _commands(box)[command]()

    for key in ("labels", "data", "parameters", "model", "recipe", "hardware", "versions", "timings"):
        for value in (None, [], "x", {"a": []}):
            name = f"{key} {'missing' if value is None else json.dumps(value)}"
            yield Attack(group, f"{name}, resume", partial(changed, key, value, "resume"), (5,))
            yield Attack(group, f"{name}, report", partial(changed, key, value, "report"), (0, 5))
    for key in ("labels", "artefacts", "recipe"):
        for value in (None, [], "x", {"a": []}):
            name = f"{key} {'missing' if value is None else json.dumps(value)}"
            yield Attack(group, f"{name}, predict", partial(changed, key, value, "predict"), (5,))
            yield Attack(
                group,
                f"{name}, export",
                partial(changed, key, value, "export"),
                (0, 5) if key == "recipe" or key == "labels" else (5,),
            )


def _tables() -> Iterator[Attack]:
    group = "8 the recipe of a run"

    def recipe(change: Callable[[Path], Any], box: Box) -> list[str]:
        change(box.run / "recipe.yaml")
        return box.predict()

    def with_length(length: Any, path: Path) -> None:
        path.write_text(
            yaml.safe_dump({**yaml.safe_load(path.read_text("utf-8")), "max_length": length}), "utf-8"
        )

    for length in (3, 100_000, -1, [1]):
        yield Attack(
            group,
            f"max_length {length} in recipe.yaml",
            partial(recipe, partial(with_length, length)),
            (0, 5),
            unchanged,
        )
    yield Attack(group, "no recipe.yaml", partial(recipe, Path.unlink), (0, 5), unchanged)

    def no_recipe_resume(box: Box) -> list[str]:
        (box.run / "recipe.yaml").unlink()
        return box.resume()

    yield Attack(group, "no recipe.yaml, resume", no_recipe_resume, (5,))

    def in_record(length: Any, box: Box) -> list[str]:
        record = json.loads((box.run / "record.json").read_text("utf-8"))
        record["recipe"]["max_length"] = length
        (box.run / "record.json").write_text(json.dumps(record), "utf-8")
        return box.predict()

    for length in (3, 100_000, 10**30, "x"):
        yield Attack(
            group,
            f"max_length {str(length)[:9]} in record.json",
            partial(in_record, length),
            (0, 5),
            unchanged,
        )


def _training() -> Iterator[Attack]:
    yield Attack(
        "5 skipped steps",
        "every step skipped",
        lambda box: box.train("supcon_weight=1e300", "warm_start=false"),
        (7,),
    )
    for words in (
        ("learning_rate=1e30",),
        ("alpha=1e300",),
        ("weight_decay=1e300",),
        ("supcon_weight=1e30",),
    ):
        yield Attack(
            "5 skipped steps", " ".join(words), partial(lambda words, box: box.train(*words), words), (2, 7)
        )


def _short_inputs() -> Iterator[Attack]:
    group = "6 short inputs that take long"
    for name, (content, _) in INPUTS.items():
        yield Attack(
            group, name, partial(lambda name, content, box: box.read(name, content), name, content), (0, 3)
        )

    def bomb(box: Box) -> list[str]:
        rows = gzip.compress(b"a\n" * 2**24, 6)
        return box.read("rows.csv.gz", gzip.compress(b"text\n") + rows * 64)

    yield Attack(group, "2 GB of short rows in gzip", bomb, (3,))

    def long_text(content: str, box: Box) -> list[str]:
        return box.read("rows.csv", "text\n" + content + "\n")

    for name, content in {
        "words": "word1 " * 2_500_000,
        "one word": "x" * 15_000_000,
        "commas": "a," * 7_500_000,
    }.items():
        quoted = f'"{content}"'
        yield Attack("19 numbers and texts", f"a text of 15 MB: {name}", partial(long_text, quoted), (0, 3))


def _recipes() -> Iterator[Attack]:
    group = "7 recipes that are bombs"

    def recipe(text: str, box: Box) -> list[str]:
        (box.root / "recipe.yaml").write_text(text, "utf-8")
        return ["plan", str(box.root / "recipe.yaml")]

    for number, (text, said) in enumerate(BOMBS, start=1):
        yield Attack(group, f"{number}: {said[:40]}", partial(recipe, text), (2,))

    def of_run(text: str, box: Box) -> list[str]:
        (box.run / "recipe.yaml").write_text(text, "utf-8")
        return box.resume()

    for number, (text, said) in enumerate(BOMBS[:5], start=1):
        yield Attack(group, f"{number} in a run: {said[:40]}", partial(of_run, text), (2, 5))


def _arrow() -> Iterator[Attack]:
    group = "9 dates that Python has not"
    kinds = [
        pa.timestamp("us"),
        pa.timestamp("s"),
        pa.timestamp("us", tz="Mars/Olympus"),
        pa.date32(),
        pa.duration("s"),
    ]

    def dates(kind: pa.DataType, column: str, suffix: str, box: Box) -> list[str]:
        size = kind.bit_width // 8
        values = pa.py_buffer((2**62 if size == 8 else 2**30).to_bytes(size, "little") * 2)
        words = pa.array(["a", "b"])
        table = pa.table({"text": words, "id": words, column: pa.Array.from_buffers(kind, 2, [None, values])})
        path = box.root / f"rows.{suffix}"
        if suffix == "parquet":
            pq.write_table(table, path)
        else:
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        return box.read(path.name, path.read_bytes(), "--id-column", "id")

    for kind in kinds:
        for column in ("text", "id"):
            yield Attack(group, f"{kind} as {column}", partial(dates, kind, column, "arrow"), (3,))

    def cut(batches: int, box: Box) -> list[str]:
        table = pa.table({"text": [f"t{i}" for i in range(20)]})
        path = box.root / "rows.arrows"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=5)
        with pa.OSFile(str(path)) as source:
            reader = pa.ipc.open_stream(source)
            for _ in range(batches):
                reader.read_next_batch()
            end = source.tell()
        return box.read(path.name, path.read_bytes()[:end])

    for batches in (1, 3, 4):
        yield Attack(
            "16 streams without an end", f"cut after {batches} of 4 batches", partial(cut, batches), (3,)
        )

    def nested(box: Box) -> list[str]:
        kind = pa.string()
        for _ in range(60):
            kind = pa.list_(kind)
        table = pa.table({"text": pa.nulls(2, kind)})
        path = box.root / "rows.arrow"
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        return box.read(path.name, path.read_bytes())

    yield Attack(group, "lists 60 deep", nested, (3,))


def _outputs() -> Iterator[Attack]:
    def loop(box: Box) -> list[str]:
        command = box.predict("--overwrite")
        box.output.symlink_to(box.output.with_name("b.csv"))
        box.output.with_name("b.csv").symlink_to(box.output)
        return command

    yield Attack("10 to 12 outputs", "links in a circle", loop, (2,))

    def node(kind: str, is_link: bool, box: Box) -> list[str]:
        command = box.predict("--overwrite")
        path = box.outside / "node" if is_link else box.output
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        else:
            (box.root / "folder").mkdir()
            path.symlink_to(box.root / "folder")
        if is_link:
            box.output.symlink_to(path)
        return command

    def is_still_there(box: Box) -> str | None:
        is_file = stat.S_ISREG(os.stat(box.output).st_mode)
        return "replaced by a file" if is_file else None

    for kind in ("pipe", "folder", *(["device"] if os.geteuid() == 0 else [])):
        for is_link in (False, True):
            name = f"{'a link to ' if is_link else ''}a {kind} in its place"
            yield Attack("10 to 12 outputs", name, partial(node, kind, is_link), (2,), is_still_there)

    def named(name: str, box: Box) -> list[str]:
        return [*box.predict()[:-1], str(box.root / "out" / name)]

    for length in (200, 215, 240, 255):
        name = "x" * (length - 4) + ".csv"
        yield Attack("19 numbers and texts", f"an output name of {length}", partial(named, name), (0,))
    yield Attack("10 to 12 outputs", "a name of 256", partial(named, "x" * 252 + ".csv"), (2, 6))

    def below_a_file(box: Box) -> list[str]:
        command = box.predict()
        (box.root / "file.csv").write_text("x")
        return [*command[:-1], str(box.root / "file.csv" / "x.csv")]

    def says_what(box: Box) -> str | None:
        said = (box.root / "stderr").read_text("utf-8")
        return "says that the file exists" if "File exists" in said else None

    yield Attack("19 numbers and texts", "an output below a file", below_a_file, (2,), says_what)

    def limited(limit: int, command: Callable[[Box], list[str]], box: Box) -> list[str]:
        import resource

        words = command(box)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return words

    yield Attack("10 to 12 outputs", "ulimit -f, predict", partial(limited, 300, Box.predict), (6,))
    yield Attack(
        "10 to 12 outputs",
        "ulimit -f, export",
        partial(limited, 300, lambda box: (box.run, box.export("lora"))[1]),
        (6,),
    )

    def weights(value: float, box: Box) -> list[str]:
        import safetensors.torch

        path = box.run / "merged" / "model.safetensors"
        tensors = safetensors.torch.load_file(path)
        for name, tensor in tensors.items():
            if name.endswith("word_embeddings.weight"):
                tensor[10:] = value
        safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
        rehash(box.run)
        return box.predict()

    for value in (float("nan"), float("inf"), -float("inf")):
        yield Attack("14 predictions that are no numbers", f"weights {value}", partial(weights, value), (5,))

    for redirection in ("/dev/full",):

        def full(box: Box, where: str = redirection) -> list[str]:
            box.stderr = where
            return ["report", str(box.root / "none")]

        yield Attack("19 numbers and texts", f"2>{redirection}", full, (2,))


def _labels() -> Iterator[Attack]:
    def training(first: str, second: str, box: Box) -> list[str]:
        rows = (f"word{i % 9} word{i % 7}\t{(first, second, 'other')[i % 3]}" for i in range(60))
        lines = ["text\tlabel", *rows]
        (box.root / "rows.tsv").write_text("\n".join(lines), "utf-8")
        return box.train(f"data={box.root / 'rows.tsv'}", "test=none", "validation_size=15")

    def is_said(box: Box) -> str | None:
        said = (box.root / "stderr").read_text("utf-8")
        return None if said.count("U+") >= 2 else "not named with their code points"

    for name, (first, second) in PAIRS.items():
        yield Attack("17 labels that look alike", name, partial(training, first, second), (0, 3), is_said)
    for labels in ("a,b,", "a,,b", "a, ,b"):
        yield Attack(
            "17 labels that look alike",
            f"labels={labels}",
            partial(lambda labels, box: box.train(f"labels={labels}"), labels),
            (2,),
        )


def _crafted() -> Iterator[Attack]:
    group = "18 crafted artefacts"

    def crafted(change: Callable[[Path], Any], command: str, box: Box) -> list[str]:
        change(box.run)
        rehash(box.run)
        return box.predict() if command == "predict" else box.export(command)

    for name, change in MERGED.items():
        yield Attack(group, f"merged: {name}", partial(crafted, change, "predict"), (4, 5))
    for name, change in ADAPTER.items():
        for form in ("lora", "adalora"):
            yield Attack(group, f"adapter: {name}, {form}", partial(crafted, change, form), (5,))

    def state(content: bytes, box: Box) -> list[str]:
        for folder in (box.run / "checkpoints").iterdir():
            (folder / "state.json").write_bytes(content)
            files = {name: describe_file(folder / name) for name in ("state.safetensors", "state.json")}
            change_json(folder / "MANIFEST.json", files=files)
        return box.resume()

    for name, content in STATES.items():
        yield Attack(group, f"state of a checkpoint: {name}", partial(state, content), (5,))

    def manifest(content: bytes, box: Box) -> list[str]:
        for folder in (box.run / "checkpoints").iterdir():
            (folder / "MANIFEST.json").write_bytes(content)
        return box.resume()

    for content in (
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"format": 1, "files": []}',
        b'{"format": 1, "files": {"state.json": 1, "state.safetensors": null}}',
    ):
        yield Attack(group, f"manifest: {content[:40]!r}", partial(manifest, content), (5,))

    def history(content: bytes, box: Box) -> list[str]:
        (box.run / "history.jsonl").write_bytes(content)
        return ["report", str(box.run)]

    for content in (
        b"\xff\n", b"[]\n", b"{}\n", b"1\n", b'{"event": "step"}\n', b'{"event": "step", "step": "x"}\n',
        b'{"event": "evaluation", "step": 1}\n', b'{"event": "pruned", "step": 1, "ranks": []}\n',
        b'{"a":' * 50_000 + b"\n",
        b'{"event": "step", "step": 1, "loss": "x", "ranks": 3}\n', b'{"event": "step", "step": 1, "loss": NaN}\n',
    ):  # fmt: skip
        yield Attack("relatives: history", f"{content[:40]!r}", partial(history, content), (0, 5))

    def openvino(content: str, box: Box) -> list[str]:
        (box.run / "openvino").mkdir()
        (box.run / "openvino" / "export.json").write_text(content)
        return box.predict("--engine", "openvino")

    for content in ("[]", "{}", "", "[" * 100_000, '{"run_id": 3}', '{"run_id": "x", "files": []}'):
        yield Attack("relatives: OpenVINO", f"export.json {content[:30]}", partial(openvino, content), (5,))

    def model(change: Callable[[Path], Any], box: Box) -> list[str]:
        (box.root / "fake").mkdir()
        shutil.copytree(box.inputs / "encoder", box.root / "fake" / "merged")
        change(box.root / "fake")
        return box.train(f"model={box.root / 'fake' / 'merged'}")

    for name, change in MERGED.items():
        if "id2label" not in name:  # of a model to train on they do not matter
            yield Attack("relatives: a model to train on", name, partial(model, change), (0, 2, 4, 5))


def _numbers() -> Iterator[Attack]:
    group = "19 numbers and texts"
    for value in ("9e15", "9007199254740992", "9" * 18):
        yield Attack(
            group,
            f"plan max_trainable_params={value}",
            partial(
                lambda value, box: [
                    "plan",
                    *box.train(f"max_trainable_params={value}", "init_rank=none", "target_rank=none")[1:],
                ],
                value,
            ),
            (0,),
        )
    for key in (
        "epochs",
        "seed",
        "alpha",
        "max_trainable_params",
        "init_rank",
        "max_length",
        "batch_size",
        "labels",
        "warmup",
        "targets",
    ):
        for digits in (300, 5000):
            yield Attack(
                group,
                f"{key} of {digits} digits",
                partial(
                    lambda key, digits, box: ["plan", *box.train(f"{key}={'9' * digits}")[1:]], key, digits
                ),
                (0, 2, 3),
            )
    for variable in ("LEANTUNE_TOKEN_CACHE_MIB", "WORLD_SIZE", "LEANTUNE_CACHE", "XDG_CACHE_HOME"):
        for value in ("9" * 5000, "x" * 100_000, "-1"):

            def with_value(box: Box, variable: str = variable, value: str = value) -> list[str]:
                box.environment[variable] = value
                return box.train()

            yield Attack(group, f"{variable} of {len(value)} characters", with_value, (0, 2, 6))
    for word in (
        "init_rank=1000000000",
        "target_rank=99999999999",
        "batch_size=999999999999",
        "epochs=999999999999",
        "max_length=99999999",
    ):
        yield Attack(group, word, partial(lambda word, box: ["plan", *box.train(word)[1:]], word), (0, 2))


MARKUP = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "[x](javascript:alert(1))",
    "]]>",
    "|a|b|\n# h",
    "```",
    "&lt;b&gt;",
    "\x1b[31mred",
    "\u202etxt",
    "{{7*7}}",
    "${x}",
    "---\na: b",
)


def _pages() -> Iterator[Attack]:
    group = "relatives: markup in names"

    def record(markup: str, place: str, box: Box) -> list[str]:
        value = json.loads((box.run / "record.json").read_text("utf-8"))
        if place == "label":
            old = value["labels"]["names"][0]
            text = json.dumps(value).replace(json.dumps(old), json.dumps(markup))
            value = json.loads(text)
        elif place == "file":
            value["data"]["train"]["source"] = markup
        else:
            value["model"]["source"] = value["model"]["base_model"] = markup
        (box.run / "record.json").write_text(json.dumps(value), "utf-8")
        return ["report", str(box.run)]

    def is_inert(box: Box) -> str | None:
        page = box.run / "report.html"
        text = without_own_script(page.read_text("utf-8")) if page.exists() else ""
        live = [
            word for word in ("<script", "onerror=alert(1)>", "<img src=x", "\x1b[", "\u202e") if word in text
        ]
        return f"{live[0]!r} is in the page as it is" if live else None

    for markup in MARKUP:
        for place in ("label", "file", "model"):
            yield Attack(
                group, f"{markup[:24]!r} as {place}", partial(record, markup, place), (0, 5), is_inert
            )

    def names(markup: str, box: Box) -> list[str]:
        name = markup.replace("/", "_").replace("\0", "")[:100]
        lines = ["text\tlabel", *(f"word{i % 9} word{i % 7}\t{('a', 'b')[i % 2]}" for i in range(60))]
        (box.root / f"{name}.tsv").write_text("\n".join(lines), "utf-8")
        return box.train(f"data={box.root / name}.tsv", "test=none", "validation_size=15")

    def card_is_inert(box: Box) -> str | None:
        for page in ("report.html", "README.md"):
            text = (box.root / "new" / page).read_text("utf-8") if (box.root / "new" / page).exists() else ""
            text = without_own_script(text).rpartition("\n---\n")[2]  # what stands before it is data in YAML
            live = [word for word in ("<script>", "<img src=x", "\x1b[") if word in text]
            if live:
                return f"{live[0]!r} is in {page} as it is"
        return None

    for markup in MARKUP:
        yield Attack(
            group,
            f"{markup[:24]!r} as the name of a file that is trained on",
            partial(names, markup),
            (0, 2, 3),
            card_is_inert,
        )

    def in_locale_c(box: Box) -> list[str]:
        box.environment |= {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0"}
        return box.read("r\u00e9.csv", "text\nnot there, \u8a9e\n" * 2)

    yield Attack("relatives: surroundings", "locale C", in_locale_c, (0, 3))

    def closed(box: Box) -> list[str]:
        os.close(0)
        return [*box.predict()[:3], "-", "--output", str(box.output)]

    yield Attack("relatives: surroundings", "standard input closed", closed, (3,))

    def growing(box: Box) -> list[str]:
        import threading
        import time

        path = box.root / "rows.csv"
        path.write_text("text\n" + "word1\n" * 20_000)

        def grow() -> None:
            for _ in range(1000):
                time.sleep(0.01)
                with path.open("a") as file:
                    file.write("word2\n")

        threading.Thread(target=grow, daemon=True).start()
        return [*box.predict(rows=path)]

    yield Attack("relatives: surroundings", "a file that grows while it is read", growing, (3,))


def _pickles() -> Iterator[Attack]:
    group = "pickles and archives"
    command = b"touch outside/ran"
    streams = {
        "os.system": b"cos\nsystem\n(S'" + command + b"'\ntR.",
        "posix.system, protocol 4": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c"
        + bytes([len(command)])
        + command
        + b"\x85R.",
        "eval": b"c__builtin__\neval\n(S'1'\ntR.",
        "INST": b"(S'" + command + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + command + b"'\no.",
        "extension": b"\x80\x02\x82\x01.",
        "a memo of four billion": b"\x80\x04Nr\xff\xff\xff\xff.",
        "a length of 2**63": b"\x80\x04\x8e" + struct.pack("<Q", 2**63 - 1) + b"x.",
        "endless nesting": b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
        "after the end": pickle.dumps({"text": ["a"]}) + b"cos\nsystem\n.",
        "cut": pickle.dumps({"text": ["a"] * 100})[:-20],
        "laughs": b"\x80\x04]\x94"
        + b"".join(b"](h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00h\x00e\x94" for _ in range(1))
        + b".",
    }
    for name, stream in streams.items():
        for suffix in ("pkl", "csv"):
            yield Attack(
                group,
                f"{name} as .{suffix}",
                partial(lambda suffix, stream, box: box.read(f"rows.{suffix}", stream), suffix, stream),
                (3, 4),
            )
        yield Attack(
            group,
            f"{name} in gzip",
            partial(lambda stream, box: box.read("rows.pkl.gz", gzip.compress(stream)), stream),
            (3, 4),
        )
    for name, magic in {
        "zip": b"PK\x03\x04" + b"\0" * 60,
        "7z": b"7z\xbc\xaf'\x1c" + b"\0" * 60,
        "elf": b"\x7fELF" + b"\0" * 60,
    }.items():
        yield Attack(
            group, f"{name} as .csv", partial(lambda magic, box: box.read("rows.csv", magic), magic), (3, 4)
        )


assert CANARY
