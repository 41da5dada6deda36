"""Coverage-guided fuzzing of the pickle reader: whatever the bytes, a table or one of leantune's errors.

    pip install atheris
    python -m benchmarks.reliability.fuzz_pickles --seconds 600

Starts from real pickles of every protocol. Anything but a LeantuneError ends the run and leaves the
input in the corpus folder. Writes benchmarks/results/reliability/fuzz_pickles.md.
"""

from __future__ import annotations

import argparse
import os
import pickle
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import ROOT, Benchmark, measured_by, page

BENCHMARK = Benchmark("reliability.fuzz_pickles", __doc__)
SEEDS = [
    {"text": ["a", "b"], "label": [0, 1]},
    [{"text": "a", "label": 1}, {"text": "b", "label": 2}],
    ["a", "b", "c"],
]


def fuzz(corpus: Path, seconds: int) -> None:
    """The target process; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["leantune.pickle_tables"]):
        from leantune.data.text.readers.content import open_content
        from leantune.data.text.readers.pickles import open_pickle
        from leantune.errors import LeantuneError

    path = corpus.parent / "rows.pkl"

    def one_input(data: bytes) -> None:
        path.write_bytes(data)
        try:
            table = open_pickle(open_content(str(path)), "train")
            for batch in table.batches(table.columns, 64):
                assert all(len(cells) == len(batch.rows) for cells in batch.cells.values())
        except LeantuneError as error:
            if "\n" in str(error):
                raise RuntimeError("an error of more than one line") from error

    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-max_len=4096", str(corpus)], one_input)
    atheris.Fuzz()


def write_seeds(corpus: Path) -> None:
    import numpy as np
    import pandas as pd

    frame = pd.DataFrame({"text": ["a", "b"], "label": [0, 1]})
    values = [*SEEDS, frame, frame["text"], np.array(["a", "b"]), np.array(["a", "b"], object)]
    for i, value in enumerate(values):
        for protocol in range(6):
            (corpus / f"seed-{i}-{protocol}").write_bytes(pickle.dumps(value, protocol))


def main() -> None:
    parser = BENCHMARK.parser()
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.corpus:
        fuzz(options.corpus, options.seconds)
        return
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        write_seeds(corpus)
        command = [sys.executable, __file__, "--corpus", str(corpus), "--seconds", str(options.seconds)]
        search_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": search_path}
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment)
        found = re.search(r"Done (\d+) runs in (\d+) second", done.stderr)
        if done.returncode or not found:
            sys.exit(f"the reader failed on an input:\n{done.stderr[-4000:]}")
        coverage = re.findall(r"cov: (\d+)", done.stderr)[-1]
        kept = len(list(corpus.iterdir()))
    origin = BENCHMARK.origin()
    text = page(
        f"Fuzzing the pickle reader, {origin['date']}",
        f"{measured_by(origin, 'python')}, coverage-guided (atheris).",
        f"{int(found[1]):,} inputs in {found[2]} s, {coverage} covered edges, {kept} inputs kept for new coverage; "
        "0 exceptions outside leantune's errors.",
    )
    path = options.results / "reliability" / "fuzz_pickles.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()
