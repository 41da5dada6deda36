"""The parts of the page that say what went in, on what machine, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leantune.report.markup import Html, disclosure, join, section, table, tag
from leantune.report.run_folder import Json, Run
from leantune.report.wording import ABSENT, count, gibibytes, percent, plain, significant, words

SHORT_HASH = 12


def data_section(run: Run) -> Html:
    """Rows, tokens, truncation and label counts of each split."""
    splits = {name: split for name, split in run.part("data").items() if split}
    if not splits:
        return Html("")
    # Counts that a later version adds (duplicates, say) appear by themselves.
    counts = dict.fromkeys(key for split in splits.values() for key in split if _is_count(split, key))
    rows: list[list[object]] = [[words(key), *_counts(splits, key)] for key in counts]
    rows.append(["tokens per row", *(_tokens_per_row(split) for split in splits.values())])
    rows.append(["source", *(split.get("source", ABSENT) for split in splits.values())])
    rows.append(["sha256", *(_short_hash(split.get("sha256")) for split in splits.values())])
    figures = table(["quantity", *splits], rows, caption="Rows and tokens by split")
    return section("data", "Data", figures, _label_table(run, splits))


def artefact_section(run: Run) -> Html:
    """The folders that were written, each with how closely its logits match those of training."""
    artefacts = {name: artefact for name, artefact in run.part("artefacts").items() if artefact}
    if not artefacts:
        return Html("")
    figures = table(
        ["folder", "largest difference of a logit"],
        [[f"{name}/", significant(one.get("max_logit_difference"))] for name, one in artefacts.items()],
        caption="Compared with the trained model",
    )
    return section("artefacts", "Artefacts", figures)


def provenance_section(run: Run) -> Html:
    """Versions, hardware, timings and the resolved recipe."""
    parts = [
        ("Model", _pairs(run.part("model"))),
        ("Hardware", _pairs(_readable_hardware(run.part("hardware")))),
        ("Versions", _pairs(run.part("versions"))),
        ("Schedule", _pairs(run.part("schedule"))),
        ("Timings", _pairs(run.part("timings"))),
        ("Recipe", _pairs(run.part("recipe"))),
    ]
    folded = [disclosure(title, pairs, is_open=title != "Recipe") for title, pairs in parts if pairs]
    columns = tag("div", *folded, class_="columns") if folded else None
    command = run.record.get("command")
    shown = tag("pre", tag("code", " ".join(map(str, command)))) if command else None
    return section("provenance", "How to repeat it", shown, columns)


def _is_count(split: Json, key: str) -> bool:
    return isinstance(split[key], int) and not isinstance(split[key], bool)


def _counts(splits: Mapping[str, Json], key: str) -> list[str]:
    return [_count_with_share(split, key) for split in splits.values()]


def _count_with_share(split: Json, key: str) -> str:
    value = split.get(key)
    if key.endswith("_rows") and value and split.get("rows"):
        return f"{count(value)} ({percent(value / split['rows'])})"
    return count(value)


def _tokens_per_row(split: Json) -> str:
    rows, tokens = split.get("rows"), split.get("tokens")
    return f"{tokens / rows:.1f}" if rows and tokens else ABSENT


def _short_hash(digest: str | None) -> Html | str:
    return tag("code", digest[:SHORT_HASH], title=digest) if digest else ABSENT


def _label_table(run: Run, splits: Mapping[str, Json]) -> Html | None:
    labelled = {name: split["label_counts"] for name, split in splits.items() if split.get("label_counts")}
    labels = run.part("labels").get("names") or list(
        dict.fromkeys(label for counts in labelled.values() for label in counts)
    )
    if not labelled or not labels:
        return None
    rows = [[label, *(count(counts.get(label, 0)) for counts in labelled.values())] for label in labels]
    figures = table(["class", *labelled], rows, caption="Rows by class and split")
    return disclosure(f"Rows by class ({len(labels)} classes)", figures)


def _readable_hardware(hardware: Json) -> dict[str, Any]:
    readable = dict(hardware)
    if "memory_bytes" in readable:
        readable["memory"] = gibibytes(readable.pop("memory_bytes"))
    return readable


def _pairs(values: Json) -> Html | None:
    if not values:
        return None
    items = join(tag("div", tag("dt", words(key)), tag("dd", _value(value))) for key, value in values.items())
    return tag("dl", items)


def _value(value: object) -> str:
    return significant(value) if isinstance(value, float) else plain(value)
