"""Texts to tokens, once: a ragged table in Arrow, memory-mapped, found again by its content hash."""

from __future__ import annotations

import hashlib
import itertools
import json
import mmap
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from leantune.data import token_table as token_cache
from leantune.data.read import ExampleSource
from leantune.errors import CheckpointError, DataError, UnsafeFileError, UsageError, first_line
from leantune.system.checksums import update_from
from leantune.system.damage import explained_damage
from leantune.system.trusted_files import open_trusted

FORMAT_VERSION = 3
"""Part of the cache key: raise it when the table's columns change."""

PART_CHARACTERS = 2**20
"""Tokenised at once. What is cut off of a text is held meanwhile, at some 100 bytes a character: 1,000 texts of 31,000
characters took 1.3 GB more than they do in parts."""

LONG_CHARACTERS, CUT_MARGIN = 2**18, 2**14
"""Of a text that is cut before it is tokenised, and how far from the nearest token that is kept."""
PIECES_AT_ONCE = 4
"""Of a long text whose tokens are counted."""
_LAST_SPACE = re.compile(r"\s(?=\S*\Z)")
"""Of a window of a text."""

SCHEMA = pa.schema(
    [
        pa.field("input_ids", pa.list_(pa.int32()), nullable=False),
        pa.field("second_start", pa.int32(), nullable=False),
        pa.field("full_length", pa.int32(), nullable=False),
    ]
)
DIGEST_BYTES = hashlib.sha256().digest_size
"""What follows the Arrow file in an entry of the cache: the SHA-256 of its key and of the file."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokens of some texts."""

    input_ids: list[npt.NDArray[np.int32]]
    second_starts: npt.NDArray[np.int32]
    """``(N,)`` first token of the second text of a pair; the number of tokens without one."""
    full_lengths: npt.NDArray[np.int32]
    """``(N,)`` tokens before truncation."""

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """``(N,)`` tokens kept of each text."""
        return np.fromiter(map(len, self.input_ids), dtype=np.int32, count=len(self.input_ids))


TOKENIZER = "tokenizer.json"
DEFAULT_MAX_LENGTH = 512
"""Tokens kept of a text where neither model nor tokenizer say."""
MAX_KEPT_TOKENS = 2**20
"""Tokenizers that say 10^30 mean no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSettings:
    """What is said of a tokenizer beside its ``tokenizer.json``."""

    truncation_side: str
    unk_id: int | None
    pad_id: int | None
    model_max_length: int | None
    """Tokens kept of a text, as they were saved; None: nobody said."""


class Tokeniser:
    """A fast tokenizer with a fixed truncation and no padding.

    Args:
        backend: from ``tokenizer.json``.
        settings: what is said of it elsewhere.
        max_length: tokens kept of a text, special tokens included.
        tokenizer: transformers' own object around ``backend``, where it can be saved; None where it was read alone.

    Raises:
        UsageError: if its special tokens leave no room for a text.
    """

    def __init__(
        self, backend: Any, settings: TokenizerSettings, max_length: int, tokenizer: Any = None
    ) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        self._backend = backend
        self.max_length = max_length
        self._check_room(is_pair=False)
        backend.no_padding()
        backend.no_truncation()
        self._definition: str = backend.to_str()
        self._whole = type(backend).from_str(self._definition)
        self._truncating = type(backend).from_str(self._definition)
        self._truncating.enable_truncation(max_length, direction=settings.truncation_side)
        known = (settings.unk_id, settings.pad_id, 0)
        self._of_nothing = next(i for i in known if i is not None)

    @classmethod
    def pretrained(cls, source: str, max_length: int) -> Tokeniser:
        """The tokenizer of a pretrained model, as transformers makes it of what is there.

        Args:
            source: folder or hub name.
            max_length: tokens kept of a text, special tokens included.

        Raises:
            UsageError: if there is no tokenizer, it has no fast version, or its special tokens leave no room.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except Exception as error:  # tokenizers raises no narrower type for a file it cannot read
            raise UsageError(
                f"model {source}: its tokenizer cannot be loaded: {first_line(error)}"
            ) from error
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise UsageError(
                f"model {source}: its tokenizer has no tokenizer.json; convert it to a fast one first"
            )
        settings = TokenizerSettings(
            truncation_side=tokenizer.truncation_side,
            unk_id=tokenizer.unk_token_id,
            pad_id=tokenizer.pad_token_id,
            model_max_length=tokenizer.model_max_length,
        )
        tokenizer.model_max_length = max_length  # saved, so that other tools cut texts here, too
        return cls(backend, settings, max_length, tokenizer)

    @classmethod
    def of_run(cls, folder: Path, max_length: int) -> Tokeniser:
        """The tokenizer that a run saved beside its model, read without transformers.

        Args:
            folder: of the model or the adapter.
            max_length: as the record of the run says.

        Raises:
            CheckpointError: if it cannot be loaded, or was saved with another ``max_length``.
        """
        from tokenizers import Tokenizer

        with explained_damage(folder):
            backend = Tokenizer.from_file(str(folder / TOKENIZER))
            settings = _saved_settings(backend, folder / "tokenizer_config.json")
            tokeniser = cls(backend, settings, max_length)
        if settings.model_max_length != max_length:
            raise CheckpointError(
                f"{folder}: its tokenizer keeps {settings.model_max_length} tokens of a text, the record of the run "
                f"says {max_length}: one of them was changed after training; put back what the run wrote"
            )
        return tokeniser

    @classmethod
    def saved(cls, folder: Path, *, longest: int | None) -> Tokeniser:
        """The tokenizer beside a model or an adapter that no record tells of.

        Args:
            folder: with the files of a tokenizer.
            longest: tokens that the model can take at most; None: no limit.

        It cuts where its own files say, but not beyond ``longest``; without both, at `DEFAULT_MAX_LENGTH`.

        Raises:
            CheckpointError: if there is none, or it cannot be loaded.
            UsageError: if it has no fast version.
        """
        from tokenizers import Tokenizer

        with explained_damage(folder, is_of_run=False):
            if not (folder / TOKENIZER).is_file():  # an older one, which transformers converts
                return cls.pretrained(str(folder), longest or DEFAULT_MAX_LENGTH)
            backend = Tokenizer.from_file(str(folder / TOKENIZER))
            settings = _saved_settings(backend, folder / "tokenizer_config.json")
            limits = [each for each in (longest, settings.model_max_length) if each is not None]
            return cls(backend, settings, min([*limits, MAX_KEPT_TOKENS]) if limits else DEFAULT_MAX_LENGTH)

    @property
    def pad_token(self) -> str:
        """The token of padding; empty if there is none."""
        return "" if self.settings.pad_id is None else self._backend.id_to_token(self.settings.pad_id) or ""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some tokens, without those that are special."""
        text: str = self._whole.decode(list(ids), skip_special_tokens=True)
        return text

    @cached_property
    def num_ids(self) -> int:
        """One more than the largest id that a text can give."""
        return 1 + max(self._whole.get_vocab(with_added_tokens=True).values(), default=0)

    @property
    def fingerprint(self) -> str:
        """Changes whenever the same text could give other tokens."""
        definition = (
            f"{self.max_length}\n{self.settings.truncation_side}\n{self._of_nothing}\n{self._definition}"
        )
        return hashlib.sha256(definition.encode()).hexdigest()

    def _check_room(self, *, is_pair: bool) -> None:
        special = self._backend.num_special_tokens_to_add(is_pair)
        least = special + (2 if is_pair else 1)
        if self.max_length < least:
            raise UsageError(
                f"max_length={self.max_length}: the tokenizer adds {special} tokens to every "
                f"{'pair of texts' if is_pair else 'text'}, expected at least {least}"
            )

    def encode(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> Encoded:
        """Tokens of ``texts``, or of pairs, special tokens included. A text that has none, as an empty one under a
        tokenizer without special tokens, is one unknown token.

        Raises:
            UsageError: if ``max_length`` has no room for pairs.
        """
        if pairs is not None:
            self._check_room(is_pair=True)
        inputs = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
        parts = [self._encode(part, is_pair=pairs is not None) for part in _parts(inputs)]
        return Encoded(
            [ids for part in parts for ids in part.input_ids],
            np.concatenate([part.second_starts for part in parts]),
            np.concatenate([part.full_lengths for part in parts]),
        )

    def _encode(self, inputs: Sequence[str | tuple[str, str]], *, is_pair: bool) -> Encoded:
        inputs, long = list(inputs), {}
        for i, text in enumerate(inputs):
            if isinstance(text, str) and len(text) > LONG_CHARACTERS:
                long[i], inputs[i] = text, self._shortened(text)
        encodings = self._truncating.encode_batch_fast(inputs)
        ids = [np.array(encoding.ids or [self._of_nothing], dtype=np.int32) for encoding in encodings]
        lengths = np.fromiter((len(tokens) for tokens in ids), dtype=np.int32, count=len(ids))
        second_starts = lengths.copy()
        if is_pair:
            for i, encoding in enumerate(encodings):
                second_starts[i] = encoding.type_ids.index(1) if 1 in encoding.type_ids else lengths[i]
        full_lengths = lengths.copy()
        cut = [i for i, encoding in enumerate(encodings) if encoding.overflowing]
        if cut:
            whole = self._whole.encode_batch_fast([inputs[i] for i in cut])
            full_lengths[cut] = [len(encoding.ids) for encoding in whole]
        for i, text in long.items():
            if inputs[i] != text:
                full_lengths[i] = self._count(text)
        return Encoded(ids, second_starts, full_lengths)

    def _shortened(self, text: str) -> str:
        """A text with the tokens that are kept of ``text``: a tokenizer holds some 200 bytes of each character that
        it is given. A long one is cut `CUT_MARGIN` characters behind (or before) the last token that is kept.
        """
        is_right = self.settings.truncation_side == "right"
        size = LONG_CHARACTERS
        while size < len(text):
            part = text[:size] if is_right else text[-size:]
            encoding = self._whole.encode(part, add_special_tokens=False)
            offsets = encoding.offsets
            if len(offsets) > self.max_length:
                first, last = (
                    (0, self.max_length) if is_right else (len(offsets) - self.max_length, len(offsets))
                )
                margin = size - offsets[last - 1][1] if is_right else offsets[first][0]
                if margin >= CUT_MARGIN:
                    return part
            size *= 4
        return text

    def _count(self, text: str) -> int:
        """Tokens of a long text, special tokens included, counted in pieces that end where white space begins."""
        count, pieces = int(self._backend.num_special_tokens_to_add(False)), _pieces(text)
        while some := list(itertools.islice(pieces, PIECES_AT_ONCE)):
            count += sum(map(len, self._whole.encode_batch_fast(some, add_special_tokens=False)))
        return count


def _pieces(text: str) -> Iterator[str]:
    """A long text in pieces of about `LONG_CHARACTERS`."""
    start = 0
    while start < len(text):
        end = start + LONG_CHARACTERS
        if end < len(text):
            space = _LAST_SPACE.search(text, max(start + 1, end - CUT_MARGIN), end)
            end = space.start() if space else end
        yield text[start:end]
        start = end


def _saved_settings(backend: Any, path: Path) -> TokenizerSettings:
    """From the ``tokenizer_config.json`` that transformers saved."""
    said = json.loads(path.read_bytes()) if path.is_file() else {}

    def id_of(name: str) -> int | None:
        token = said.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        found: int | None = None if content is None else backend.token_to_id(content)
        return found

    return TokenizerSettings(
        truncation_side=said.get("truncation_side", "right"),
        unk_id=id_of("unk_token"),
        pad_id=id_of("pad_token"),
        model_max_length=said.get("model_max_length"),
    )


def _parts(inputs: Sequence[str | tuple[str, str]]) -> Iterator[Sequence[str | tuple[str, str]]]:
    """All of ``inputs`` in runs of about `PART_CHARACTERS`; one, if there are none."""
    sizes = [sum(map(len, each)) if isinstance(each, tuple) else len(each) for each in inputs]
    part = np.cumsum(sizes, dtype=np.int64) // PART_CHARACTERS
    starts = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(inputs)]
    for start, stop in itertools.pairwise(starts):
        yield inputs[start:stop]


@dataclass(frozen=True)
class TokenTable:
    """A memory-mapped table of token rows; only lengths and labels are held in memory, and labels are of the source."""

    batches: list[pa.RecordBatch] = field(repr=False)
    """Of the mapped file, which may have lost its name since."""
    source_name: str
    source_sha256: str
    """Of the content that the rows were read from."""
    labels: list[str] | None = field(repr=False, default=None)
    """As text, one a row; None if the rows were read without."""

    @cached_property
    def _first_rows(self) -> npt.NDArray[np.int64]:
        return np.cumsum([0] + [batch.num_rows for batch in self.batches])

    @cached_property
    def _token_views(self) -> list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]]:
        columns = [batch.column("input_ids") for batch in self.batches]
        return [
            (column.offsets.to_numpy(zero_copy_only=True), column.values.to_numpy(zero_copy_only=True))
            for column in columns
        ]

    def __len__(self) -> int:
        return int(self._first_rows[-1])

    @cached_property
    def lengths(self) -> npt.NDArray[np.int32]:
        """``(N,)`` tokens of each row after truncation."""
        return np.concatenate([np.diff(offsets) for offsets, _ in self._token_views])

    @cached_property
    def second_starts(self) -> npt.NDArray[np.int32]:
        """``(N,)`` first token of the second text; the row's length without one."""
        return self._column("second_start")

    @cached_property
    def full_lengths(self) -> npt.NDArray[np.int32]:
        """``(N,)`` tokens of each row before truncation."""
        return self._column("full_length")

    @property
    def label_texts(self) -> list[str]:
        """The labels as text, one a row.

        Raises:
            DataError: if the rows were read without labels.
        """
        if self.labels is None:
            raise DataError("has no label column; labels are needed here", path=self.source_name)
        return self.labels

    def tokens(self, row: int) -> npt.NDArray[np.int32]:
        """Token ids of one row, a view of the mapped file."""
        batch = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        offsets, values = self._token_views[batch]
        within = row - int(self._first_rows[batch])
        return values[offsets[within] : offsets[within + 1]]

    def _column(self, name: str) -> npt.NDArray[np.int32]:
        return np.concatenate([batch.column(name).to_numpy() for batch in self.batches])


def tokenise(
    source: ExampleSource,
    tokeniser: Tokeniser,
    cache_dir: Path,
    *,
    on_rows: Callable[[int], None] = lambda rows: None,
) -> TokenTable:
    """The token table of ``source``: from the cache, or made now in one pass over the file.

    Args:
        source: rows to read, with labels if it has them; content, split and columns are in the cache key.
        tokeniser: its fingerprint is part of the cache key.
        cache_dir: where tables are kept, within the limit of `token_cache`.
        on_rows: called with the number of rows done so far.
    """
    limit = token_cache.limit_bytes()
    source_sha256 = source.sha256()
    key = json.dumps(
        [
            FORMAT_VERSION,
            source_sha256,
            source.split,
            tokeniser.fingerprint,
            repr(source.columns),
        ]
    ).encode()
    path = cache_dir / f"{hashlib.sha256(key).hexdigest()[:32]}{token_cache.SUFFIX}"
    batches = _found(path, key, tokeniser)
    if batches is not None:
        found = TokenTable(batches, source.name, source_sha256, source.labels())
        if found.labels is None or len(found.labels) == len(found):
            return found
    with token_cache.new_entry(path) as temporary:
        labels = _write_table(source, tokeniser, temporary, on_rows)
        _seal(temporary, key)
        batches = _opened(temporary, key, tokeniser)  # once it has its name, another process may remove it
    token_cache.shrink(cache_dir, limit, keep=path)
    return TokenTable(batches, source.name, source_sha256, labels)


def _found(path: Path, key: bytes, tokeniser: Tokeniser) -> list[pa.RecordBatch] | None:
    """The rows of an entry, or None if there is none, others can write it, or it is not what was written."""
    try:
        batches = _opened(path, key, tokeniser)
    except (UnsafeFileError, _NotWhole):
        return None
    except OSError as error:
        if error.errno not in token_cache.NO_FOLDER:
            raise
        return None
    token_cache.mark_used(path)
    return batches


class _NotWhole(Exception):  # noqa: N818 - no error: the table is made again
    """An entry is damaged, of another key, or of ids that the tokenizer has not."""


def _seal(path: Path, key: bytes) -> None:
    """Append the digest by which `_opened` knows that the entry is whole."""
    digest = hashlib.sha256(key)
    update_from(digest, path)
    with path.open("ab") as file:
        file.write(digest.digest())


def _opened(path: Path, key: bytes, tokeniser: Tokeniser) -> list[pa.RecordBatch]:
    """The rows of an entry, memory-mapped.

    Raises:
        _NotWhole: if it is not what `_seal` was given.
        UnsafeFileError: if others can write it.
        OSError: if there is none.
    """
    descriptor = open_trusted(path)
    try:
        mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except ValueError as error:  # empty
        raise _NotWhole from error
    finally:
        os.close(descriptor)
    content = memoryview(mapped)
    digest = hashlib.sha256(key)
    digest.update(content[:-DIGEST_BYTES])
    if content[-DIGEST_BYTES:] != digest.digest():
        raise _NotWhole
    reader = pa.ipc.open_file(pa.py_buffer(content[:-DIGEST_BYTES]))
    batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
    if not reader.schema.equals(SCHEMA) or not all(_is_sound(batch, tokeniser) for batch in batches):
        raise _NotWhole
    return batches


def _is_sound(batch: pa.RecordBatch, tokeniser: Tokeniser) -> bool:
    """Whether every id is one of the tokenizer's, and every row has at least one."""
    ids = batch.column("input_ids")
    values = ids.flatten().to_numpy(zero_copy_only=True)
    return (
        bool((np.diff(ids.offsets.to_numpy()) > 0).all())
        and int(values.min(initial=0)) >= 0
        and int(values.max(initial=0)) < tokeniser.num_ids
    )


def _write_table(
    source: ExampleSource, tokeniser: Tokeniser, path: Path, on_rows: Callable[[int], None]
) -> list[str] | None:
    """Write the tokens of all rows; returns their labels."""
    rows = 0
    labels: list[str] | None = None if source.columns.label is None else []
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for batch in source.batches():
            encoded = tokeniser.encode(batch.texts, batch.pairs)
            writer.write_batch(
                pa.record_batch(
                    [
                        _ragged(encoded.input_ids),
                        pa.array(encoded.second_starts),
                        pa.array(encoded.full_lengths),
                    ],
                    schema=SCHEMA,
                )
            )
            if labels is not None:
                labels += batch.labels or []
            rows += len(batch.texts)
            on_rows(rows)
    if rows == 0:
        raise DataError("has no rows", path=source.name)
    return labels


def _ragged(input_ids: list[npt.NDArray[np.int32]]) -> pa.ListArray:
    lengths = np.fromiter((len(tokens) for tokens in input_ids), dtype=np.int64, count=len(input_ids))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(input_ids)))
