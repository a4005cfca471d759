"""The page of runs in a real browser: a thousand runs, filters, order, opening, keys, hostile text.

Skipped where there is no Chromium (Debian's package ``chromium``).
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlm_executor.journal import Journal
from rlm_executor.viewer import write_page
from rlm_executor.viewer.digest import TEXT_CHARS
from scripts.bench_viewer import make_up
from tests.chromium import Chromium, Page, find_chromium
from tests.rlm_executor.journals import HOSTILE, begin, call, end, turn, whole

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")

RUNS = 1000
NAMES = "[...document.querySelectorAll('#rows tr')].map(row => row.cells[0].textContent)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as running:
        yield running


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("viewer")
    make_up(folder / "data", RUNS)
    write_page([folder / "data"], folder / "view.html")
    return folder / "view.html"


@pytest.fixture
async def page(browser: Chromium) -> AsyncIterator[Page]:
    """A tab in which nothing fails and nothing is loaded but the page."""
    async with browser.page() as tab:
        yield tab
        await tab.js("1")  # all events until now have come
        assert tab.errors == []
        assert [url for url in tab.requests if not url.startswith("file:")] == []
        assert len({url.split("#")[0] for url in tab.requests}) == 1


async def put(page: Page, field: str, value: str) -> None:
    """Give a filter a value, as its user would."""
    await page.js(
        f"(field => {{ field.value = {json.dumps(value)};"
        " field.dispatchEvent(new Event('input', {bubbles: true})); })"
        f"(document.getElementById('{field}'))"
    )


async def shown(page: Page) -> list[str]:
    names: list[str] = await page.js(NAMES)
    return [name.removeprefix("journals/").removesuffix(".jsonl") for name in names]


async def totals(page: Page) -> str:
    text: str = await page.js("document.getElementById('totals').innerText")
    return text


async def opened(page: Page) -> str:
    """The text of the open run, once there is one."""
    await page.wait("!document.getElementById('run').hidden")
    text: str = await page.js("document.getElementById('run').innerText")
    return text


async def unfold(page: Page, words: str) -> None:
    """Open the first closed fold with these words in its summary."""
    found = await page.js(
        "(() => { const fold = [...document.querySelectorAll('#run details:not([open])')]"
        f".find(one => one.firstChild.textContent.includes({json.dumps(words)}));"
        " fold?.firstChild.click(); return Boolean(fold); })()"
    )
    assert found, words
    await page.wait("document.querySelectorAll('details[open] > :only-child').length === 0")


async def test_a_thousand_runs_open(page: Page, thousand: Path) -> None:
    await page.goto(thousand.as_uri())
    assert await page.js("document.title") == "1,000 runs, mean score 0.60"
    told = await totals(page)
    assert "1,000 runs" in told and "mean score 0.600 of 1,000" in told
    assert "kept 600, dropped 400" in told and "tokens 1,846,000 root" in told
    names = await shown(page)
    assert names[:2] == ["000000", "000001"] and len(names) < RUNS
    await page.js("document.getElementById('list').scrollTo(0, 1e9)")
    await page.wait(f"document.querySelectorAll('#rows tr').length > {len(names)}")
    assert (await shown(page))[:400] == [f"{index:06d}" for index in range(400)]


async def test_filters(page: Page, thousand: Path) -> None:
    await page.goto(thousand.as_uri())
    await put(page, "family", "=oolong")
    assert (await shown(page))[:3] == ["000001", "000004", "000007"]
    assert "333 of 1,000 runs" in await totals(page)
    await put(page, "dropped", "=single_turn")
    assert (await shown(page))[:2] == ["000004", "000019"]
    await put(page, "family", "any")
    await put(page, "least", "0.5")
    assert await shown(page) == []
    assert await page.js("document.getElementById('more').textContent") == "No run fits."
    await put(page, "dropped", "kept")
    assert "600 of 1,000 runs" in await totals(page)
    await put(page, "least", "")
    await put(page, "dropped", "any")
    await put(page, "stop", "=max_turns")
    assert (await shown(page))[:3] == ["000000", "000007", "000014"]
    await put(page, "search", "QUESTION 000007")
    assert await shown(page) == ["000007"]
    await put(page, "search", "question 000007 nowhere")
    assert await shown(page) == []
    await page.js("document.querySelector('[type=reset]').click()")
    await page.wait("document.getElementById('totals').innerText.startsWith('1,000 runs')")


async def test_every_column_sorts_both_ways(page: Page, thousand: Path) -> None:
    await page.goto(thousand.as_uri())
    keys = await page.js("[...document.querySelectorAll('th')].map(head => head.dataset.key)")
    assert keys[0] == "name" and {"score", "seconds", "tokens_sub", "question"} <= set(keys)
    for key in keys:
        for _ in range(2):
            await page.js(f"document.querySelector('th[data-key={key}] button').click()")
            down = await page.js(f"document.querySelector('th[data-key={key}]').ariaSort")
            values: list[Any] = await page.js(f"matching.map(run => run['{key}'] || 0)")
            known = [value for value in values if value != 0]
            assert known == sorted(known, reverse=down == "descending"), key
            assert (await shown(page))[0] in await page.js("matching[0].name")


async def test_a_run_and_its_sub_calls_open(page: Page, thousand: Path) -> None:
    await page.goto(thousand.as_uri())
    await page.js("document.querySelectorAll('#rows tr')[10].click()")
    text = await opened(page)
    assert text.count("Question 10:") == 1 and "Turn 4" in text
    assert "str, 80,000 characters, 900 lines" in text and "400 tokens in, 60 out" in text
    assert f"{TEXT_CHARS:,} of" in text  # the long output of its third cell
    assert "8 sub-calls" in text and "prompt\n" not in text
    await unfold(page, "8 sub-calls")
    assert await page.js("document.querySelectorAll('#run .nested > details').length") == 8
    await unfold(page, "3. 2: ")
    assert "prompt\n2: " in await opened(page)
    assert await page.js("document.querySelectorAll('#run pre.code').length") == 4


async def test_keys_and_addresses(page: Page, thousand: Path) -> None:
    await page.goto(thousand.as_uri())
    await page.key("/")
    await page.type("niah")
    assert (await shown(page))[:3] == ["000000", "000003", "000006"]
    await page.key("ArrowDown")
    await page.key("Enter")
    assert "000003.jsonl" in await opened(page)
    assert await page.js("decodeURIComponent(location.hash)") == "#journals/000003.jsonl"
    await page.key("j")
    await page.wait("document.querySelector('#run h2').textContent.includes('000006')")
    await page.key("k")
    await page.wait("document.querySelector('#run h2').textContent.includes('000003')")
    await page.key("Escape")
    await page.wait("document.getElementById('run').hidden")
    await page.key("ArrowUp")
    await page.key("Enter")
    assert "000000.jsonl" in await opened(page)
    await page.goto(thousand.as_uri() + "#journals%2F000999.jsonl")
    await page.js("location.reload()")
    await page.wait("document.querySelector('#run h2')?.textContent.includes('000999')")


async def test_hostile_text_is_inert(page: Page, tmp_path: Path) -> None:
    keys = ("question", "prompt", "reply", "code", "answer")
    whole(tmp_path / "j.jsonl", **dict.fromkeys(keys, HOSTILE))
    whole(tmp_path / "<img src=x onerror=alert(1)>.jsonl")
    out = tmp_path / "view.html"
    write_page([tmp_path], out)
    await page.goto(out.as_uri())
    await page.js("location.hash = hashOf(runs[1])")
    await opened(page)
    await unfold(page, "sent:")
    await unfold(page, "1 sub-call")
    await unfold(page, "1. ")
    text = await opened(page)
    stored = HOSTILE.replace("\ud800", "?")
    assert text.count(stored) >= 5
    assert await page.js("document.title") == "2 runs"
    assert await page.js("document.querySelectorAll('img').length") == 0
    assert await page.js("document.querySelectorAll('script').length") == 4
    # The page's own policy holds even where a text got in as HTML.
    await page.js("document.body.insertAdjacentHTML('beforeend', '<b onclick=\"owned=1\">b</b>')")
    await page.js("document.body.lastElementChild.click()")
    assert await page.js("typeof owned") == "undefined"
    assert any("Content Security Policy" in error for error in page.errors)
    page.errors.clear()


async def test_nested_runs_and_unfinished_ones(page: Page, tmp_path: Path) -> None:
    journal = begin(tmp_path / "runs" / "j.jsonl")
    child: Journal = journal.child()
    child.run(question="", context={}, models=["root", "leaf"], card={})
    turn(child, 0, "I am below.")
    end(child, "from below")
    call(journal, 1, "go down", "from below", child=child.node, usage=None)
    turn(journal, 0, "before\nrlm_query('go down')\nbehind", "rlm_query('go down')")
    call(journal, 2, "and then", "yes")
    journal.close()
    torn = tmp_path / "runs" / "torn.jsonl"
    torn.write_bytes((tmp_path / "runs" / "j.jsonl").read_bytes()[:50])
    out = tmp_path / "view.html"
    write_page([tmp_path / "runs"], out)
    await page.goto(out.as_uri())
    assert "unfinished 2" in await totals(page)
    await page.js("location.hash = hashOf(runs[0])")
    text = await opened(page)
    assert "the journal ends in the middle of the run" in text and "Cell that was not over" in text
    assert text.index("before") < text.index("Cell 1") < text.index("behind")
    await unfold(page, "1 run below")
    await unfold(page, "go down")
    assert "I am below." in await opened(page)
    await page.js("location.hash = hashOf(runs[1])")
    await page.wait("document.getElementById('run').innerText.includes('before its first line')")
