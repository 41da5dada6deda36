"""The page in a browser: nothing sticks out at either width, no request is made, the console stays empty."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from browser import BASH, CHROMIUM, Browser
from leantune.report import write_report
from test_report import example_history, example_record, poisoned, write_run

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
        [each.textContent, document.querySelector(each.getAttribute('href')).querySelector('h2').textContent])""")
    assert len(titles) > 8
    assert all(entry == title for entry, title in titles)


def test_a_browser_that_is_troubled_says_so(browser, tmp_path):
    """What the other tests would say of a page that asks for something, or sticks out."""
    path = tmp_path / "page.html"
    path.write_text("<!doctype html><main><img src='absent.png'><p style='width:2000px'>wide</p></main>")
    browser.open(path, width=390)
    assert browser.trouble()
    assert browser.evaluate(STICKS_OUT) == ["P: wide"]
