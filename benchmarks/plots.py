"""The plot of README from the files of ``benchmarks/results/``: ``python -m benchmarks.plots``."""

from __future__ import annotations

import json

from benchmarks.tables import RESULTS, ROOT

IMAGE = ROOT / "docs" / "images" / "accuracy-over-seconds.png"
FILE = RESULTS / "time_to_quality" / "intel-xeon-processor.json"
"""One result, since machines differ from hour to hour."""
LOOKS = {
    "leantune": {"color": "#1f6f54", "linewidth": 2, "label": "leantune"},
    "leantune, AdaLoRA on query and value": {
        "color": "#6aa58d",
        "linewidth": 2,
        "label": "leantune, AdaLoRA on query and value",
    },
    "PEFT adalora@1e-2": {
        "color": "#c2571a",
        "linewidth": 1.2,
        "label": "Trainer + PEFT AdaLoRA, batches of like length",
    },
}


def main() -> int:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    for name, runs in json.loads(FILE.read_text("utf-8"))["curves"].items():
        for number, run in enumerate(runs):
            accuracy = [100 * each for each in run["accuracy"]]
            once = {} if number == 0 else {"label": None}
            axis.plot(runs[0]["seconds"], accuracy, marker="o", markersize=3, **LOOKS[name] | once)
    axis.set(
        xscale="log", xlabel="seconds from the start of the process", ylabel="accuracy, %", ylim=(86, 91.5)
    )
    axis.set_xticks([20, 50, 100, 200, 500, 1000], ["20", "50", "100", "200", "500", "1,000"])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    figure.savefig(IMAGE, dpi=140)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
