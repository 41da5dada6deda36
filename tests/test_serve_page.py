"""The page of the server in a browser: what a person types, drops and reads, and what they are told when it fails."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import CHROMIUM
from leantune.cli.main import main
from leantune.training.run import run_training
from servers import ServerProcess
from tiny import WORDS, quiet, recipe_for

pytest.importorskip("fastapi_offline")
sync_api = pytest.importorskip("playwright.sync_api")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")

TIMEOUT_MS = 30_000
KEY = "open sesame"
UNLABELLED = """[...document.querySelectorAll('input, select, textarea, button, progress, svg, [role=region]')]
    .filter(each => !each.labels?.length && !each.getAttribute('aria-label') && !each.textContent.trim())
    .map(each => each.outerHTML)"""
STICKS_OUT = """[...document.querySelectorAll('main *')]
    .filter(each => !each.closest('.scroll, svg') && each.getBoundingClientRect().right > innerWidth + 1)
    .map(each => each.outerHTML.slice(0, 80))"""
FAINT = """() => {
    const luminance = colour => {
        const parts = colour.match(/[\\d.]+/g).slice(0, 3).map(each => each / 255)
            .map(each => each <= .03928 ? each / 12.92 : ((each + .055) / 1.055) ** 2.4);
        return .2126 * parts[0] + .7152 * parts[1] + .0722 * parts[2];
    };
    const back = each => {
        const colour = getComputedStyle(each).backgroundColor;
        return /, 0\\)$/.test(colour) && each.parentElement ? back(each.parentElement) : colour;
    };
    return [...document.querySelectorAll('main *')]
        .filter(each => each.checkVisibility() && !each.disabled && !each.closest('svg'))
        .filter(each => [...each.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
        .filter(each => {
            const [a, b] = [luminance(getComputedStyle(each).color), luminance(back(each))].sort((x, y) => y - x);
            return (a + .05) / (b + .05) < 4.5;
        })
        .map(each => each.outerHTML.slice(0, 120));
}"""
"""Texts with less contrast than WCAG AA asks for."""


@pytest.fixture(scope="module")
def pairs_run(inputs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    with (inputs / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [["text", "text_pair", "label"], *([text, text, label] for text, label in rows)]
        )
    changes = {"data": str(folder / "pairs.csv"), "text_pair_column": "text_pair", "test": None, "epochs": 1}
    return run_training(recipe_for(inputs, folder / "run", **changes), console=quiet())


@pytest.fixture(scope="module")
def address(run, pairs_run) -> Iterator[str]:
    with ServerProcess(f"single={run}", f"pairs={pairs_run}", "--payload-limit", "40000") as served:
        yield served.url


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(chromium) -> Iterator[Any]:
    """A page that must not say anything on the console, nor ask another host; ``tab.allowed`` has exceptions."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(TIMEOUT_MS)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.allowed = ()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    yield page
    own = page.evaluate("location.host")
    context.close()
    assert [each for each in said if not any(word in each for word in page.allowed)] == []
    assert [url for url in asked if not url.startswith("blob:") and url.split("/")[2] != own] == []


def opened(tab: Any, url: str, model: str | None = None) -> Any:
    tab.goto(url)
    says(tab, "#model-note", "label")
    if model:
        tab.select_option("#model", model)
        sync_api.expect(tab.locator("#text-label")).to_have_text("First text" if model == "pairs" else "Text")
    return tab


def until(tab: Any, expression: str) -> None:
    """Wait for an expression to be true; Playwright's own waiting evaluates texts in the page, which it forbids."""
    deadline = time.monotonic() + TIMEOUT_MS / 1000
    while not tab.evaluate(expression):
        assert time.monotonic() < deadline, expression
        tab.wait_for_timeout(20)


def text_of(tab: Any, selector: str) -> str:
    return tab.locator(selector).inner_text()


def says(tab: Any, selector: str, words: str) -> None:
    """Wait until an element says this."""
    sync_api.expect(tab.locator(selector)).to_contain_text(words, timeout=TIMEOUT_MS)


def choose(tab: Any, name: str, content: str | bytes) -> None:
    buffer = content.encode() if isinstance(content, str) else content
    tab.set_input_files("#file", {"name": name, "mimeType": "text/plain", "buffer": buffer})


def start_and_finish(tab: Any) -> None:
    tab.click("#start")
    says(tab, "#file-said", "Done")


def downloaded(tab: Any) -> str:
    with tab.expect_download() as waiting:
        tab.click("#download")
    return Path(waiting.value.path()).read_bytes().decode()  # with the line ends that it has


def predicted(capsys, run: Path, rows: Path, *options: str) -> list[list[str]]:
    """Label and score of each row, by ``leantune predict``."""
    capsys.readouterr()
    assert main(["predict", str(run), str(rows), *options]) == 0
    return [row[1:] for row in csv.reader(io.StringIO(capsys.readouterr().out))][1:]


def test_a_text_that_is_typed_gets_its_labels(tab, address, run, tmp_path, capsys):
    opened(tab, address)
    text = 'word1 word2 <b>word3</b> it\'s "so"'
    tab.fill("#text", text)
    tab.press("#text", "Control+Enter")
    tab.wait_for_selector(".bars li")
    rows = [each.inner_text().split() for each in tab.query_selector_all("#text-result .bars li")]
    path = tmp_path / "rows.txt"
    path.write_text(text, "utf-8")
    ((label, score),) = predicted(capsys, run, path)
    assert text_of(tab, "#text-result .big") == rows[0][0] == label
    assert sorted(row[0] for row in rows) == ["a", "b", "c"]
    shares = [float(row[-2]) for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert abs(sum(shares) - 100) < 0.5
    assert abs(shares[0] - 100 * float(score)) < 0.06
    assert "tokens" in text_of(tab, ".answer")
    says(tab, "#text-said", label)
    widths = tab.evaluate("[...document.querySelectorAll('.fill')].map(each => each.style.inlineSize)")
    assert float(widths[0].rstrip("%")) == pytest.approx(100 * float(score), abs=0.01)


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("sh") is None, reason="no curl here")
def test_the_curl_line_asks_the_same(tab, address):
    opened(tab, address)
    tab.fill("#text", 'word1 it\'s $HOME "word2"\nword3 ü')
    tab.click("summary")
    command = text_of(tab, "#curl")
    answer = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=60)
    found = json.loads(answer.stdout)
    tab.click("#text-form button")
    says(tab, "#text-result .big", found[0]["label"])
    assert "\n" not in command


def test_a_text_that_was_cut_is_said_to_be(tab, address):
    opened(tab, address)
    tab.fill("#text", "word1 " * 2_000)
    tab.click("#text-form button")
    says(tab, "#text-result .warning", "and was truncated")
    tab.fill("#text", "word1")
    tab.click("#text-form button")
    sync_api.expect(tab.locator("#text-result .warning")).to_have_count(0)


def test_a_classifier_of_pairs_gets_two_texts(tab, address):
    opened(tab, address, "pairs")
    tab.fill("#text", "word1")
    tab.click("#text-form button")
    says(tab, "#text-error", "second text")
    assert tab.evaluate("document.activeElement.id") == "pair"
    tab.fill("#pair", "word9")
    tab.press("#pair", "Control+Enter")
    tab.wait_for_selector(".bars li")
    assert text_of(tab, "#text-error") == ""
    opened(tab, address, "single")
    assert not tab.is_visible("#pair")


def test_all_of_it_can_be_done_with_keys(tab, address, tmp_path):
    choosers: list[Any] = []
    tab.on("filechooser", lambda chooser: choosers.append(chooser))
    opened(tab, address)
    seen = []

    def go_to(wanted: str) -> None:
        for _ in range(20):
            tab.keyboard.press("Tab")
            seen.append(
                tab.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")
            )
            assert (
                tab.evaluate(
                    "(each => getComputedStyle(each.matches('#file') ? each.nextElementSibling : each).outlineStyle)"
                    "(document.activeElement)"
                )
                == "solid"
            ), seen[-1]
            if seen[-1] == wanted:
                return
        raise AssertionError((wanted, seen))

    go_to("model")
    go_to("text")
    tab.keyboard.type("word1 word2")
    go_to("Classify")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(".bars li")
    go_to("file")
    tab.keyboard.press("Enter")
    (tmp_path / "rows.csv").write_text("text\nword1\nword2\n", "utf-8")
    deadline = time.monotonic() + TIMEOUT_MS / 1000
    while not choosers:
        assert time.monotonic() < deadline
        tab.wait_for_timeout(20)
    choosers[0].set_files(tmp_path / "rows.csv")
    says(tab, "#file-found", "2 rows")
    go_to("column")
    go_to("start")
    tab.keyboard.press("Enter")
    says(tab, "#file-said", "Done")
    assert tab.evaluate("document.activeElement.id") == "download"
    with tab.expect_download():
        tab.keyboard.press("Enter")


ROWS = [
    ["id", "text", "label"],
    ["1", "word1 word2 word3", "x"],
    ["2", 'word9 "word10", word11', "y"],
    ["3", "word1\nword2\r\nword17", "ü"],
    ["4", "Größe ÄÖÜ ß – 漢字 😀 word18", ""],
    ["5", "", "z"],
    ["6", "=word20;word21 'word1'", "z"],
] + [[str(i), f"{WORDS[i % 90]} {WORDS[7 * i % 90]}", "z"] for i in range(7, 200)]


def test_a_file_is_classified_as_predict_does(tab, address, run, tmp_path, capsys):
    path = tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(ROWS)
    opened(tab, address)
    tab.set_input_files("#file", path)
    says(tab, "#file-found", f"{len(ROWS) - 1} rows, 3 columns")
    assert tab.input_value("#column") == "1"
    start_and_finish(tab)
    found = list(csv.reader(io.StringIO(downloaded(tab), newline="")))
    assert [row[:3] for row in found] == ROWS
    assert found[0][3:] == ["predicted_label", "score"]
    expected = predicted(capsys, run, path)
    for row, (label, score) in zip(found[1:], expected, strict=True):
        if not row[1]:  # an empty text is not sent: servers refuse it
            assert row[3:] == ["", ""]
            continue
        assert float(row[4]) == pytest.approx(float(score), abs=0.01), row  # batches round differently
        assert row[3] == label or float(score) < 0.51
    table = [each.inner_text() for each in tab.query_selector_all("#table-rows tr td:nth-child(3)")]
    assert table == [row[3] or "This row has no text." for row in found[1:101]]
    says(tab, "#progress-text", "1 without a label")
    counts = [each.inner_text().split() for each in tab.query_selector_all("#file-labels li")]
    assert sum(int(number) for _, number in counts) == len(ROWS) - 2


@pytest.mark.parametrize(
    ("name", "content", "names", "texts"),
    [
        ("a.tsv", 'a\tsentence\nx\t5" disk\ny\t"in ""quotes"""\n', ["a", "sentence"], ['5" disk', 'in "quotes"']),
        ("a.csv", "nr;Text\r\n1;word1, word2\r\n\r\n2;\"a;\nb\"\r\n", ["nr", "Text"], ["word1, word2", "a;\nb"]),
        ("a.csv", "\ufeffx,y\n1,the longest here\n2,other\n", ["x", "y"], ["the longest here", "other"]),
        ("a.csv", "x,y\n1\n2,other,more\n", ["x", "y", "column 3"], ["", "other"]),
        ("a.txt", "one, \"line\"\n\nthree\n\n", ["text"], ['one, "line"', "", "three"]),
        ("a.csv", "Text\nwörd\n".encode("utf-16"), ["Text"], ["wörd"]),
    ],
)  # fmt: skip
def test_files_of_several_kinds_are_read(tab, address, name, content, names, texts):
    opened(tab, address)
    choose(tab, name, content)
    tab.wait_for_selector("#file-ready")
    assert tab.locator("#column option").all_inner_texts() == names
    start_and_finish(tab)
    text = downloaded(tab)
    assert text.startswith("\ufeff") == (not isinstance(content, str) or content.startswith("\ufeff"))
    rows = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline="")))
    place = rows[0].index(names[int(tab.input_value("#column"))])
    assert [row[place] for row in rows[1:]] == texts
    assert all(
        row[-2] in (("a", "b", "c") if text else ("",)) for row, text in zip(rows[1:], texts, strict=True)
    )


def test_a_file_of_many_chunks_is_read_whole(tab, address):
    """A quoted line end, and characters of several bytes, fall on the borders of what is read at once."""
    rows = [["text", "n"], *([f'wörd 漢 \n {i % 97 * "x"} "q"', str(i)] for i in range(12_000))]
    written = io.StringIO(newline="")
    csv.writer(written).writerows(rows)
    opened(tab, address)
    choose(tab, "rows.csv", written.getvalue())
    says(tab, "#file-found", "12,000 rows, 2 columns")
    tab.route("**/predict", lambda route: answer_all(route, "a"))
    start_and_finish(tab)
    found = list(csv.reader(io.StringIO(downloaded(tab), newline="")))
    assert [row[:2] for row in found] == rows
    assert {tuple(row[2:]) for row in found[1:]} == {("a", "0.75")}


def answer_all(route: Any, label: str) -> None:
    body = route.request.post_data_json
    route.fulfill(json=[[{"label": label, "score": 0.75}] for _ in body["inputs"]])


def test_a_row_without_names_is_a_row(tab, address):
    opened(tab, address)
    choose(tab, "rows.csv", "word1,x\nword2,y\n")
    says(tab, "#file-found", "1 row,")
    tab.uncheck("#has-names")
    says(tab, "#file-found", "2 rows")
    start_and_finish(tab)
    rows = list(csv.reader(io.StringIO(downloaded(tab))))
    assert [row[:2] for row in rows] == [["word1", "x"], ["word2", "y"]]
    assert all(len(row) == 4 for row in rows)


def test_pairs_of_a_file_are_classified_as_predict_does(tab, address, pairs_run, tmp_path, capsys):
    path = tmp_path / "pairs.csv"
    path.write_text('text,text_pair\nword1,word2\nword9 word10,"word3, word4"\n', "utf-8")
    opened(tab, address, "pairs")
    tab.set_input_files("#file", path)
    says(tab, "#file-found", "2 rows")
    assert (tab.input_value("#column"), tab.input_value("#pair-column")) == ("0", "1")
    start_and_finish(tab)
    found = list(csv.reader(io.StringIO(downloaded(tab))))[1:]
    expected = predicted(capsys, pairs_run, path)
    assert [float(row[3]) for row in found] == pytest.approx(
        [float(score) for _, score in expected], abs=0.01
    )
    choose(tab, "one.csv", "text\nword1\n")
    says(tab, "#file-found", "1 row")
    tab.click("#start")
    says(tab, "#file-error", "choose a file with two")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"\n\n", "empty lines"),
        ("a.csv", b"text,label\n", "column names but no rows"),
        ("a.csv", b"text\nGr\xfc\xdfe\n", "is not encoded in UTF-8. Save it as UTF-8"),
        ("a.csv", b'text,n\nok,1\n"never closed,2\n', "a quoted field is not closed"),
        ("a.csv", b"PK\x03\x04sheet", "workbook"),
        ("a.txt", b"a\0b", "is not a text file"),
    ],
)
def test_a_file_that_cannot_be_read_is_explained(tab, address, name, content, words):
    opened(tab, address)
    choose(tab, name, content)
    says(tab, "#file-error", words)
    assert not tab.is_visible("#start") or tab.is_disabled("#start")
    if b"\xfc" in content:
        tab.click("text=Read it as Windows-1252")
        says(tab, "#sample", "Grüße")
        assert text_of(tab, "#file-error") == ""
    else:
        choose(tab, "good.csv", "text\nword1\n")
        says(tab, "#file-found", "1 row")
        assert text_of(tab, "#file-error") == ""


def test_a_file_that_is_dropped_is_read(tab, address):
    opened(tab, address)
    tab.evaluate("""() => {
        const data = new DataTransfer();
        data.items.add(new File(['text\\nword1\\n'], 'dropped.csv'));
        document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}));
    }""")
    says(tab, "#file-note", "dropped.csv")
    says(tab, "#file-found", "1 row")


def test_texts_too_large_together_are_sent_apart_and_one_too_large_alone_is_said(tab, address):
    """The server takes 40,000 bytes."""
    tab.allowed = ("413", "ERR_")
    rows = ["word1 " * 500] * 40 + ["word2 " * 10_000, "word3"]
    opened(tab, address)
    choose(tab, "rows.txt", "\n".join(rows))
    start_and_finish(tab)
    says(tab, "#progress-text", "1 without a label")
    found = list(csv.reader(io.StringIO(downloaded(tab))))[1:]
    assert [row[0] for row in found] == rows
    assert [bool(row[1]) for row in found] == [True] * 40 + [False, True]
    says(tab, "td.refused", "oo large")


def test_a_full_server_is_asked_again(tab, address):
    tab.allowed = ("429",)
    opened(tab, address)
    refusals = []

    def refuse_first(route):
        if len(refusals) < 3:
            refusals.append(route)
            route.fulfill(status=429, headers={"Retry-After": "1"}, json={"error": "Model is overloaded"})
        else:
            route.continue_()

    tab.route("**/predict", refuse_first)
    choose(tab, "rows.txt", "\n".join(WORDS * 2))
    tab.click("#start")
    says(tab, "#file-wait", "Retrying in 1 s")
    says(tab, "#file-said", "Done")
    assert text_of(tab, "#file-wait") == text_of(tab, "#file-error") == ""


def test_work_stops_and_goes_on(tab, address):
    opened(tab, address)
    rows = WORDS * 200  # more than are done before the click
    choose(tab, "rows.txt", "\n".join(rows))
    asked = []
    tab.on("request", lambda request: asked.append(request.url.endswith("/predict")))
    tab.click("#start")
    until(tab, "document.querySelector('#progress').value > 0")
    tab.click("#stop")
    says(tab, "#start", "Continue with")
    num_done = tab.evaluate("document.querySelector('#progress').value")
    assert 0 < num_done < len(rows)
    half = list(csv.reader(io.StringIO(downloaded(tab))))[1:]
    assert sum(bool(row[1]) for row in half) == num_done
    tab.click("#start")
    says(tab, "#file-said", "Done")
    assert all(row[1] for row in list(csv.reader(io.StringIO(downloaded(tab))))[1:])


def test_a_server_that_stops_is_said_and_what_was_done_is_kept(tab, run):
    tab.allowed = ("ERR_",)
    with ServerProcess(run) as served:
        opened(tab, served.url)
        choose(tab, "rows.txt", "\n".join(WORDS * 100))
        tab.click("#start")
        until(tab, "document.querySelector('#progress').value > 0")
        served.process.kill()
        says(tab, "#file-error", "The server does not answer")
        says(tab, "#file-error", "are done and kept")
        says(tab, "#server-state", "does not answer")
        rows = list(csv.reader(io.StringIO(downloaded(tab))))[1:]
        assert 0 < sum(bool(row[1]) for row in rows) < len(rows)
        tab.fill("#text", "word1")
        tab.click("#text-form button")
        says(tab, "#text-error", "The server does not answer")


def test_a_server_that_is_not_ready_is_said_to_be(tab, address):
    opened(tab, address)
    says(tab, "#server-state", "Ready · 2 classifiers")
    stats = tab.evaluate("fetch('stats').then(answer => answer.json())")
    tab.route(
        "**/stats", lambda route: route.fulfill(json={**stats, "is_ready": False, "waiting_requests": 7})
    )
    says(tab, "#server-state", "Not ready")
    says(tab, "#live-waiting", "7")


def test_before_the_list_of_classifiers_has_loaded_there_is_none(tab, address):
    waiting = []
    tab.route("**/v1/models", lambda route: waiting.append(route))
    tab.goto(address)
    choose(tab, "rows.txt", "word1")
    tab.click("#text-form button")
    tab.click("#start")
    for error in ("#text-error", "#file-error"):
        says(tab, error, "There is no classifier yet")
    waiting[0].continue_()
    says(tab, "#model-note", "3 labels")
    assert "There is no classifier yet" in text_of(tab, "#text-error"), "until it is pressed again"
    tab.fill("#text", "word1")
    tab.click("#text-form button")
    tab.wait_for_selector(".bars li")
    assert text_of(tab, "#text-error") == ""
    start_and_finish(tab)
    assert text_of(tab, "#file-error") == ""


def test_a_server_without_classifiers_says_so(tab, tmp_path):
    tab.allowed = ("401", "ERR_")  # before the key is given, and when the server ends before the tab does
    with ServerProcess("--adapter-root", tmp_path, "--api-key", KEY) as served:
        tab.goto(served.url)
        tab.fill("#key", KEY)
        tab.press("#key", "Enter")
        says(tab, "#model-error", "The server has no classifiers")
        choose(tab, "rows.txt", "word1")
        tab.fill("#text", "word1")
        tab.click("#text-form button")
        tab.click("#start")
        tab.wait_for_timeout(2_500)  # the page has asked for the state of the server again
        for error in ("#text-error", "#file-error", "#model-error"):
            says(tab, error, "The server has no classifiers")


def test_the_key_is_asked_for_and_kept_for_this_tab_only(tab, run):
    tab.allowed = ("401", "ERR_")  # the server ends before the tab does
    with ServerProcess(run, "--api-key", KEY) as served:
        tab.goto(served.url)
        tab.wait_for_selector("#key")
        assert tab.evaluate("document.activeElement.id") == "key"
        tab.keyboard.type("wrong")
        tab.keyboard.press("Enter")
        says(tab, "#key-error", "rejected this key")
        tab.fill("#key", KEY)
        tab.press("#key", "Enter")
        says(tab, "#model-note", "3 labels")
        assert not tab.is_visible("#key")
        tab.fill("#text", "word1")
        tab.press("#text", "Control+Enter")
        tab.wait_for_selector(".bars li")
        tab.click("summary")
        assert KEY not in text_of(tab, "#curl")
        assert "Authorization: Bearer $LEANTUNE_API_KEY" in text_of(tab, "#curl")
        assert tab.evaluate("[localStorage.length, document.cookie, sessionStorage.length]") == [0, "", 1]
        assert KEY not in tab.content()
        opened(tab, served.url)  # the same tab, again
        assert not tab.is_visible("#key")
        tab.click("#forget-key")
        tab.wait_for_selector("#key")
        assert tab.evaluate("sessionStorage.length") == 0


def test_what_the_server_does_is_shown(tab, address):
    opened(tab, address)
    until(tab, "document.querySelector('#live-rate').textContent === '0'")
    for _ in range(3):
        tab.evaluate("""fetch('predict', {method: 'POST', body: JSON.stringify({inputs: 'word1', model: 'single'}),
                        headers: {'Content-Type': 'application/json'}}).then(answer => answer.json())""")
    says(tab, "#live-latency", "ms")
    assert float(text_of(tab, "#live-rate")) > 0
    assert "M" in tab.get_attribute("#chart-rate .curve", "d")
    assert "now" in tab.get_attribute("#chart-rate", "aria-label")
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.evaluate("""Object.defineProperty(document, 'hidden', {value: true, configurable: true});
                    document.dispatchEvent(new Event('visibilitychange'))""")
    tab.wait_for_timeout(2_500)
    assert asked == []


def test_labels_beyond_ten_are_shown_when_asked_for_and_a_threshold_is_drawn(tab, address):
    opened(tab, address)
    info = tab.evaluate("fetch('info?model=single').then(answer => answer.json())")
    tab.route("**/info?*", lambda route: route.fulfill(json={**info, "threshold": 0.25}))
    answer = [{"label": f"<i>{i}</i>", "score": 0.5 / (i + 1)} for i in range(30)]
    tab.route("**/predict", lambda route: route.fulfill(json=answer))
    opened(tab, address)
    tab.fill("#text", "word1")
    tab.click("#text-form button")
    sync_api.expect(tab.locator(".bars li")).to_have_count(10)
    sync_api.expect(tab.locator(".bars li.first")).to_have_count(2)
    assert tab.evaluate("document.querySelector('.threshold').style.insetInlineStart") == "25%"
    tab.click("text=Show all 30")
    sync_api.expect(tab.locator(".bars li")).to_have_count(30)
    assert text_of(tab, ".bars li:last-child bdi") == "<i>29</i>"


def test_one_of_many_classifiers_is_searched(tab, address):
    opened(tab, address)
    assert not tab.is_visible("#search")
    models = tab.evaluate("fetch('v1/models').then(answer => answer.json())")
    many = [{**models["data"][0], "id": name} for name in [*(f"team-{i}" for i in range(40)), "single"]]
    tab.route("**/v1/models", lambda route: route.fulfill(json={**models, "data": many}))
    asked = []
    info = tab.evaluate("fetch('info?model=single').then(answer => answer.json())")

    def answer_info(route):
        asked.append(route.request.url.split("=")[1])
        route.fulfill(json={**info, "served_model_name": asked[-1]})

    tab.route("**/info?*", answer_info)
    opened(tab, address)
    tab.fill("#search", "TEAM-3")
    says(tab, "#search-found", "11 of 41 classifiers")
    tab.press("#search", "Enter")
    assert tab.input_value("#model") == "team-3"
    tab.wait_for_timeout(100)
    assert asked == ["team-0", "team-3"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_all_of_it_fits_has_names_and_can_be_read(chromium, address, width, scheme):
    context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = opened(context.new_page(), address)
    long = "y" * 300
    answer = [{"label": letter * 200, "score": 1 / 12} for letter in "abcdefghijkl"]
    page.fill("#text", long * 3)
    page.route("**/predict", lambda route: route.fulfill(json=answer))
    page.click("#text-form button")
    page.click("text=Show all 12")
    page.unroute("**/predict")
    page.click("summary")
    choose(page, f"{long}.csv", f"{long},text\n{long},{long}\nword1,word2\n")
    start_and_finish(page)
    choose(page, "bad.csv", b"")
    says(page, "#file-error", "is empty")
    choose(page, f"{long}.csv", f"{long},text\n{long},{long}\nword1,word2\n")
    start_and_finish(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(STICKS_OUT) == []
    assert page.evaluate(UNLABELLED) == []
    assert page.evaluate(FAINT) == []
    assert page.evaluate("document.querySelectorAll('h1, h2').length") == 5
    assert page.evaluate("new Set([...document.querySelectorAll('[id]')].map(each => each.id)).size") == (
        page.evaluate("document.querySelectorAll('[id]').length")
    )
    context.close()


def test_a_file_of_a_hundred_thousand_rows_does_not_freeze_the_page(tab, address, tmp_path):
    path = tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8") as file:
        file.write("n,text\n")
        for i in range(100_000):
            words = f"{WORDS[i % 90]} {WORDS[i % 89]} \n{WORDS[i % 88]}"
            file.write(f'{i},"{words} a text as people write it"\n')
    opened(tab, address)
    tab.evaluate("""() => {
        window.longest = 0;
        let last = performance.now();
        setInterval(() => {
            window.longest = Math.max(window.longest, performance.now() - last);
            last = performance.now();
        }, 10);
    }""")
    tab.set_input_files("#file", path)
    says(tab, "#file-found", "100,000 rows")
    tab.click("#start")
    until(tab, "document.querySelector('#progress').value > 500")
    tab.click("#stop")
    assert sum(1 for _ in csv.reader(io.StringIO(downloaded(tab), newline=""))) == 100_001
    assert tab.evaluate("window.longest") < 1_000  # ms; 90 on an idle machine


def test_the_page_may_load_its_own_files_only(tab, address):
    response = tab.goto(address)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "data:" not in policy
    assert response.headers["cache-control"] == "no-cache"


def test_the_api_can_be_read_without_a_network(tab, address):
    tab.goto(f"{address}/docs")
    says(tab, "#swagger-ui", "/predict")
    says(tab, "#swagger-ui", "/v1/models")
