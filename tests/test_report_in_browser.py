"""The page in a browser: nothing sticks out at either width, no request is made, the console stays empty."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from browser import BASH, CHROMIUM, Browser
from leantune.report import write_report
from test_report import example_history, example_record, metrics_json, poisoned, write_run

pytestmark = pytest.mark.skipif(CHROMIUM is None or BASH is None, reason="no chromium here")

OPEN_ALL = "document.querySelectorAll('details').forEach(each => each.open = true)"
STICKS_OUT = """[...document.querySelectorAll('main *')]
    .filter(each => !each.closest('.scroll') && !each.closest('svg'))
    .filter(each => each.getBoundingClientRect().right > innerWidth + 1)
    .map(each => each.tagName + ': ' + each.textContent.slice(0, 60))"""
SMALLEST_DRAWN = """Math.min(...[...document.querySelectorAll('svg text')]
    .filter(each => each.getBoundingClientRect().width)
    .map(each => parseFloat(getComputedStyle(each).fontSize) * each.getScreenCTM().a))"""


@pytest.fixture(scope="module")
def page(run, tmp_path_factory) -> Path:
    copy = shutil.copytree(
        run, tmp_path_factory.mktemp("page") / "run", ignore=shutil.ignore_patterns("checkpoints", "merged")
    )
    return write_report(copy)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def page_of_long_names(page, tmp_path_factory) -> Path:
    """Of a large model, with names and texts in which no line can break, and most sections."""
    record = poisoned(example_record())
    record["confidence"] = json.loads((page.parent / "record.json").read_text("utf-8"))["confidence"]
    for split in ("validation", "test"):
        for each in record["metrics"][split]["per_class"]:
            each["label"] = "x" * 200 + each["label"]
    folder = write_run(tmp_path_factory.mktemp("long") / "run", record, example_history(example_record()))
    found = {"finding": "wrong", "part": "test", "row": 3, "text": "y" * 300, "label": "x" * 300,
             "predicted": "z" * 300, "probability": 0.9, "is_suspect": True}  # fmt: skip
    equal = {"finding": "equal", "part": "train", "row": 3, "text": "y" * 300, "label": "x" * 300, "group": 0}
    lines = [json.dumps(each) + "\n" for each in (found, equal, equal)]
    (folder / "rows_to_check.jsonl").write_text("".join(lines), "utf-8")
    return write_report(folder)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("which", ["page", "page_of_long_names"])
def test_the_page_fits_and_keeps_to_itself(browser, request, which, width):
    browser.open(request.getfixturevalue(which), width=width)
    assert browser.evaluate("innerWidth") == width
    browser.evaluate(OPEN_ALL)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(STICKS_OUT) == []
    assert browser.evaluate(SMALLEST_DRAWN) >= 10.5
    assert browser.trouble() == []


def test_every_entry_of_the_contents_leads_to_its_section(browser, page):
    browser.open(page, width=1280)
    titles = browser.evaluate("""[...document.querySelectorAll('nav a')].map(each =>
        [each.textContent, document.getElementById(`${each.getAttribute('href').slice(1)}-title`).textContent])""")
    assert len(titles) > 8
    assert all(entry == title for entry, title in titles)
    is_open = "document.querySelector('#ranks').checkVisibility()"
    assert not browser.evaluate(is_open), "long parts are folded"
    browser.evaluate("document.querySelector('nav a[href=\"#ranks\"]').click()")
    assert browser.evaluate(f"new Promise(done => setTimeout(() => done({is_open}), 200))", waits=True)


def rows_of_a_run(folder: Path, lines: list[dict[str, Any]], names: list[str]) -> Path:
    """The page of a run with these rows to check and these classes."""
    record = example_record()
    record["metrics"] = {split: metrics_json(400, 1.0, tuple(names)) for split in ("validation", "test")}
    record["labels"]["names"] = names
    write_run(folder, record, example_history(record))
    (folder / "rows_to_check.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return write_report(folder)


WRONG = [
    {"finding": "wrong", "part": "test", "row": i, "text": f"text {i}!", "label": "a", "predicted": "b",
     "probability": 0.9 - i / 100, "is_suspect": i % 2 == 0}
    for i in range(30)
]  # fmt: skip


def test_a_row_is_shown_once_and_marked_where_it_is(browser, tmp_path):
    browser.open(rows_of_a_run(tmp_path, WRONG, ["a", "b"]), width=1280)
    browser.evaluate(OPEN_ALL)
    texts = "[...document.querySelectorAll('{} .rows > li .text')].map(each => each.textContent)"
    wrong, suspects = (browser.evaluate(texts.format(anchor)) for anchor in ("#wrong", "#suspects"))
    assert wrong == [f"text {i}!" for i in range(20)]
    assert suspects == [f"text {i}!" for i in range(20, 30, 2)]
    assert (
        browser.evaluate("document.querySelectorAll('#wrong .rows > li a[href=\"#suspects\"]').length") == 10
    )
    finding = browser.evaluate("document.querySelector('#suspects .finding').textContent")
    assert finding == (
        "15 test rows have such a label; 10 of them are marked among the wrong predictions; the next 5 by confidence "
        "are listed here."
    )


def test_rows_are_filtered_by_their_text(browser, tmp_path):
    browser.open(rows_of_a_run(tmp_path, WRONG, ["a", "b"]), width=390)
    shown = """[...document.querySelectorAll('.rows > li .text')]
        .filter(each => each.checkVisibility()).map(each => each.textContent)"""
    assert len(browser.evaluate(shown)) == 6, "before anything is unfolded"
    type_it = """(box => {{ box.value = '{}'; box.dispatchEvent(new Event('input')) }})
        (document.querySelector('#row-filter input'))"""
    browser.evaluate(type_it.format(" TEXT 1"))
    assert browser.evaluate(shown) == ["text 1!", *(f"text {i}!" for i in range(10, 20))]
    assert browser.evaluate("document.querySelector('#row-filter output').textContent") == "11 of 25 rows"
    browser.evaluate(type_it.format(""))
    assert len(browser.evaluate(shown)) == 23, "what a match has unfolded stays so"
    assert browser.trouble() == []


@pytest.mark.parametrize("number", [18, 40])
def test_a_wide_confusion_matrix_is_scrolled_to_its_last_column(browser, tmp_path, number):
    page = rows_of_a_run(tmp_path, WRONG, [f"a long name {i}" for i in range(number)])
    browser.open(page, width=390)
    scrolled = """(region => { region.scrollLeft = 1e6;
        const cell = region.querySelector('tbody tr td:last-child').getBoundingClientRect();
        const edge = region.getBoundingClientRect();
        const name = region.querySelector('tbody tr th').getBoundingClientRect();
        return [cell.right <= edge.right + 1, name.left >= edge.left, name.right < cell.left,
                cell.width > 10, edge.right <= innerWidth,
                region.scrollWidth > region.clientWidth, region.tabIndex];
        })(document.querySelector('#classes .heat').closest('.scroll'))"""
    assert browser.evaluate(scrolled) == [True] * 6 + [0]
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_browser_that_is_troubled_says_so(browser, tmp_path):
    """What the other tests would say of a page that asks for something, or sticks out."""
    path = tmp_path / "page.html"
    path.write_text("<!doctype html><main><img src='absent.png'><p style='width:2000px'>wide</p></main>")
    browser.open(path, width=390)
    assert browser.trouble()
    assert browser.evaluate(STICKS_OUT) == ["P: wide"]
