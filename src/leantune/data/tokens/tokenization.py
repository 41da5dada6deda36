"""Tokenizes texts of any length with a fast tokenizer and a fixed truncation."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from leantune.errors import CheckpointError, UsageError, first_line
from leantune.system.damage import explained_damage

PART_CHARACTERS = 2**20
"""Number of characters tokenized at once. The tokenizer keeps the truncated part of each text meanwhile, at about 100
bytes per character: 1,000 texts of 31,000 characters took 1.3 GB more at once than in parts."""

LONG_CHARACTERS, CUT_MARGIN = 2**18, 2**14
"""A text longer than the first number is cut before tokenization, this many characters from the last kept token."""
PIECES_AT_ONCE = 4
"""Number of pieces of a long text whose tokens are counted at once."""
_LAST_SPACE = re.compile(r"\s(?=\S*\Z)")
"""Matches the last space in a window of a text."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of N texts or pairs."""

    input_ids: list[npt.NDArray[np.int32]]
    second_starts: npt.NDArray[np.int32]
    """``(N,)`` position of the first token of the second text; the number of tokens if there is none."""
    full_lengths: npt.NDArray[np.int32]
    """``(N,)`` number of tokens before truncation."""

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """``(N,)`` number of tokens after truncation."""
        return np.fromiter(map(len, self.input_ids), dtype=np.int32, count=len(self.input_ids))

    def take(self, positions: Sequence[int]) -> Encoded:
        """Return the rows at the given positions."""
        chosen = [self.input_ids[i] for i in positions]
        return Encoded(chosen, self.second_starts[positions], self.full_lengths[positions])


@dataclass(frozen=True, slots=True)
class Located:
    """The L tokens of one text or pair, as in `Encoded`, with the place of each token in the text."""

    input_ids: npt.NDArray[np.int32]
    second_start: int
    """Position of the first token of the second text; L if there is none."""
    parts: tuple[int | None, ...]
    """0 for the first text, 1 for the second, None for a special token."""
    words: tuple[int | None, ...]
    """The number of each token's word in its text, as the tokenizer splits words; None if unknown."""
    offsets: tuple[tuple[int, int], ...]
    """Start and end of each token in its text, in characters; the end is exclusive."""


TOKENIZER = "tokenizer.json"
DEFAULT_MAX_LENGTH = 512
"""Default number of tokens kept of a text, if neither model nor tokenizer has a limit."""
NO_LIMIT = 2**20
"""A saved limit of at least this many tokens means no limit; transformers writes 10^30."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerSettings:
    """The settings of a tokenizer that are not in its ``tokenizer.json``."""

    truncation_side: str
    unk_id: int | None
    pad_id: int | None
    model_max_length: int | None
    """The saved limit of tokens per text; None if there is none."""
    mask_id: int | None = None


class Tokenizer:
    """A fast tokenizer with a fixed truncation and no padding.

    Args:
        backend: the tokenizer of ``tokenizer.json``.
        settings: the settings that are not in that file.
        max_length: tokens kept of a text, special tokens included.
        original: the transformers tokenizer around ``backend``, needed to save it; None if read without transformers.

    Raises:
        UsageError: the special tokens leave no room for a text.
    """

    def __init__(
        self, backend: Any, settings: TokenizerSettings, max_length: int, original: Any = None
    ) -> None:
        self._original, self.settings = original, settings
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
    def pretrained(cls, source: str, max_length: int, *, truncation_side: str | None = None) -> Tokenizer:
        """Load the tokenizer of a pretrained model with transformers.

        Args:
            source: folder or hub name.
            max_length: tokens kept of a text, special tokens included.
            truncation_side: the end of a longer text that is cut off; None uses the tokenizer's own setting.

        Raises:
            UsageError: there is no tokenizer, it has no fast version, or its special tokens leave no room for a text.
        """
        from transformers import AutoTokenizer

        try:
            original = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except Exception as error:  # tokenizers raises no narrower type for a file it cannot read
            raise UsageError(
                f"model {source}: its tokenizer cannot be loaded: {first_line(error)}"
            ) from error
        backend = getattr(original, "backend_tokenizer", None)
        if backend is None:
            raise UsageError(
                f"model {source}: its tokenizer has no tokenizer.json; convert it to a fast one first"
            )
        original.truncation_side = truncation_side or original.truncation_side
        if original.pad_token is None:  # decoders are pretrained without padding
            original.pad_token = original.eos_token
        settings = TokenizerSettings(
            truncation_side=original.truncation_side,
            unk_id=original.unk_token_id,
            pad_id=original.pad_token_id,
            model_max_length=original.model_max_length,
            mask_id=original.mask_token_id,
        )
        original.model_max_length = max_length  # saved, so that other tools truncate at the same length
        return cls(backend, settings, max_length, original)

    @classmethod
    def of_run(cls, folder: Path, max_length: int) -> Tokenizer:
        """Load the tokenizer that a run saved beside its model, without transformers.

        Args:
            folder: the folder of the model or the adapter.
            max_length: the limit in the record of the run.

        Raises:
            CheckpointError: the tokenizer cannot be loaded, or was saved with another ``max_length``.
        """
        from tokenizers import Tokenizer as Backend

        with explained_damage(folder):
            backend = Backend.from_file(str(folder / TOKENIZER))
            settings = _saved_settings(backend, folder / "tokenizer_config.json")
            tokenizer = cls(backend, settings, max_length)
        if settings.model_max_length != max_length:
            raise CheckpointError(
                f"{folder}: its tokenizer keeps {settings.model_max_length} tokens of a text, the record of the run "
                f"says {max_length}: one of them was changed after training; restore the file that the run wrote"
            )
        return tokenizer

    @classmethod
    def saved(cls, folder: Path, *, longest: int | None) -> Tokenizer:
        """Load the tokenizer beside a model or an adapter that has no record.

        The limit is the smaller one of the tokenizer's files and ``longest``, or `DEFAULT_MAX_LENGTH` without both.

        Args:
            folder: the folder with the files of the tokenizer.
            longest: largest number of tokens that the model can take; None means no limit.

        Raises:
            CheckpointError: the tokenizer does not exist or cannot be loaded.
            UsageError: the tokenizer has no fast version.
        """
        from tokenizers import Tokenizer as Backend

        with explained_damage(folder, is_of_run=False):
            if not (folder / TOKENIZER).is_file():  # an older tokenizer, which transformers converts
                return cls.pretrained(str(folder), longest or DEFAULT_MAX_LENGTH)
            backend = Backend.from_file(str(folder / TOKENIZER))
            settings = _saved_settings(backend, folder / "tokenizer_config.json")
            limits = [each for each in (longest, settings.model_max_length) if each and each < NO_LIMIT]
            return cls(backend, settings, min(limits, default=DEFAULT_MAX_LENGTH))

    def cutting(self, side: str) -> Tokenizer:
        """Return the same tokenizer with another truncation side: ``left`` or ``right``."""
        backend = type(self._backend).from_str(self._definition)
        return Tokenizer(backend, replace(self.settings, truncation_side=side), self.max_length)

    def save(self, folder: Path) -> None:
        """Save the tokenizer as transformers does, so that other tools can read it; requires `pretrained`."""
        assert self._original is not None
        self._original.save_pretrained(str(folder))

    @property
    def pad_token(self) -> str:
        """The padding token; empty if there is none."""
        return "" if self.settings.pad_id is None else self._backend.id_to_token(self.settings.pad_id) or ""

    @property
    def neutral_id(self) -> int:
        """The id of the most neutral token: the mask token, else the unknown token, else the padding token."""
        known = (self.settings.mask_id, self.settings.unk_id, self.settings.pad_id, 0)
        return next(i for i in known if i is not None)

    def decode(self, ids: Sequence[int]) -> str:
        """Convert token ids to text, leaving out special tokens."""
        text: str = self._whole.decode(list(ids), skip_special_tokens=True)
        return text

    @cached_property
    def num_ids(self) -> int:
        """One more than the largest token id."""
        return 1 + max(self._whole.get_vocab(with_added_tokens=True).values(), default=0)

    @property
    def fingerprint(self) -> str:
        """A hash that changes whenever the same text could give different tokens."""
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
        """Tokenize ``texts`` or pairs, with special tokens.

        A text without tokens, such as an empty text without special tokens, becomes one unknown token.

        Raises:
            UsageError: ``max_length`` has no room for pairs.
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

    def locate(self, text: str, pair: str | None = None) -> Located:
        """Tokenize one text or pair as `encode` does and locate each token in it.

        Raises:
            UsageError: ``max_length`` has no room for pairs.
        """
        encoded = self.encode([text], None if pair is None else [pair])
        shortened = self._shortened(text) if pair is None and len(text) > LONG_CHARACTERS else text
        first = 0 if self.settings.truncation_side == "right" else len(text) - len(shortened)
        found = self._truncating.encode(shortened, pair)
        if not found.ids:  # an empty text is one unknown token
            return Located(encoded.input_ids[0], 1, (None,), (None,), ((0, 0),))
        return Located(
            encoded.input_ids[0],
            int(encoded.second_starts[0]),
            tuple(found.sequence_ids),
            tuple(found.word_ids),
            tuple((first + start, first + end) for start, end in found.offsets),
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
        """Cut a long text to a part that has the same tokens after truncation.

        This saves memory, because a tokenizer takes about 200 bytes per character. The text is cut at least
        `CUT_MARGIN` characters after (or before) the last kept token.
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
        """Count the tokens of a long text with special tokens, in pieces that end before white space."""
        count, pieces = int(self._backend.num_special_tokens_to_add(False)), _pieces(text)
        while some := list(itertools.islice(pieces, PIECES_AT_ONCE)):
            count += sum(map(len, self._whole.encode_batch_fast(some, add_special_tokens=False)))
        return count


def _pieces(text: str) -> Iterator[str]:
    """Split a long text into pieces of about `LONG_CHARACTERS`."""
    start = 0
    while start < len(text):
        end = start + LONG_CHARACTERS
        if end < len(text):
            space = _LAST_SPACE.search(text, max(start + 1, end - CUT_MARGIN), end)
            end = space.start() if space else end
        yield text[start:end]
        start = end


def _saved_settings(backend: Any, path: Path) -> TokenizerSettings:
    """Read the settings in the ``tokenizer_config.json`` that transformers saved."""
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
        mask_id=id_of("mask_token"),
    )


def _parts(inputs: Sequence[str | tuple[str, str]]) -> Iterator[Sequence[str | tuple[str, str]]]:
    """Split ``inputs`` into parts of about `PART_CHARACTERS`; empty inputs give one empty part."""
    sizes = [sum(map(len, each)) if isinstance(each, tuple) else len(each) for each in inputs]
    part = np.cumsum(sizes, dtype=np.int64) // PART_CHARACTERS
    starts = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(inputs)]
    for start, stop in itertools.pairwise(starts):
        yield inputs[start:stop]
