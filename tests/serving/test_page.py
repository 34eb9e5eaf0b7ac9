"""The page at /: one file that needs nothing else, and what people do with it in a browser."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from tfgpt.serving.app import PAGE

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = """--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync
 --disable-dev-shm-usage --disable-extensions --disable-component-update --hide-scrollbars --remote-debugging-pipe"""
# The DevTools protocol wants its pipes at 3 and 4.
PIPES = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class Tags(HTMLParser):
    """What a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def of(self, *names):
        """Attributes of all tags with these names."""
        return [attributes for tag, attributes in self.tags if tag in names]


def test_the_page_is_one_file_that_asks_nobody_else(server):
    answer = httpx.get(server.url + "/")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    text = answer.text
    assert text == PAGE.read_text("utf-8") and len(text.encode()) < 40_000 and len(text.splitlines()) <= 300
    assert not re.search(r"https?://|\burl\(|@import|\bimport\(", text)
    assert [a.get(key) for _, a in Tags(text).tags for key in ("src", "href") if a.get(key)] == ["data:,"]


def test_no_text_becomes_markup():
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", PAGE.read_text("utf-8"))


def test_everything_to_fill_in_has_a_label():
    page = Tags(PAGE.read_text("utf-8"))
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    fields = [a["id"] for a in page.of("input", "select", "textarea")]
    assert len(fields) == 10 and sorted(fields) == sorted(a["for"] for a in page.of("label"))
    assert {a["aria-describedby"] for _, a in page.tags if "aria-describedby" in a} <= set(ids)


class Browser:
    """A headless Chromium with one empty tab, driven through the DevTools protocol."""

    def __init__(self, program, folder):
        theirs, mine = os.pipe(), os.pipe()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (theirs[0], mine[1])]
        words = [sys.executable, "-S", "-c", PIPES, *map(str, high), program, *QUIET.split()]
        words += [f"--user-data-dir={folder / 'profile'}", "about:blank"]
        with open(folder / "log.txt", "wb") as log:
            self.process = subprocess.Popen(words, pass_fds=high, stdout=log, stderr=log, start_new_session=True)
        for fd in (theirs[0], mine[1], *high):
            os.close(fd)
        self._to, self._from = theirs[1], mine[0]
        self._read, self._number, self._session = b"", 0, None
        tab = next(t for t in self.do("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self.do("Target.attachToTarget", targetId=tab["targetId"], flatten=True)["sessionId"]

    def do(self, method, **values):
        """The result of one command; events are read past."""
        self._number += 1
        asked = {"id": self._number, "method": method, "params": values}
        os.write(self._to, json.dumps(asked | ({"sessionId": self._session} if self._session else {})).encode() + b"\0")
        end = time.monotonic() + 60
        ready = select.poll()  # `select` refuses descriptors from 1,024 on, which a long test process may reach
        ready.register(self._from, select.POLLIN)
        while True:
            while b"\0" not in self._read:
                assert ready.poll(1000 * max(0, end - time.monotonic())), f"no answer to {method}"
                part = os.read(self._from, 1 << 20)
                assert part, "the browser is gone"
                self._read += part
            found, _, self._read = self._read.partition(b"\0")
            answer = json.loads(found)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def js(self, words):
        """The value of an expression."""
        found = self.do("Runtime.evaluate", expression=words, returnByValue=True, awaitPromise=True, userGesture=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, words, seconds=60):
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.js(f"!!({words})"):
            assert time.monotonic() < end, (words, self.js("document.body.innerText"))
            time.sleep(0.05)

    def open(self, url, width=1200, height=800, *, dark=False):
        """Go to a page, and wait for its list of models or its first error."""
        self.do(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.do("Emulation.setEmulatedMedia", features=[scheme])
        self.do("Page.navigate", url=url)
        self.until("document.readyState == 'complete' && !!document.querySelector('#model option, #error:not(:empty)')")

    def fill(self, **values):
        """Type into fields."""
        for name, value in values.items():
            self.js(f"""(() => {{ const field = document.getElementById({json.dumps(name)});
                field.value = {json.dumps(value)};
                for (const kind of ["input", "change"]) field.dispatchEvent(new Event(kind, {{ bubbles: true }})); }})()""")

    def press(self, key, modifiers=0):
        """One key, with Ctrl if `modifiers` is 2."""
        code = {"Escape": 27, "Enter": 13, "Tab": 9}[key]
        for kind in ("rawKeyDown", "keyUp"):
            self.do(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, modifiers=modifiers, windowsVirtualKeyCode=code
            )

    def text(self, name):
        """What an element shows."""
        return self.js(f"document.getElementById({json.dumps(name)}).innerText")

    def picture(self, path):
        """A screenshot."""
        path.write_bytes(base64.b64decode(self.do("Page.captureScreenshot", format="png")["data"]))

    def end(self):
        """Let nothing of it remain."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._to)
        os.close(self._from)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium on this machine")
    found = Browser(program, tmp_path_factory.mktemp("browser"))
    yield found
    found.end()


WROTE = "['Done.', 'Stopped.'].includes(document.getElementById('state').textContent)"
TOKENS = "[...document.querySelectorAll('#text .t')].map((t) => t.textContent)"


@pytest.mark.slow
def test_a_text_is_written_token_by_token(server, browser):
    browser.open(server.url)
    assert browser.js("[...document.querySelectorAll('#model option')].map((o) => o.value)") == ["general", "other"]
    hard = """It's <b>"one"</b> \\ $HOME `x` !é\nand"""
    browser.fill(prompt=hard, seed="3", max_tokens="40", model="other")
    browser.js("document.getElementById('prompt').focus()")
    browser.press("Enter", modifiers=2)
    browser.until(WROTE)
    asked = {"model": "other", "prompt": hard, "max_tokens": 40, "seed": 3, "temperature": 0.8, "top_k": 40}
    same = server.post("/v1/completions", asked | {"top_p": 0.95, "repetition_penalty": 1.1}).json()
    assert "".join(browser.js(TOKENS)) == same["choices"][0]["text"]
    assert browser.js("document.querySelector('#text .given').textContent") == hard
    facts = browser.text("facts")
    assert (
        same["system_fingerprint"].removeprefix("fp_") in facts and f"({same['choices'][0]['finish_reason']})" in facts
    )
    assert f"Tokens\n{same['usage']['completion_tokens']}\n" in facts and "Tokens/s" in facts

    browser.js("document.getElementById('colours').click()")
    assert browser.js("document.querySelectorAll('#legend li').length") == 5 and "double line" in browser.text("legend")
    assert browser.js("[...document.querySelectorAll('#text .t')].every((t) => / %$/.test(t.title))")

    browser.js("document.querySelector('#curl').open = true")
    words = shlex.split(browser.text("command"))
    said = subprocess.run(words, capture_output=True, timeout=60).stdout.decode()
    events = [json.loads(line[6:]) for line in said.splitlines() if line.startswith("data: {")]
    assert "".join(event["choices"][0]["text"] for event in events) == same["choices"][0]["text"]
    browser.js("document.getElementById('copy').click()")
    browser.until("document.getElementById('copied').textContent")


@pytest.mark.slow
def test_escape_stops_the_text_at_the_server_too(server, browser):
    browser.open(server.url)
    before = server.metric('tfgpt_generated_tokens_total{model="general"}')
    # The page has no such setting, and these models end their texts early.
    browser.js("""{ const real = fetch; window.fetch = (url, more) => real(url, more.body
        ? { ...more, body: JSON.stringify({ ...JSON.parse(more.body), ignore_eot: true }) } : more); }""")
    browser.fill(prompt="Once upon", seed="1", max_tokens="15000")
    browser.js("document.getElementById('go').click()")
    browser.until("document.querySelectorAll('#text .t').length > 5")
    assert browser.js("document.getElementById('go').disabled && !document.getElementById('stop').disabled")
    browser.press("Escape")
    browser.until(WROTE)
    assert browser.text("state") == "Stopped." and browser.text("error") == ""
    count = browser.js("document.querySelectorAll('#text .t').length")
    time.sleep(0.3)
    assert browser.js("document.querySelectorAll('#text .t').length") == count
    assert not browser.js("document.getElementById('go').disabled")
    end = time.monotonic() + 10
    while server.metric("tfgpt_waiting") and time.monotonic() < end:
        time.sleep(0.05)
    assert server.metric("tfgpt_waiting") == 0
    assert server.metric('tfgpt_generated_tokens_total{model="general"}') - before < 15_000


@pytest.mark.slow
def test_errors_are_words(server, browser):
    browser.open(server.url)
    browser.fill(max_tokens="99999")
    browser.js("document.getElementById('go').click()")
    browser.until("document.getElementById('error').textContent")
    assert "at most 20,000 new tokens" in browser.text("error")
    browser.fill(max_tokens="3")
    browser.js("document.getElementById('go').click()")
    browser.until(WROTE)
    assert browser.text("error") == ""


@pytest.mark.slow
def test_the_token_is_kept_for_the_tab_and_not_shown(serve, browser):
    url = serve(token="open sesame").url
    browser.open(url)
    assert "a token is needed" in browser.text("error") and browser.js("document.getElementById('settings').open")
    browser.fill(token="open sesame")
    browser.until("document.querySelector('#model option')")
    assert browser.text("error") == ""
    assert "open sesame" not in browser.js("document.getElementById('command').textContent")
    browser.open(url)
    browser.fill(max_tokens="3")
    browser.js("document.getElementById('go').click()")
    browser.until(WROTE)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "height"), [(360, 740), (1200, 800)])
def test_it_fits(server, browser, width, height, dark):
    browser.open(server.url, width, height, dark=dark)
    browser.fill(prompt="w" * 300, seed="1", max_tokens="20")
    browser.js("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    browser.js("document.getElementById('colours').click()")
    browser.js("document.getElementById('go').click()")
    browser.until(WROTE)
    assert browser.js("document.documentElement.scrollWidth") <= width
    # Every text against what is behind it, as WCAG counts it.
    low = browser.js("""(() => {
      const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
      const pen = canvas.getContext("2d", { willReadFrequently: true });
      const read = (colours) => {
        for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
        const rgb = [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3).map((v) => v / 255);
        const [r, g, b] = rgb.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const poor = [];
      for (const one of document.querySelectorAll("body *")) {
        const words = [...one.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
        if (!words || !one.checkVisibility() || one.disabled) continue;
        const behind = [];
        for (let up = one; up; up = up.parentElement) behind.unshift(getComputedStyle(up).backgroundColor);
        const back = read(behind), front = read([...behind, getComputedStyle(one).color]);
        const ratio = (Math.max(back, front) + 0.05) / (Math.min(back, front) + 0.05);
        if (ratio < 4.5) poor.push([one.tagName, one.className, one.textContent.slice(0, 20), ratio]);
      }
      return poor;
    })()""")
    assert low == []


@pytest.mark.slow
def test_tab_reaches_everything(server, browser):
    browser.open(server.url)
    reached = set()
    browser.js("document.activeElement.blur()")
    for _ in range(18):
        browser.press("Tab")
        reached.add(browser.js("document.activeElement.id || document.activeElement.tagName"))
        if browser.js("document.activeElement !== document.body"):
            assert browser.js("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert {"model", "prompt", "go", "temperature", "seed", "token", "colours", "text", "SUMMARY"} <= reached


def pictures(url, folder, prompt):
    """Take the pictures of the documentation anew, of any server:

    python -m tests.serving.test_page http://127.0.0.1:12345 docs/images "ROMEO:"
    """
    with tempfile.TemporaryDirectory() as home:
        browser = Browser(next(filter(None, map(shutil.which, BROWSERS))), Path(home))
        for name, width, height in (("desktop", 1200, 800), ("phone", 390, 844)):
            browser.open(url, width, height)
            browser.fill(prompt=prompt, seed="7", max_tokens="200", temperature="0.7")
            browser.js("document.getElementById('colours').click()")
            browser.js("document.getElementById('go').click()")
            browser.until(WROTE)
            browser.js("document.activeElement.blur(); document.querySelector('[for=prompt]').scrollIntoView()")
            browser.js("innerWidth > 600 && scrollTo(0, 0)")
            browser.picture(Path(folder) / f"page-{name}.png")
        browser.end()


if __name__ == "__main__":
    pictures(*sys.argv[1:])
