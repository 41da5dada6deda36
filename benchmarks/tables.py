"""The tables of README and docs, made from the files of ``benchmarks/results/``: ``python -m benchmarks.tables``.

A table stands on a page between ``<!-- table: NAME -->`` and ``<!-- end of table -->``, with a caption that says where
and when it was measured. Run this when a result has changed; a test compares the pages with the results.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

from benchmarks.harness import RESULTS, ROOT, percent, table
from benchmarks.quality import methods
from benchmarks.time_to_quality import first_at

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)

METHOD_NAMES = {
    methods.WORDS: "TF-IDF and a linear SVM",
    methods.SETFIT: "SetFit, one pair of each kind a row, all weights",
    methods.PROBE: "linear probe",
    methods.PEERS[0]: "PEFT LoRA with `Trainer`",
    methods.PEERS[1]: "PEFT AdaLoRA with `Trainer` and `AdaLoraCallback`",
    methods.PEER_WITHOUT_DROPOUT: "the same, encoder without dropout",
    "leantune AdaLoRA as published": "leantune, published settings",
    methods.EVERYWHERE: "**leantune, LoRA in all linear layers (default)**",
    methods.DEFAULT: "leantune, AdaLoRA on query and value",
    methods.UNIFORM: "the same, uniform rank of its final size",
    methods.LORA_LINE: "the same, `method=lora` (the whole limit)",
    methods.TWO_THIRDS: "leantune AdaLoRA, `target_rank=7` (two thirds)",
    "full fine-tuning (out of budget)": "all weights with `Trainer`",
}
"""A line of the study to its line in the docs, in their order."""
SET_NAMES = {"agnews": "AG News", "r8": "Reuters R8", "r52": "Reuters R52", "20news": "20 Newsgroups"}
PIPELINES = {
    "leantune": "",
    "leantune, bf16 products": " with `precision=bf16`",
    "leantune, int8": " with `--precision int8`",
}
"""Lines of leantune in the speed benchmark to what the docs call them."""
_BEST = "against the best PEFT pipeline of each"
COMPARED = {
    f"{methods.DEFAULT} {_BEST}": "AdaLoRA against the better PEFT pipeline of each set",
    f"{methods.LORA_LINE} {_BEST}": "`method=lora` against the better PEFT pipeline of each set",
    f"{methods.DEFAULT} against {methods.PEER_WITHOUT_DROPOUT}": (
        "AdaLoRA against PEFT AdaLoRA, encoder without dropout"
    ),
    f"{methods.DEFAULT} against {methods.LORA_LINE}": "AdaLoRA against `method=lora`, the whole limit",
    f"{methods.DEFAULT} against {methods.UNIFORM}": "AdaLoRA against uniform rank of its final size",
    f"{methods.DEFAULT} against {methods.TWO_THIRDS}, seed by seed": "AdaLoRA against `target_rank=7`, seed by seed",
}
"""A difference of the study to its line in the docs."""
MACHINES = {"intel-xeon-processor": "Xeon with AMX", "amd-epyc": "EPYC, Zen 4"}
"""A file of results to what the docs call its machine."""
XEON = {"intel-xeon-processor": "Xeon with AMX"}
WITHOUT_AMX = {
    "amd-epyc-minilm": "EPYC, Zen 4",
    "amd-epyc-roberta-base": "EPYC, Zen 4",
    "amd-epyc-onednn-max-cpu-isa-avx2": "EPYC, AVX2 only",
}
PARTS = ("orthogonality", "importance", "allocation")
"""What AdaLoRA does in a step and LoRA does not."""


def main() -> int:
    for page in PAGES:
        text = page.read_text("utf-8")
        page.write_text(with_tables(text), "utf-8")
    return 0


def with_tables(text: str) -> str:
    """``text`` of a page with its tables as the results have them."""
    return PLACE.sub(lambda place: f"{place[1]}{TABLES[place[2]]()}\n{place[3]}", text)


def accuracy() -> str:
    """The main table of the study."""
    rows = _rows_of(_study(), "method")
    names = [*SET_NAMES.values(), "mean", "parameters at the end", "training on AG News"]
    lines = [[label, *_cells(rows[name], 7)] for name, label in METHOD_NAMES.items() if name in rows]
    return table(["", *names], lines)


def results() -> str:
    """The table of README: accuracy of the study beside rates of one run of time to quality, where it has them."""
    rows = _rows_of(_study(), "method")
    curves = _result("time_to_quality", "intel-xeon-processor")["curves"]
    measured = {
        methods.PEERS[1]: curves["PEFT adalora@1e-2"][0],
        methods.DEFAULT: curves["leantune, AdaLoRA on query and value"][0],
        methods.EVERYWHERE: curves["leantune"][0],
    }
    lines = []
    others = (methods.WORDS, methods.PROBE, methods.SETFIT, *methods.PEERS)
    for name in (each for each in (*others, methods.DEFAULT, methods.EVERYWHERE) if each in rows):
        mean_accuracy, parameters = _cells(rows[name], 6)[4:6]
        rate = measured.get(name)
        speed_of = (_rate(rate["texts_per_s"]), f"{rate['peak_rss_bytes'] / 1e9:.2f}") if rate else ("", "")
        lines.append([METHOD_NAMES[name], mean_accuracy, parameters, *speed_of])
    cost = ["parameters at the end", "training, texts/s", "memory, GB"]
    return table(["", "accuracy, mean of four sets, %", *cost], lines)


def differences() -> str:
    """Differences of means over the sets, in points."""
    lines = re.findall(r"^- (?:Mean over the sets: )?(.*): (\S+) points \((.*?)\)", _study(), re.MULTILINE)
    found = {name: (points, interval) for name, points, interval in lines}
    rows = [[label, *found[name]] for name, label in COMPARED.items()]
    return table(["accuracy, mean of the four sets", "points", "95 % interval"], rows)


def larger_sets() -> str:
    """The sets beside the main table."""
    about = {
        "agnews-all": "AG News, 9,000 rows, MiniLM-L6",
        "agnews-mpnet": "AG News, 1,000 rows, all-mpnet-base-v2",
        "r52-mpnet": "Reuters R52, 1,000 rows, all-mpnet-base-v2",
    }
    shown = (methods.PROBE, *methods.PEERS, methods.TWO_THIRDS)
    lines = []
    for name, title in about.items():
        rows = _rows_of(_study().split(f"\n## {name}\n")[1].split("\n## ")[0], "method")
        lines.append([title, *(rows[method][1] if method in rows else "" for method in shown)])
    return table(["", *(METHOD_NAMES[name] for name in shown)], lines)


def int8_accuracy() -> str:
    """The same recipe with frozen products in int8 and in bf16."""
    rows = _rows_of(_study(), "method")
    lines = [["int8", *_cells(rows[methods.INT8_LINE], 5)], ["bf16", *_cells(rows[methods.PLAIN], 5)]]
    return table(["frozen products in", *SET_NAMES.values(), "mean"], lines)


Line = Mapping[str, Any]
"""One pipeline in a result of the speed benchmark."""


def comparisons(
    machines: Mapping[str, str],
) -> Iterator[tuple[list[str], dict[str, Line], Callable[..., str]]]:
    """Every comparison in the files of ``machines``: its machine and task, its lines with the best setting of the usual
    pipeline as ``best``, and what says how many times as fast one line is as another, the median over the rounds.
    """
    for file, machine in machines.items():
        for comparison in _result("speed", file)["comparisons"]:
            lines = {line["pipeline"]: line for line in comparison["lines"]}
            settings = (line for name, line in lines.items() if name.startswith("best"))
            lines["best"] = max(settings, key=lambda line: line["samples_per_s"])

            def ratio(ours: Line, theirs: Line, runs: Any = comparison["runs"]) -> str:
                pairs = zip(*(runs[each["pipeline"]] for each in (ours, theirs)), strict=True)
                return f"{median(a['samples_per_s'] / b['samples_per_s'] for a, b in pairs):.1f}x"

            yield [machine, f"{comparison['model']}, {comparison['task']}"], lines, ratio


def speed(machines: Mapping[str, str]) -> str:
    """leantune beside the usual pipeline and its best setting."""
    rows = []
    for (machine, task), lines, ratio in comparisons(machines):
        for name, suffix in PIPELINES.items():
            if name in lines:
                shown = [lines[each] for each in ("usual", "best", name)]
                rates = (_rate(line["samples_per_s"]) for line in shown)
                ratios = (ratio(shown[2], other) for other in shown[:2])
                memory = ", ".join(f"{line['peak_rss_bytes'] / 1e9:.2f}" for line in shown)
                rows.append([machine, task + suffix, *rates, *ratios, memory])
    names = ["usual pipeline", "its best setting", "leantune", "against usual", "against best"]
    return table(["machine", "texts/s", *names, "peak memory of the three, GB"], rows)


def speed_in_short() -> str:
    """How many times as fast leantune is with its defaults."""
    rows = []
    for place, lines, ratio in comparisons({**XEON, **WITHOUT_AMX}):
        ours = lines["leantune"]
        ratios = (ratio(ours, lines[other]) for other in ("usual", "best"))
        rows.append([*place, _rate(ours["samples_per_s"]), *ratios])
    return table(["machine", "", "texts/s", "against the usual pipeline", "against its best setting"], rows)


def steps() -> str:
    """Steps in a row, when a run has settled."""
    kinds = {"native": "int8", "bf16": "bf16", "torch": "torch's kernels"}
    lines = []
    for file, machine in MACHINES.items():
        result = _result("profile", file)
        for model, processes in result["models"].items():
            found = {kind: 1000 * median(each["step_s"] for each in processes[kind]) for kind in kinds}
            lines.append([machine, model, *(f"{found[kind]:.1f}" for kind in kinds), result["date"]])
    return table(["machine", "ms a step", *kinds.values(), "measured"], lines)


def time_to_quality() -> str:
    """Seconds until leantune has the accuracy at which each peer ends."""
    on_xeon = ("", "-best-setting", "-random-order", "-usual-rate")
    files = {f"amd-epyc{which}": MACHINES["amd-epyc"] for which in on_xeon[:2]}
    files |= {f"intel-xeon-processor{which}": MACHINES["intel-xeon-processor"] for which in on_xeon}
    lines = []
    for file, machine in files.items():
        result = _result("time_to_quality", file)
        ours = result["curves"]["leantune"][0]
        whole = f"{ours['seconds'][-1]:.0f} s, {percent(ours['accuracy'][-1], 2)}"
        for name, (curve, *_) in result["curves"].items():
            if not name.startswith("PEFT"):
                continue
            target = curve["accuracy"][-1]
            theirs, mine = first_at(curve, target), first_at(ours, target)
            times = [f"{theirs:,.0f} s", "never", ""]
            if mine is not None:
                times[1:] = [f"{mine:.0f} s", f"{theirs / mine:.1f}x"]
            lines.append([machine, _peer_name(name), percent(target, 2), *times, whole, result["date"]])
    times = ["peer first there", "leantune first there", "faster by", "leantune's whole run"]
    return table(["machine", "peer", "at its end", *times, "measured"], lines)


def growth() -> str:
    """Ten times the rows."""
    lines = []
    for name, each in _result("growth", "intel-xeon-processor")["growth"].items():
        memory = f"{each['many_rss_bytes'] / each['few_rss_bytes']:.2f}x"
        time = f"{each['many_s'] / each['few_s']:.2f}x"
        lines.append([name, f"{each['few_s']:.1f} s", f"{each['many_s']:.1f} s", time, memory])
    return table(["", "100,000 rows", "1,000,000 rows", "time", "peak memory"], lines)


def startup() -> str:
    """Seconds of whole processes."""
    found = _result("startup", "amd-epyc")["seconds"]
    return table(["", "median"], [[name, f"{median(each):.2f} s"] for name, each in found.items()])


def overhead() -> str:
    """What the parts of AdaLoRA cost of a step."""
    lines = []
    for file, machine in MACHINES.items():
        result = _result("overhead", file)
        for model, each in result["models"].items():
            parts = (f"{1000 * each['parts_s'][part]:.2f} ms" for part in PARTS)
            lines.append([machine, model, *parts, f"{100 * each['parts_share']:.2f} %", result["date"]])
    return table(["machine", "model", *PARTS, "all, of a step", "measured"], lines)


def few_rows() -> str:
    """leantune and SetFit on a few rows of each class."""
    found: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for run in _result("few_rows", "intel-xeon-processor")["runs"]:
        if run["draw"] == 0:
            found.setdefault((run["set"], run["rows"]), {})[run["system"]] = run
    names = SET_NAMES | {"hwu64": "HWU64"}
    lines = []
    for (name, rows), runs in sorted(found.items()):
        ours, theirs = runs["leantune"], runs.get("SetFit")
        cells = (percent(ours["accuracy"]), percent(theirs["accuracy"]) if theirs else "not run")
        seconds = (f"{ours['seconds']:.0f} s", f"{theirs['seconds']:.0f} s" if theirs else "")
        lines.append([names[name], str(rows), *cells, *seconds])
    return table(["set", "rows a class", "leantune", "SetFit", "leantune trains", "SetFit trains"], lines)


def serving() -> str:
    """Clients that wait for each answer, at the server and at its peer."""
    result = _result("serving", "intel-xeon-processor")
    found = {(each["system"], each["clients"]): each for each in result["levels"] if each["clients"]}
    lines = []
    for clients in sorted({clients for _, clients in found}):
        for system in result["systems"]:
            rounds = found[system, clients]["rounds"]
            rate = median(each["requests_per_s"] for each in rounds)
            times = [median(each["latency_ms"][name] for each in rounds) for name in ("p50", "p95", "p99")]
            lines.append([str(clients), system, f"{rate:.0f}", *(f"{each:.1f}" for each in times)])
    return table(["clients", "server", "requests/s", "p50, ms", "p95, ms", "p99, ms"], lines)


def multi_adapter() -> str:
    """Throughput of batches of many classifiers, against one merged classifier."""
    result = _result("multi_adapter", "intel-xeon-processor")
    names = {"minilm": "MiniLM-L6", "roberta-base": "the shape of RoBERTa-base"}
    lines = []
    for shape, found in result["shapes"].items():
        ratios = (percent(each["throughput"], 0) for each in found["ratios"].values())
        lines.append([names[shape], *ratios, f"{found['memory_of_1000_bytes'] / 1e9:.2f} GB"])
    return table(["encoder", "1 classifier", "8", "64", "1,000", "memory of 1,000"], lines)


def as_written(kind: str) -> str:
    """The table that a benchmark wrote into its own Markdown."""
    text = (RESULTS / kind / "intel-xeon-processor.md").read_text("utf-8")
    return "\n".join(line for line in text.splitlines() if line.startswith("|"))


MADE_HERE = (
    *(accuracy, results, differences, larger_sets, int8_accuracy, speed_in_short, steps, time_to_quality),
    *(growth, startup, overhead, few_rows, serving, multi_adapter),
)
AS_WRITTEN = (
    *("abstention", "audit", "explanations", "frontier", "learning_curve", "multi_label", "train_many"),
    *("bulk_efficiency", "bulk_kills", "bulk_memory", "bulk_scale"),
)
TABLES: Mapping[str, Callable[[], str]] = {
    "speed": partial(speed, XEON),
    "speed-without-amx": partial(speed, WITHOUT_AMX),
    **{each.__name__.replace("_", "-"): each for each in MADE_HERE},
    **{kind.replace("_", "-"): partial(as_written, kind) for kind in AS_WRITTEN},
}
"""By the names that pages have for them."""


def _result(benchmark: str, name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / benchmark / f"{name}.json").read_text("utf-8"))
    return result


def _study() -> str:
    return (RESULTS / "quality" / "README.md").read_text("utf-8")


def _rows_of(text: str, first: str) -> dict[str, list[str]]:
    """The rows of the first table of ``text`` whose header begins with ``first``, by their first cells."""
    lines = text[text.index(f"| {first} |") :].split("\n\n")[0].splitlines()[2:]
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {row[0]: row for row in cells}


def _cells(row: Sequence[str], count: int) -> list[str]:
    return list(row[1 : 1 + count])


def _rate(per_s: float) -> str:
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.1f}"


def _peer_name(name: str) -> str:
    """``PEFT adalora@1e-2@usual`` in words."""
    adapter, rate, *usual = name.removeprefix("PEFT ").split("@")
    method = {"adalora": "AdaLoRA", "lora": "LoRA"}[adapter]
    return f"PEFT {method} at {rate}, {'random order' if usual else 'batches of like length'}"


if __name__ == "__main__":
    sys.exit(main())
