"""``leantune predict`` with a clock around the work: reading, tokenizing, classifying, writing."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from leantune.system.memory import keep_freed_memory
from leantune.system.openmp import spin_briefly


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="folder of a finished run")
    parser.add_argument("--input", required=True, help="CSV with a column text")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--engine", default="torch", help="torch, openvino or openvino-int8")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--predictions", required=True, help="CSV file to write")
    parser.add_argument("--output", required=True, help="JSON file to write")
    options = parser.parse_args()

    keep_freed_memory()  # as the command line does, before torch is imported
    spin_briefly()
    import numpy as np

    from leantune.data.text.read import Columns, open_examples
    from leantune.inference.engines.choose import load_engine
    from leantune.inference.predict import predict_to
    from leantune.inference.writers import PredictionLayout, open_writer

    trained = load_engine(options.engine, Path(options.run), precision=options.precision)
    layout = PredictionLayout(trained.labels, with_probabilities=False, submission=False)
    started = time.perf_counter()
    source = open_examples(options.input, Columns(), labels="ignore", split="test")
    summary = predict_to(
        trained,
        source,
        options.predictions,
        writer=lambda path: open_writer(layout, path, ".csv"),
        batch_size=options.batch_size,
    )
    seconds = time.perf_counter() - started

    tokens = sum(
        int(np.sum([len(each) for each in trained.tokenizer.encode(batch.texts).input_ids]))
        for batch in source.batches()
    )
    result = {
        "rows": summary.rows,
        "tokens": tokens,
        "predict_s": seconds,
        "samples_per_s": summary.rows / seconds,
        "tokens_per_s": tokens / seconds,
    }
    Path(options.output).write_text(json.dumps(result, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
