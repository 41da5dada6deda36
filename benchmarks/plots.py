"""The plot of README from the files of ``benchmarks/results/``: ``python -m benchmarks.plots``."""

from __future__ import annotations

import json

from benchmarks.tables import RESULTS, ROOT

IMAGE = ROOT / "docs" / "images" / "accuracy-over-seconds.png"
FILES = {
    "intel-xeon-processor-best-setting": "PEFT AdaLoRA at 1e-2, its fastest setting",
    "intel-xeon-processor": "PEFT AdaLoRA at 1e-2",
    "intel-xeon-processor-usual-rate": "PEFT AdaLoRA at 1e-3",
}
"""Results of ``benchmarks.time_to_quality``, and what the plot calls the peer of each."""


def main() -> int:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7.2, 3.8), layout="constrained")
    for i, (file, label) in enumerate(FILES.items()):
        curves = json.loads((RESULTS / "time_to_quality" / f"{file}.json").read_text("utf-8"))["curves"]
        for name, curve in curves.items():
            is_ours = name == "leantune"
            axis.plot(
                curve["seconds"],
                [100 * each for each in curve["accuracy"]],
                color="#1f6f54" if is_ours else ("#c2571a", "#a33b20", "#7d6b5d")[i],
                marker="o",
                markersize=3,
                linewidth=2 if is_ours else 1.2,
                label=("leantune, three runs" if i == 0 else None) if is_ours else label,
            )
    axis.set(
        xscale="log",
        xlabel="seconds from the start of the process",
        ylabel="accuracy, %",
        ylim=(86, 91.5),
    )
    axis.set_xticks([20, 50, 100, 200, 500, 1000], ["20", "50", "100", "200", "500", "1,000"])
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    figure.savefig(IMAGE, dpi=140)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
