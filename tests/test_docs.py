"""Every command and every line of Python on the pages of the docs runs, and prints what they say."""

from __future__ import annotations

import html
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from leantune.config.recipe import keys
from leantune.training.run import run_training
from pages import SHELL, Block, blocks_of, lines_of, run_blocks
from tiny import quiet, recipe_for, save_tiny_encoder, write_label_sets, write_rows

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NEEDS_RAY = "leantune[ray]"
"""Said by a page whose blocks start Ray."""
PAGES = [
    pytest.param(page, marks=pytest.mark.long if NEEDS_RAY in page.read_text("utf-8") else ())
    for page in sorted(DOCS.rglob("*.md"))
]
NOTEBOOKS = sorted(DOCS.rglob("*.ipynb"))
LABELS = ("acq", "crude", "earn")

pytestmark = [
    pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def kept_pages(tmp_path_factory) -> Path:
    """What a reader has: rows, an encoder, the config of RoBERTa-base, and a run."""
    from transformers import BertConfig, RobertaConfig

    folder = tmp_path_factory.mktemp("kept_pages")
    save_tiny_encoder(folder / "encoder", hidden_size=64, num_attention_heads=2, intermediate_size=128)
    for seed, (name, num_rows) in enumerate({"train": 240, "test": 60, "more": 60}.items()):
        write_rows(folder / f"{name}.csv", num_rows, LABELS, seed=seed)
    write_label_sets(folder / "topics.csv", 240, LABELS)
    write_label_sets(folder / "topics_test.csv", 60, LABELS, seed=1)
    texts = [row.split(",")[0] for row in (folder / "more.csv").read_text("utf-8").splitlines()[1:21]]
    rows = "".join(f"{number},{text}\n" for number, text in enumerate(texts, 101))
    (folder / "new.csv").write_text(f"id,text\n{rows}", "utf-8")
    RobertaConfig(
        vocab_size=50265,
        max_position_embeddings=514,
        type_vocab_size=1,
        architectures=["RobertaForMaskedLM"],
    ).save_pretrained(folder / "roberta-base")
    BertConfig(  # of all-MiniLM-L6-v2
        hidden_size=384,
        num_hidden_layers=6,
        intermediate_size=1536,
        architectures=["BertModel"],
    ).save_pretrained(folder / "minilm")
    for name in ("minilm", "roberta-base"):
        for file in (folder / "encoder").glob("tokenizer*"):
            shutil.copy(file, folder / name)
    shim = folder / "bin" / "leantune"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m leantune "$@"\n')
    shim.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def finished_run(kept_pages, tmp_path_factory) -> Path:
    recipe = recipe_for(
        kept_pages, tmp_path_factory.mktemp("runs") / "mine", init_rank=None, target_rank=None, epochs=2
    )
    return run_training(recipe, console=quiet())


@pytest.fixture
def desk(kept_pages, tmp_path, monkeypatch) -> Path:
    """A folder of one's own with all of the kept_pages."""
    folder = tmp_path / "desk"
    shutil.copytree(kept_pages, folder)
    monkeypatch.chdir(folder)
    programs = (folder / "bin", Path(sys.executable).parent, os.environ["PATH"])
    monkeypatch.setenv("PATH", ":".join(map(str, programs)))
    monkeypatch.setenv("LEANTUNE_CACHE", str(kept_pages / "cache"))
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_blocks_of_a_page_run(page, desk, request):
    text = page.read_text("utf-8")
    if "<!-- starts with a run -->" in text:
        shutil.copytree(request.getfixturevalue("finished_run"), desk / "runs" / "mine", dirs_exist_ok=True)
    run_blocks(name_of(page), blocks_of(text), desk)


def test_the_blocks_of_the_readme_run(desk):
    blocks = blocks_of((ROOT / "README.md").read_text("utf-8"))
    for block in blocks:
        block.skipped = block.skipped or why_not_of_the_readme(block)
        if block.printed is not None:  # shortened
            block.printed += "...\n"
    run_blocks("README.md", blocks, desk, names={"new_texts": ["word1 word2"]})


def why_not_of_the_readme(block: Block) -> str | None:
    lines = list(lines_of(block)) if block.language in SHELL else []
    if any(line.startswith("make ") for line in lines):
        return "takes minutes; test_readme.py checks its targets"
    if any(line.startswith("leantune train agnews-roberta ") for line in lines):
        return "trains RoBERTa-base"
    return None


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_the_cells_of_a_notebook_run(notebook, desk):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    cells = nbformat.read(notebook, as_version=4)
    nbclient.NotebookClient(cells, timeout=240, resources={"metadata": {"path": str(desk)}}).execute()


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="make docs installs it")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")]
    settings = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    record, commands = (
        html.unescape((tmp_path / "site" / "reference" / page / "index.html").read_text("utf-8"))
        for page in ("record", "commands")
    )
    schema = json.loads((ROOT / "src/leantune/config/record/record.schema.json").read_text("utf-8"))
    for part in (schema, *schema["$defs"].values()):
        assert all(f"<code>{key}</code>" in record for key in part["properties"])
    assert all(f"--{key.replace('_', '-')} " in commands for key in keys())
