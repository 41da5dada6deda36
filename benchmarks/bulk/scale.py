"""What a large cluster would do: what the command pays for a part is measured, and a cluster is simulated with it.

    python -m benchmarks.bulk.scale [--parts 500,2000]

Ray Data hands out parts that do nothing, to a local actor. The simulation has one dispatcher, which hands out a part
in the measured time, and actors whose parts take a time of log-normal spread; it gives the share of the time in which
actors compute.
"""

from __future__ import annotations

import argparse
import heapq
import json
import pickle
import random
import resource
import time
from dataclasses import asdict
from typing import Any

from benchmarks.bulk.kills import ray_version
from benchmarks.results_folder import RESULTS, machine_name, origin_of, stem_of, write_result
from leantune.cluster.connection import connected
from leantune.cluster.predict.ledger import Manifest
from leantune.cluster.predict.parts import Part
from leantune.cluster.storage import StoredFile

RATE = 1_000.0
"""Texts a second of an actor, of the order of MiniLM-L6 on two cores."""
SPREAD = 0.2
"""Standard deviation of the logarithm of the seconds of a part."""
CLUSTERS = ((10, 10_000), (100, 10_000), (1_000, 10_000), (1_000, 100_000), (1_000, 1_000_000))
"""Nodes of 8 actors, and rows of a part."""
ACTORS_OF_A_NODE, ROWS = 8, 10_000_000_000


class Nothing:
    """An actor that does nothing with its parts."""

    def __call__(self, batch: Any) -> Any:
        return batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--parts", default="500,2000", help="the difference of the two is measured")
    options = parser.parse_args()
    few, many = map(int, options.parts.split(","))
    with connected("local"):
        hand_out(few)
        costs = [hand_out(few), hand_out(many)]
    part_s = (costs[1]["seconds"] - costs[0]["seconds"]) / (many - few)
    part_bytes = max(0.0, (costs[1]["memory_bytes"] - costs[0]["memory_bytes"]) / (many - few))
    sizes = {
        "part": len(pickle.dumps(example_part())),
        "manifest": len(json.dumps(asdict(example_manifest()))),
    }
    clusters = [
        {"nodes": nodes, "part_rows": rows, **simulate(nodes, rows, part_s)} for nodes, rows in CLUSTERS
    ]
    origin = origin_of("benchmarks.bulk.scale")
    result = {
        **origin,
        "seconds_a_part": part_s,
        "memory_a_part": part_bytes,
        "sizes": sizes,
        "clusters": clusters,
    }
    text = markdown_of(origin, result)
    write_result(RESULTS, stem_of("bulk_scale", origin["hardware"]), result, text)
    print(text)


def hand_out(parts: int) -> dict[str, float]:
    """Seconds and peak memory of this process for so many parts."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    DataContext.get_current().enable_progress_bars = False
    started = time.perf_counter()
    items = [{"part": pickle.dumps(example_part())} for _ in range(parts)]
    dataset = ray.data.from_items(items, override_num_blocks=parts)
    rows = dataset.map_batches(
        Nothing, batch_size=1, compute=ActorPoolStrategy(size=1), num_cpus=1
    ).iter_rows()
    assert sum(1 for _ in rows) == parts
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": time.perf_counter() - started, "memory_bytes": peak}


def simulate(nodes: int, part_rows: int, dispatch_s: float) -> dict[str, float]:
    """Hours of a job of `ROWS` rows, and the share of them in which actors compute."""
    rng, actors, parts = random.Random(0), nodes * ACTORS_OF_A_NODE, ROWS // part_rows
    free = [0.0] * min(actors, parts)
    dispatcher, computed = 0.0, 0.0
    for _ in range(parts):
        ready = heapq.heappop(free)
        dispatcher = max(dispatcher, ready) + dispatch_s
        seconds = part_rows / RATE * rng.lognormvariate(-(SPREAD**2) / 2, SPREAD)
        computed += seconds
        heapq.heappush(free, dispatcher + seconds)
    end = max(free)
    return {"hours": end / 3600, "busy": computed / (end * actors), "parts": parts}


def example_part() -> Part:
    return Part(
        99_999,
        StoredFile("s3://bucket/rows/2026-12-01/part-00017.parquet", 10**9, "e" * 32),
        12,
        10**7,
        10**5,
    )


def example_manifest() -> Manifest:
    part = example_part()
    return Manifest(
        number=part.number,
        url=part.file.url,
        row_group=part.row_group,
        first_row=part.first_row,
        rows=10**5,
        truncated_rows=100,
        empty_rows=1,
        input_sha256="0" * 64,
        output="part-0099999.parquet",
        output_bytes=10**7,
        output_sha256="0" * 64,
        job="0" * 64,
        node="ip-10-0-0-1",
        seconds=100.0,
    )


def markdown_of(origin: dict[str, Any], result: dict[str, Any]) -> str:
    lines = [
        "# A large cluster, by simulation",
        "",
        f"Handing out a part costs {1000 * result['seconds_a_part']:.2f} ms and {result['memory_a_part'] / 1e3:.1f} "
        f"kB of the command's memory; a part is {result['sizes']['part']} bytes on its way, its manifest "
        f"{result['sizes']['manifest']}. {ROWS:,} rows, {ACTORS_OF_A_NODE} actors a node, {RATE:,.0f} texts a second "
        f"each. "
        f"`{origin['command']}` on {machine_name(origin['hardware'])}, {origin['date']}, ray {ray_version()}.",
        "",
        "| nodes | rows a part | parts | hours | actors compute |",
        "|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {each['nodes']:,} | {each['part_rows']:,} | {each['parts']:,} | {each['hours']:.1f} | "
        f"{100 * each['busy']:.0f} % |"
        for each in result["clusters"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
