"""Names, tables, recipes and labels that are meant to hurt."""

from __future__ import annotations

OUTSIDE = ("../bashrc", "/tmp/bashrc", "a/b", "..", ".", "", "a\\b", "a\0b", "./a", "../../x")
"""What is no plain name of a file."""

INPUTS = {
    "open string.jsonl": ('{"text": "' + '\\"' * 500_000, "not JSON"),
    "many open strings.jsonl": ('{"text": [[[' + '"\\' * 500_000, "not JSON"),
    "brackets in an open string.jsonl": ('{"text": "' + "[{" * 500_000, "not JSON"),
    "quotes after brackets.jsonl": ("[" * 0 + '{"text": ' + '["' * 300_000, "nested more than 100 deep"),
    "duplicate keys.jsonl": (
        "{" + ", ".join(f'"k{i}": 1' for i in range(100_000)) + ', "k99999": 2}',
        "the key 'k99999' twice",
    ),
    "columns.csv": (",".join(f"c{i}" for i in range(50_000)) + "\nx\n", "no column 'text'"),
    "columns of one name.csv": (",".join(["c"] * 50_000) + "\nx\n", "more than one column is named 'c'"),
    "long column names.csv": (",".join(["t" * 5000 + str(i) for i in range(300)]) + "\nx\n", "no column"),
    "quotes.csv": ("text\n" + '"' * 1_000_001 + "\n", "quote"),
    "quotes.tsv": ("text\n" + '"' * 1_000_001 + "\n", "read"),
    "a header in quotes.csv": ('"a";' * 200_000 + '"a"\nx\n', "more than one column is named 'a'"),
}
"""Files that were read for minutes, and what is said of each."""

BOMB = "\n".join(["a: &a [x, x, x, x, x, x, x, x, x]"] + [
    f"{one}: &{one} [{', '.join(['*' + before] * 9)}]" for before, one in zip("abcdefgh", "bcdefghi", strict=True)
])  # fmt: skip
BOMBS = [
    (BOMB, "an alias"),
    (f"{BOMB}\nmodel: *i", "an alias"),
    ("data: " + "[" * 20_000, "nest"),
    ("data: " + "{a: " * 20_000, "nest"),
    ("- " * 5_000, "nest"),
    (f"epochs: {'x' * 1_000_000}", "epochs must be a whole number"),
    (f"epochs: {'9' * 5000}", "5000"),
    (f"seed: {'9' * 4000}", "seed must be a whole number of at most 18 digits"),
    ("epochs: [" + "1, " * 200_000 + "]", "epochs must be a whole number"),
    (f"? {'k' * 1_000_000}\n: 1", "unknown key"),
    ("\n".join(f"k{i}: 1" for i in range(10_000)), "and 9980 more"),
    (f"data: d\nmodel: m\nlabels: [{'a' * 100_000}, {'a' * 100_000}]", "labels must be two or more, each once"),
    ("x" * (2**23 + 1), "expected a recipe of at most 8,388,608"),
    ("\u00e9: \x1b[31m", "not YAML"),
]  # fmt: skip
"""Recipes, and what is said of each."""

PAIRS = {
    "NFC and NFD": ("caf\u00e9", "cafe\u0301"),
    "zero-width space": ("spam", "sp\u200bam"),
    "no-break space": ("not spam", "not\u00a0spam"),
    "mark of byte order": ("spam", "\ufeffspam"),
    "case": ("Spam", "spam"),
    "a boolean and a word": ("True", "true"),
    "digits of two scripts": ("1", "\u0661"),
    "full width": ("A1", "\uff21\uff11"),
    "direction": ("spam", "\u202espam"),
    "variant": ("\u2764", "\u2764\ufe0f"),
    "ligature": ("file", "\ufb01le"),
    "two blanks": ("not spam", "not  spam"),
}
"""Labels that look alike."""
