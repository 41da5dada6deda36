"""The plot of README from the files of ``benchmarks/results/``: ``python -m benchmarks.plots``."""

from __future__ import annotations

import json

from benchmarks.harness import RESULTS, ROOT

IMAGE = ROOT / "docs" / "images" / "accuracy-over-seconds.png"
FILE = RESULTS / "time_to_quality" / "intel-xeon-processor.json"
"""One result, since machines differ from hour to hour."""
LOOKS = {
    "leantune": ("leantune", "#1f6f54", 2),
    "leantune, AdaLoRA on query and value": ("leantune, AdaLoRA on query and value", "#6aa58d", 2),
    "PEFT adalora@1e-2": ("Trainer + PEFT AdaLoRA, batches of like length", "#c2571a", 1.2),
}
"""Label, color and width of a line, by the curve."""


def main() -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axis = figure.subplots()
    for name, runs in json.loads(FILE.read_text("utf-8"))["curves"].items():
        for number, run in enumerate(runs):
            accuracy = [100 * each for each in run["accuracy"]]
            label, color, width = LOOKS[name]
            looks = {"color": color, "linewidth": width, "label": None if number else label}
            axis.plot(runs[0]["seconds"], accuracy, marker="o", markersize=3, **looks)
    axis.set(
        xscale="log", xlabel="seconds from the start of the process", ylabel="accuracy, %", ylim=(86, 91.5)
    )
    axis.set_xticks([20, 50, 100, 200, 500, 1000], ["20", "50", "100", "200", "500", "1,000"])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    figure.savefig(IMAGE, dpi=140)


if __name__ == "__main__":
    main()
