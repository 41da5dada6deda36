"""The token cache stays below its size, under any number of processes, and takes nothing from any of them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
import pytest

from commands import PIPE, Process, commands
from leantune.assets.download import default_cache_dir
from leantune.cli.main import main
from leantune.data.text.read import Columns, open_examples
from leantune.data.text.readers import hub
from leantune.data.tokens import tokenization as tokens
from leantune.data.tokens.cache import LEFTOVER_AGE_S, LIMIT_VARIABLE, limit_bytes, shrink
from leantune.data.tokens.table import TokenTable, tokenize
from leantune.data.tokens.tokenization import Tokenizer
from leantune.errors import UsageError
from leantune.training.before.dataset import prepare_data
from tiny import recipe_for, write_rows

OPEN = """
import sys
from pathlib import Path
from leantune.data.text.read import Columns, open_examples
from leantune.data.tokens.tokenization import Tokenizer
from leantune.data.tokens.table import tokenize

def table_of(file):
    source = open_examples(file, Columns(), labels="required")
    return tokenize(source, Tokenizer.pretrained(sys.argv[1], 32), Path(sys.argv[2]))
"""

HOLDER = f"""{OPEN}
table = table_of(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
print(sum(int(table.tokens(row).sum()) for row in range(len(table))))
"""

WRITER = """
import sys
from pathlib import Path
from leantune.data.tokens.cache import new_entry
with new_entry(Path(sys.argv[1]) / "new.arrow") as temporary:
    temporary.write_bytes(b"half")
    print("ready", flush=True)
    sys.stdin.readline()
    temporary.write_bytes(b"whole")
print("done")
"""

CHURN = f"""{OPEN}
sums = []
for _ in range(20):
    for file in sys.argv[3:]:
        table = table_of(file)
        sums.append(sum(int(table.tokens(row).sum()) for row in range(len(table))))
print(sums)
"""


@pytest.fixture
def encoder(inputs) -> str:
    return str(inputs / "encoder")


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def files(tmp_path) -> list[Path]:
    return [write_rows(tmp_path / f"rows{i}.csv", 40, seed=i) for i in range(3)]


def table_of(file: Path, encoder: str, cache: Path) -> TokenTable:
    return tokenize(
        open_examples(str(file), Columns(), labels="required"), Tokenizer.pretrained(encoder, 32), cache
    )


def entry_of(file: Path, encoder: str, cache: Path) -> Path:
    before = set(cache.glob("*"))
    table_of(file, encoder, cache)
    (new,) = set(cache.glob("*")) - before
    return new


def all_tokens(table: TokenTable) -> np.ndarray:
    return np.concatenate([table.tokens(row) for row in range(len(table))])


def make_old(path: Path, age_s: float) -> None:
    os.utime(path, (time.time() - age_s, time.time() - age_s))


@contextmanager
def process(code: str, *arguments: object, **environment: str) -> Iterator[Process]:
    """Another process that has said that it is ready."""
    with commands().start(
        *arguments, code=code, stdin=PIPE, stderr=None, env=os.environ | environment
    ) as started:
        assert started.stdout.readline() == "ready\n"
        yield started
        started.kill()


def test_the_tables_used_longest_ago_go_first(files, encoder, cache):
    first, second, third = (entry_of(file, encoder, cache) for file in files)
    for age, path in enumerate((third, second, first)):
        make_old(path, 1000.0 + age)
    table_of(files[0], encoder, cache)  # the oldest, used again
    limit = first.stat().st_size + third.stat().st_size
    shrink(cache, limit, keep=third)
    assert set(cache.iterdir()) == {first, third}
    shrink(cache, limit, keep=third)
    assert set(cache.iterdir()) == {first, third}, "it fits"
    shrink(cache, 0, keep=third)
    assert set(cache.iterdir()) == {third}, "what is in use stays, whatever its size"


def test_a_new_table_takes_the_place_of_others_above_the_limit(files, encoder, cache, monkeypatch):
    first = entry_of(files[0], encoder, cache)
    monkeypatch.setenv(LIMIT_VARIABLE, "0")
    assert len(table_of(files[0], encoder, cache)) == 40
    assert first.exists(), "nothing was added"
    table_of(files[1], encoder, cache)
    assert not first.exists()
    assert len(list(cache.iterdir())) == 1


def test_a_table_that_goes_is_still_read_where_it_is_in_use(files, encoder, cache):
    own = table_of(files[0], encoder, cache)
    expected = all_tokens(own)
    with process(HOLDER, encoder, cache, files[0]) as holder:
        shrink(cache, 0, keep=cache / "none")
        assert not list(cache.iterdir())
        out, _ = holder.communicate("go on\n")
    assert int(out) == expected.sum()
    assert (all_tokens(own) == expected).all()


def test_what_another_process_is_writing_stays_until_it_dies(cache):
    cache.mkdir()
    with process(WRITER, cache) as writer:
        (half,) = cache.iterdir()
        make_old(half, 2 * LEFTOVER_AGE_S)  # suspended for long, say
        shrink(cache, 0, keep=cache / "none")
        out, _ = writer.communicate("go on\n")
        assert out == "done\n"
    (entry,) = cache.iterdir()
    assert entry.read_bytes() == b"whole"
    with process(WRITER, cache) as writer:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    shrink(cache, 2**20, keep=entry)
    (leftover,) = set(cache.iterdir()) - {entry}
    make_old(leftover, 2 * LEFTOVER_AGE_S)
    shrink(cache, 2**20, keep=entry)
    assert list(cache.iterdir()) == [entry]


def test_processes_that_take_each_others_tables_all_get_their_tokens(files, encoder, cache):
    """With no room at all, every new table removes those of the others, at any moment."""
    environment = os.environ | {LIMIT_VARIABLE: "0"}
    started = [
        commands().start(encoder, cache, *files, code=CHURN, stderr=None, env=environment) for _ in range(3)
    ]
    outs = [each.communicate()[0] for each in started]
    assert [each.returncode for each in started] == [0, 0, 0]
    expected = [int(all_tokens(table_of(file, encoder, cache)).sum()) for file in files]
    assert outs == [f"{expected * 20}\n"] * 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"",
        lambda whole: whole[:100],
        lambda whole: whole[:-1],
        lambda whole: whole[:-600] + bytes(500) + whole[-100:],
        lambda whole: whole[:-100] + bytes(90) + whole[-10:],
    ],
)
def test_a_table_that_was_damaged_is_made_again(files, encoder, cache, damage):
    entry = entry_of(files[0], encoder, cache)
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert len(table_of(files[0], encoder, cache)) == 40
    assert entry.read_bytes() == whole


@pytest.mark.parametrize("value", ["2 GB", "-1", "1.5"])
def test_a_limit_that_is_no_number_is_named(inputs, tmp_path, capsys, monkeypatch, value):
    monkeypatch.setenv(LIMIT_VARIABLE, value)
    words = [f"data={inputs / 'train.csv'}", f"model={inputs / 'encoder'}", f"output={tmp_path / 'run'}"]
    assert main(["train", *words]) == 2
    line = f"{LIMIT_VARIABLE} must be a whole number of MiB, of at most 9 digits. Got {value!r} instead"
    assert capsys.readouterr().err == f"leantune: error: {line}\n"
    assert not (tmp_path / "run").exists()


def test_the_limit_is_two_gibibytes_unless_said_otherwise(monkeypatch):
    monkeypatch.delenv(LIMIT_VARIABLE, raising=False)
    assert limit_bytes() == 2 * 2**30
    monkeypatch.setenv(LIMIT_VARIABLE, "10")
    assert limit_bytes() == 10 * 2**20


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a folder in which nobody can write")
@pytest.mark.parametrize("kind", ["below a file", "a link to nowhere", "below nothing"])
def test_a_cache_that_cannot_be_a_folder_is_done_without(files, encoder, tmp_path, kind):
    if kind == "below a file":
        (tmp_path / "file").write_text("mine")
        folder = tmp_path / "file" / "tokens"
    elif kind == "a link to nowhere":
        folder = tmp_path / "link"
        folder.symlink_to(tmp_path / "nowhere")
    else:
        folder = Path("/proc/nope/tokens")
    assert len(table_of(files[0], encoder, folder)) == 40


def test_a_cache_that_cannot_be_written_is_done_without(files, encoder):
    source = open_examples(str(files[0]), Columns(), labels="required")
    table = tokenize(source, Tokenizer.pretrained(str(encoder), 32), Path("/sys/leantune/tokens"))
    assert sum(len(table.tokens(row)) for row in range(len(table))) == table.lengths.sum() > 0


def test_without_a_home_the_cache_is_asked_for(monkeypatch):
    for name in ("LEANTUNE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def nowhere(cls: type[Path]) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", classmethod(nowhere))
    with pytest.raises(UsageError, match="set LEANTUNE_CACHE to a folder"):
        default_cache_dir()


def test_the_splits_of_one_file_have_tables_of_their_own(inputs, tmp_path, cache):
    """A pickled DatasetDict has one checksum and several sets of rows."""
    parts = {"train": 90, "validation": 30, "test": 20}
    whole = datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict(
                {"text": [f"word{len(name)} word{i}" for i in range(rows)], "label": ["a", "b"] * (rows // 2)}
            )
            for name, rows in parts.items()
        }
    )
    (tmp_path / "rows.pkl").write_bytes(pickle.dumps(whole))
    location = str(tmp_path / "rows.pkl")
    recipe = recipe_for(inputs, tmp_path / "run", data=location, validation=location, test=location)
    data = prepare_data(recipe)
    assert {part: rows.rows for part, rows in data.description.parts().items()} == parts
    assert data.description.test.rows_also_in_train == 0


def test_a_table_belongs_to_its_tokenizer_and_its_columns(files, encoder, cache):
    source = open_examples(str(files[0]), Columns(), labels="required")
    swapped = open_examples(str(files[0]), Columns(text="label", label="text"), labels="required")
    tables = [
        tokenize(source, Tokenizer.pretrained(encoder, 32), cache),
        tokenize(source, Tokenizer.pretrained(encoder, 4), cache),
        tokenize(swapped, Tokenizer.pretrained(encoder, 32), cache),
    ]
    assert len(list(cache.glob("*.arrow"))) == 3
    assert tables[1].lengths.max() <= 4 < tables[0].lengths.max()
    assert tables[2].label_texts != tables[0].label_texts


def test_class_names_that_change_on_the_hub_change_the_labels(encoder, cache, monkeypatch):
    def with_names(names):
        features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
        rows = {"text": ["word1", "word2", "word3"], "label": [0, 1, 0]}
        return datasets.Dataset.from_dict(rows, features=datasets.Features(features))

    monkeypatch.setattr(hub, "_is_cached", lambda name: True)
    found = []
    for names in (["no", "yes"], ["yes", "no"]):
        monkeypatch.setattr(datasets, "load_dataset", lambda *args, names=names, **kwargs: with_names(names))
        source = open_examples("org/name", Columns(), labels="required")
        found.append(tokenize(source, Tokenizer.pretrained(encoder, 32), cache).label_texts)
    assert found == [["no", "yes", "no"], ["yes", "no", "yes"]]


def test_texts_are_cut_on_the_side_that_the_tokenizer_says(inputs, tmp_path):
    folder = shutil.copytree(inputs / "encoder", tmp_path / "encoder")
    config = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"truncation_side": "left"}), "utf-8")
    right, left = Tokenizer.pretrained(str(inputs / "encoder"), 6), Tokenizer.pretrained(str(folder), 6)
    text = " ".join(f"word{i}" for i in range(9))
    for tokenizer in (right, left):
        encoded = tokenizer.encode([text])
        expected = tokenizer._original(text, truncation=True)["input_ids"]
        assert encoded.input_ids[0].tolist() == expected
        assert encoded.full_lengths.tolist() == [11]
    assert right.fingerprint != left.fingerprint


def test_a_text_without_a_token_is_one_unknown_token(inputs, tmp_path):
    folder = shutil.copytree(inputs / "encoder", tmp_path / "encoder")
    definition = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps(definition | {"post_processor": None}), "utf-8")
    encoded = Tokenizer.pretrained(str(folder), 6).encode(["", "word1 word2"])
    assert [len(tokens) for tokens in encoded.input_ids] == [1, 2]
    assert encoded.input_ids[0].tolist() == [0]
    assert encoded.second_starts.tolist() == encoded.full_lengths.tolist() == [1, 2]


@pytest.mark.parametrize("is_pair", [False, True])
def test_texts_are_tokenized_in_parts_to_the_same_tokens(inputs, monkeypatch, is_pair):
    tokenizer = Tokenizer.pretrained(str(inputs / "encoder"), 8)
    texts = [" ".join(f"word{(i * j) % 40}" for j in range(i % 13)) for i in range(60)]
    pairs = texts[::-1] if is_pair else None
    whole = tokenizer.encode(texts, pairs)
    monkeypatch.setattr(tokens, "PART_CHARACTERS", 150)
    assert len(list(tokens._parts(texts))) > 10
    parts = tokenizer.encode(texts, pairs)
    assert [ids.tolist() for ids in parts.input_ids] == [ids.tolist() for ids in whole.input_ids]
    assert parts.second_starts.tolist() == whole.second_starts.tolist()
    assert parts.full_lengths.tolist() == whole.full_lengths.tolist()
    assert tokenizer.encode([]).lengths.tolist() == []
