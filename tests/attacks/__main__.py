"""Attack leantune: ``python tests/attacks`` runs every attack that has a name, and as many by chance as asked.

    python tests/attacks --count 1000                        the long form
    python tests/attacks --short                             some of each group, in half a minute, as the suite does
    python tests/attacks --before OLD/src --output FILE.md   the table of before and after

Each attack is a process of its own, forked from one that has imported everything. It held if the exit code is one of
those that it may be, with at most one line of error, no traceback, no change outside of its folder, in 30 s of the
processor and 2.5 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from attacks.box import Attack  # noqa: E402
from attacks.catalogue import all_attacks  # noqa: E402

SHORT_EVERY = 9
"""Of the attacks with a name, one in so many is in the short form."""
SLOW = (
    "2 and 4",
    "5 skipped",
    "17 labels",
    "relatives: a model",
    "a text of 15 MB",
    "2 GB of short rows",
    "grows while",
)
"""Parts of names of attacks that take seconds: they are left out of the short form."""


def short_form(known: list[Attack]) -> list[int]:
    """Numbers of the attacks in the short form: of each group some, and none that is slow."""
    quick = [
        i for i, each in enumerate(known) if not any(word in f"{each.group} {each.name}" for word in SLOW)
    ]
    first = {known[i].group: i for i in reversed(quick)}
    return sorted({*first.values(), *quick[::SHORT_EVERY]})


def run_attacks(source: Path, jobs: list[str], processes: int) -> list[dict[str, object]]:
    """The results of all jobs against the leantune in ``source``, in the order in which they were done."""
    with tempfile.TemporaryDirectory(prefix="attacks-") as folder:
        base = Path(folder) / "base"
        environment = {
            **os.environ, "PYTHONPATH": str(source.resolve()), "LEANTUNE_CACHE": str(Path(folder) / "cache"),
            "TMPDIR": folder, "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        results = Path(folder) / "results.jsonl"
        victim = [sys.executable, str(HERE / "victim.py"), str(base), str(results), str(processes)]
        done = subprocess.run(
            victim,
            env=environment,
            input="\n".join(jobs),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode != 0:
            raise SystemExit(
                f"the process that is attacked ended with {done.returncode}: {done.stderr[-2000:]}"
            )
        return [json.loads(line) for line in results.read_text("utf-8").splitlines()]


def table(after: list[dict[str, object]], before: list[dict[str, object]] | None, about: str) -> str:
    """Markdown: one line a group, then what did not hold."""
    groups = sorted({str(each["group"]) for each in after}, key=lambda name: (_number(name), name))
    held = {name: Counter(str(each["group"]) for each in results if each["held"])
            for name, results in (("before", before or []), ("after", after))}  # fmt: skip
    tried = Counter(str(each["group"]) for each in after)
    lines = ["# Attacks", "", about, ""]
    columns = ["attacks", "tried", *(["held before"] if before is not None else []), "held"]
    lines += [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    for group in [*groups, "all"]:
        names = ("before", "after") if before is not None else ("after",)
        counts = [tried, *(held[name] for name in names)]
        cells = [group, *(str(count.total() if group == "all" else count[group]) for count in counts)]
        lines.append(f"| {' | '.join(cells)} |")
    for title, results in (("What did not hold before", before), ("What does not hold", after)):
        failed = [each for each in results or [] if not each["held"]]
        if results is None:
            continue
        lines += [
            "",
            f"## {title}",
            "",
            "None." if not failed else "| attack | what came of it |\n| --- | --- |",
        ]
        lines += [
            f"| {_cell(each['group'])}: {_cell(each['name'])} | {_cell(each['why'])} |" for each in failed
        ]
    return "\n".join(lines) + "\n"


def _number(group: str) -> int:
    first = group.split()[0]
    return int(first) if first.isdigit() else 1000


def _cell(value: object) -> str:
    text = " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return text.replace(tempfile.gettempdir(), "").replace(str(Path.cwd()), "")[:160]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=0, help="attacks by chance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="the short form")
    parser.add_argument("--only", default="", help="a part of the group or the name")
    parser.add_argument("--source", type=Path, default=HERE.parents[1] / "src")
    parser.add_argument(
        "--before", type=Path, help="the source of another version, attacked, too; or what --save wrote of it"
    )
    parser.add_argument("--save", type=Path, help="a file for the results, one JSON object a line")
    parser.add_argument("--output", type=Path, help="a file for the table")
    parser.add_argument("--slowest", type=int, default=0, help="so many are listed")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    known = all_attacks()
    numbers = short_form(known) if options.short else range(len(known))
    jobs = [f"known {i}" for i in numbers if options.only in f"{known[i].group} {known[i].name}"]
    if not options.only or "by chance".startswith(options.only):
        jobs += [f"chance {options.count} {options.seed} {i}" for i in range(options.count)]
    started = time.monotonic()
    before = None
    if options.before and options.before.is_file():
        before = [json.loads(line) for line in options.before.read_text("utf-8").splitlines()]
    elif options.before:
        before = run_attacks(options.before, jobs, options.processes)
    after = run_attacks(options.source, jobs, options.processes)
    failed = [each for each in after if not each["held"]]
    for each in failed:
        print(f"{each['group']}: {each['name']}: {each['why']}")
    slowest = sorted(after, key=lambda each: -float(str(each["seconds"])))[: options.slowest]
    for each in slowest:
        print(f"{each['seconds']} s, {each['mib']} MiB: {each['group']}: {each['name']}")
    print(f"{len(after) - len(failed)} of {len(after)} attacks held, in {time.monotonic() - started:.0f} s")
    if options.save:
        options.save.write_text("".join(f"{json.dumps(each)}\n" for each in after), "utf-8")
    if options.output:
        words = [word for word in sys.argv[1:] if not word.startswith("/")]
        about = f"Made by `python tests/attacks {' '.join(words)}`; what an attack is, and when it held, says its help."
        options.output.write_text(table(after, before, about), "utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
