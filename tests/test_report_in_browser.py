"""The page in a browser: nothing sticks out at either width, no request is made, the console stays empty."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from browser import BASH, CHROMIUM, Browser
from leantune.report import write_report

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


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_and_keeps_to_itself(browser, page, width):
    browser.open(page, width=width)
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
