"""Prints figures of the page by chromium's own tracing: load, typing, streaming, memory.

    python scripts/web_figures.py [MODEL]

Needs the built page (`make web`), playwright, and chromium in PATH. Times are of this machine,
which runs the model as well: a main thread's own time (CPU) depends on that less than the clock's.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import quantiles
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

CATEGORIES = ["toplevel", "devtools.timeline", "disabled-by-default-devtools.timeline"]
TURNS = (10, 500)
SLOWER = (1, 4)
TYPED = "The quick brown fox jumps over the lazy dog, and the llama looks on. "
QUESTION = "Tell me a long story of a llama, with a list and a table."
STREAMED_MS = 8000

ANSWER = """Point {k} has **three parts**, and `{k}` of them are told in a list:

- the first, of {k} words
- the second, with a [link](https://example.com/{k})
- the third

| name | value | of |
|---|---:|---|
| rate | {k}.5 | tokens |
| cost | ${k} | cents |

```python
def step_{k}(rows: list[int], by: int = {k}) -> list[int]:
    # Each row by one factor.
    return [row * by for row in rows if row % {k} != 0]
```

It follows that $x_{k} = \\\\frac{{a^2}}{{{k}}}$, and

$$\\\\sum_{{i=1}}^{{{k}}} i = \\\\frac{{{k} ({k} + 1)}}{{2}}$$

which ends point {k} in a sentence of some length that goes over more than one line of the column.
"""

# What the page itself can tell; layout shifts and long tasks are watched from the start.
OBSERVE = """
window.seen = {shifts: 0, long: [], lcp: 0, keys: []};
new PerformanceObserver(list => { for (const e of list.getEntries())
  if (!e.hadRecentInput) seen.shifts += e.value; }).observe({type: 'layout-shift', buffered: true});
new PerformanceObserver(list => { for (const e of list.getEntries())
  seen.long.push([e.startTime, e.duration]); }).observe({type: 'longtask', buffered: true});
new PerformanceObserver(list => { seen.lcp = list.getEntries().at(-1).startTime; })
  .observe({type: 'largest-contentful-paint', buffered: true});
addEventListener('keydown', event => requestAnimationFrame(() => {
  const {port1, port2} = new MessageChannel();
  port1.onmessage = () => seen.keys.push(performance.now() - event.timeStamp);
  port2.postMessage(0);
}), true);
"""
LOAD = """() => {
  const first = performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0;
  const blocked = seen.long.filter(([at]) => at >= first);
  return {first, largest: seen.lcp, shifts: seen.shifts,
    blocked: blocked.reduce((sum, [, ms]) => sum + ms - 50, 0),
    files: [...performance.getEntriesByType('navigation'),
      ...performance.getEntriesByType('resource')].map(e =>
        [e.name.split('?')[0].split('.').at(-1), e.encodedBodySize, e.decodedBodySize])};
}"""


def write_chat(path: Path, turns: int) -> None:
    """Write a chat with code, tables and formulas as a list of messages."""
    messages = []
    for k in range(1, turns // 2 + 1):
        messages.append({"role": "user", "content": f"What is point {k}?"})
        messages.append({"role": "assistant", "content": ANSWER.format(k=k).replace("\\\\", "\\")})
    path.write_text(json.dumps([{"title": f"{turns} turns", "messages": messages}]))


@contextmanager
def serving(model: list[str]) -> Iterator[str]:
    """Start `cullama serve` on a free port; yields its address."""
    # A short context: 500 turns would be read for minutes, and the page leaves the oldest out.
    serve = [sys.executable, "-m", "cullama", "serve", *model, "--port", "0"]
    serve += ["--context", "1024", "--threads", "1"]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+(?=/v1)", server.stdout.readline())
            if not found:
                sys.exit("the server did not start")
            yield found[0]
        finally:
            server.terminate()


def spread(values: list[float]) -> str:
    if len(values) < 2:
        return "–"
    cuts = quantiles(values, n=20, method="inclusive")
    return f"{cuts[9]:6.1f} {cuts[18]:6.1f}"


# --- the load -----------------------------------------------------------------------------------


def show_load(browser: Browser, url: str, slower: int) -> None:
    """Print what loading the start page takes."""
    with visiting(browser, url, slower) as page:
        page.wait_for_timeout(4000 * slower)
        load = page.evaluate(LOAD)
        print(
            f"load, CPU {slower}x slower: first contentful paint {load['first']:.0f} ms, largest "
            f"{load['largest']:.0f} ms, blocked {load['blocked']:.0f} ms, "
            f"layout shift {load['shifts']:.4f}"
        )
        if slower > 1:
            return
        kinds: dict[str, list[int]] = {}
        for kind, sent, whole in load["files"]:
            name = kind if kind in ("js", "css", "svg") else "html and data"
            sums = kinds.setdefault(name, [0, 0, 0])
            for k, value in enumerate((1, sent, whole)):
                sums[k] += value
        for kind, (count, sent, whole) in sorted(kinds.items()):
            print(f"  {kind}: {count} files, {sent:,} bytes sent, {whole:,} unpacked")


# --- a chat --------------------------------------------------------------------------------------


def import_chat(page: Page, path: Path, turns: int) -> None:
    page.locator(".sidefoot .btn").first.click()
    page.locator("input[type=file]").set_input_files(path)
    page.get_by_text("1 chat read").wait_for()
    page.keyboard.press("Escape")
    began = page.evaluate("performance.now()")
    page.locator(".chatrow a").first.click()
    page.wait_for_function("n => document.querySelectorAll('.turn').length >= n", arg=turns)
    page.locator(".answer.last .code").last.wait_for()
    print(f"  opened in {page.evaluate('performance.now()') - began:.0f} ms")
    page.wait_for_timeout(2000)


def show_typing(browser: Browser, page: Page, label: str) -> None:
    """Type, and print from key to paint, and the main thread's own time for a key."""
    page.locator("#ask").click()
    page.evaluate("seen.keys.length = 0")
    with tracing(browser, page) as events:
        page.keyboard.type(TYPED, delay=60)
        page.wait_for_timeout(300)
    tasks = main_tasks(events)
    starts = [
        event["ts"]
        for event in events
        if event["name"] == "EventDispatch" and event["args"]["data"]["type"] == "keydown"
    ]
    print(f"  {label}: key to paint (p50, p95)    {spread(page.evaluate('seen.keys'))} ms")
    print(f"  {label}: main thread a key, CPU     {spread(between(tasks, starts, 'tdur'))} ms")
    page.locator("#ask").fill("")


def show_streaming(browser: Browser, page: Page, label: str) -> None:
    """Stream an answer; print the main thread's time from one piece that came to the next."""
    page.locator("#ask").fill(QUESTION)
    page.keyboard.press("Enter")
    page.locator(".answer.last .prose.writing").wait_for(timeout=600_000)
    page.wait_for_timeout(1000)
    count = "Number(document.querySelector('.answer.last .note dd')?.textContent.replace(',', ''))"
    page.evaluate("seen.shifts = 0")
    before = page.evaluate(count)
    with tracing(browser, page) as events:
        page.wait_for_timeout(STREAMED_MS)
        tokens = page.evaluate(count) - before
    stop = page.get_by_role("button", name="Stop", exact=True)
    if stop.count():
        stop.click()
    tasks = main_tasks(events)
    starts = [event["ts"] for event in events if event["name"] == "ResourceReceivedData"]
    total = sum(task.get("tdur", 0) for task in tasks) / 1000
    print(f"  {label}: main thread a token, clock {spread(between(tasks, starts, 'dur'))} ms")
    print(f"  {label}: main thread a token, CPU   {spread(between(tasks, starts, 'tdur'))} ms")
    each = total / max(1, tokens)
    print(f"  {label}: {tokens} tokens, {len(starts)} pieces, {each:.1f} ms of CPU a token")
    print(f"  {label}: layout shift {page.evaluate('seen.shifts'):.4f}")


def show_memory(page: Page) -> None:
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    metrics = session.send("Performance.getMetrics")["metrics"]
    heap = next(each["value"] for each in metrics if each["name"] == "JSHeapUsedSize")
    elements = page.evaluate("document.querySelectorAll('*').length")
    print(f"  memory: {heap / 1e6:.1f} MB of scripts' heap, {elements:,} elements")


def main_tasks(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the tasks of the page's main thread: of that which runs the most of its scripts."""
    calls: dict[tuple[int, int], int] = {}
    for event in events:
        if event["name"] == "FunctionCall":
            thread = (event["pid"], event["tid"])
            calls[thread] = calls.get(thread, 0) + 1
    thread = max(calls, key=lambda each: calls[each])
    return [
        event
        for event in events
        if event["name"] in ("ThreadControllerImpl::RunTask", "RunTask")
        and (event["pid"], event["tid"]) == thread
    ]


def between(tasks: list[dict[str, Any]], starts: list[float], field: str) -> list[float]:
    """Return the milliseconds of tasks that begin from one start to the next."""
    starts = sorted(starts)
    sums = [0.0] * max(0, len(starts) - 1)
    spans = list(pairwise(starts))
    k = 0
    for task in sorted(tasks, key=lambda each: float(each["ts"])):
        # The task that a start lies in belongs to it.
        end = task["ts"] + task.get("dur", 0)
        while k < len(spans) and end > spans[k][1]:
            k += 1
        if k == len(spans):
            break
        if end > spans[k][0]:
            sums[k] += task.get(field, 0) / 1000
    return sums


@contextmanager
def tracing(browser: Browser, page: Page) -> Iterator[list[dict[str, Any]]]:
    """Fill a list with what chromium traced."""
    events: list[dict[str, Any]] = []
    browser.start_tracing(page=page, categories=CATEGORIES)
    try:
        yield events
    finally:
        events += json.loads(browser.stop_tracing())["traceEvents"]


@contextmanager
def visiting(browser: Browser, url: str, slower: int) -> Iterator[Page]:
    """Open the page in a profile of its own."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, locale="en-GB")
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.add_init_script(OBSERVE)
    throttle(page, slower)
    page.goto(url)
    try:
        yield page
    finally:
        context.close()


def throttle(page: Page, slower: int) -> None:
    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": slower})


def show_chat(browser: Browser, url: str, folder: Path, turns: int) -> None:
    print(f"chat of {turns} turns")
    path = folder / f"{turns}.json"
    write_chat(path, turns)
    with visiting(browser, url, 1) as page:
        import_chat(page, path, turns)
        for slower in SLOWER:
            label = f"CPU {slower}x slower"
            throttle(page, slower)
            show_typing(browser, page, label)
            show_streaming(browser, page, label)
        throttle(page, 1)
        show_memory(page)


def main() -> None:
    with (
        serving(sys.argv[1:2]) as url,
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for slower in SLOWER:
            show_load(browser, url, slower)
        for turns in TURNS:
            show_chat(browser, url, Path(folder), turns)
        browser.close()


if __name__ == "__main__":
    main()
