"""The viewer in a real browser: every page, the keys, a live run, and hostile text."""

import importlib.util
import socket
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import uvicorn
from playwright.sync_api import sync_playwright

from superalign.scenarios.viewer import create_app
from superalign.store import Run, Store
from superalign.store.labels import LabelBook

SPEC = importlib.util.spec_from_file_location("viewed", Path(__file__).parent / "viewed.py")
assert SPEC and SPEC.loader
viewed = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(viewed)

pytestmark = pytest.mark.browser

FIRST = "0" * 16
BRANCH = f"run-fork-1/{'f' * 16}"
PAGES = {
    "runs": "/",
    "episodes": "/runs/run/run",
    "search": "/runs/run/run?q=n1&verdict=solved",
    "episode": f"/runs/run/run/episodes/{FIRST}",
    "failed call": f"/runs/run/run/episodes/{1:016x}",
    "as seen": f"/runs/run/run/episodes/{FIRST}?as=critic",
    "branches": f"/diff/run?a=run/{FIRST}&b={BRANCH}",
    "report": "/runs/run/run/report",
    "lineage": f"/runs/run/run/lineage?ref=run/{FIRST}",
    "who labels": "/label/run/run",
    "label": "/label/run/run?author=ann",
    "no such page": "/nothing",
}

PARTS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<iframe src=javascript:alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<a href=javascript:alert(1)>x</a>",
    "<link rel=stylesheet href=http://evil.example/x.css>",
    "<style>@import url(http://evil.example/x.css);*{display:none}</style>",
    "<meta http-equiv=refresh content='0;url=http://evil.example'>",
    "<base href=http://evil.example/>",
    "<form action=http://evil.example><input autofocus onfocus=alert(1)></form>",
    "<object data=http://evil.example/x></object>",
    "<embed src=http://evil.example/x>",
    "<video><source onerror=alert(1)></video>",
    "<details open ontoggle=alert(1)>",
    "<p hx-get=http://evil.example hx-trigger=load>x</p>",
    "<p hx-on:load=alert(1) data-hx-get=/ hx-trigger=load>x</p>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}${alert(1)}",
]
WRAPS = ["%s", '">%s', "'>%s", "</pre></textarea></title>%s<!--", "\u202e%s\n\u2028%s"]
PAYLOADS = [wrap.replace("%s", part) for part in PARTS for wrap in WRAPS]


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture
def serve():
    """`serve(folder)` -> the address of a viewer whose index is up to date."""
    servers = []

    def start(*folders):
        app = create_app(folders)
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        servers.append((server, thread))
        app.state.library.refresh()
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join()


class Watch:
    """A page, and all that must not happen on it."""

    def __init__(self, chromium, base, width=1440, scheme="light"):
        size = {"width": width, "height": 844}
        self.context = chromium.new_context(viewport=size, color_scheme=scheme)
        self.context.set_default_timeout(10_000)
        self.page, self.base = self.context.new_page(), base
        self.dialogs, self.foreign, self.console, self.errors = [], [], [], []
        self.page.on("dialog", lambda d: (self.dialogs.append(d.message), d.dismiss()))
        self.page.on("request", lambda r: self._request(r.url))
        self.page.on("console", lambda m: self.console.append(m.text))
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.add_init_script(
            "window.refused = []; document.addEventListener('securitypolicyviolation',"
            " (e) => window.refused.push(e.violatedDirective + ' ' + e.blockedURI))"
        )

    def _request(self, url):
        if not url.startswith((self.base, "data:")):
            self.foreign.append(url)

    def go(self, path):
        self.page.goto(self.base + path)
        self.page.wait_for_load_state("networkidle")
        return self.page

    def quiet(self):
        refused = self.page.evaluate("window.refused")
        console = [text for text in self.console if "404" not in text]
        return not (self.dialogs or self.foreign or self.errors or refused or console)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_every_page_fits_and_is_quiet(chromium, serve, tmp_path, width, scheme):
    watch = Watch(chromium, serve(viewed.fill(tmp_path / "run", n=60)), width, scheme)
    for name, path in PAGES.items():
        page = watch.go(path)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
        assert page.locator("h1").count() == 1, name
        assert page.locator("main").count() == 1, name
        assert page.locator("header nav[aria-label]").count() == 1, name
        assert watch.quiet(), (name, vars(watch))
        page.keyboard.press("Tab")
        skip = page.evaluate("document.activeElement.className")
        assert skip == "skip-link" or name == "who labels", name


def test_every_field_button_and_drawing_has_a_name(chromium, serve, tmp_path):
    watch = Watch(chromium, serve(viewed.fill(tmp_path / "run", n=60)))
    nameless = (
        "[...document.querySelectorAll('input:not([type=hidden]),select,textarea,button,a,svg')]"
        ".filter((e) => !e.closest('[hidden]') && !(e.labels?.length || e.ariaLabel"
        " || e.textContent.trim())).map((e) => e.outerHTML)"
    )
    for name, path in PAGES.items():
        assert watch.go(path).evaluate(nameless) == [], name


def test_text_is_readable_on_its_ground(chromium, serve, tmp_path):
    """WCAG AA: 4.5 to 1, for body text, muted text, links and every seat's colour."""
    script = """() => {
      const canvas = document.createElement("canvas").getContext("2d");
      const rgb = (name) => { canvas.fillStyle = getComputedStyle(document.documentElement)
        .getPropertyValue(name).trim(); const hex = canvas.fillStyle;
        return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255)
          .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4); };
      const light = (name) => { const [r, g, b] = rgb(name); return .2126*r + .7152*g + .0722*b; };
      const seats = [...Array(8).keys()].map((i) => `--s${i}`);
      const names = ["--ink", "--muted", "--accent", "--good", "--bad", ...seats];
      return names.flatMap((name) => ["--paper", "--panel"].map((ground) => {
        const [a, b] = [light(name), light(ground)].sort((x, y) => y - x);
        return [name, ground, (a + 0.05) / (b + 0.05)]; })).filter((found) => found[2] < 4.5); }"""
    base = serve(viewed.fill(tmp_path / "run"))
    for scheme in ("light", "dark"):
        assert Watch(chromium, base, scheme=scheme).go("/").evaluate(script) == [], scheme


def test_the_slider_steps_through_the_path(chromium, serve, tmp_path):
    page = Watch(chromium, serve(viewed.fill(tmp_path / "run"))).go(PAGES["episode"])
    assert page.locator(".turn.later").count() == 0
    page.get_by_label("One step back").click()
    page.get_by_label("One step back").click()
    assert page.locator(".turn.later").count() == 1
    assert page.locator(".turn.now h3").first.inner_text().startswith("learner")
    assert page.locator(".graph .now text").all_text_contents() == ["answer"]
    page.get_by_label("Step through the episode").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator(".graph .now text").all_text_contents() == ["attack"]


def test_filters_work_at_a_change_and_so_does_the_way_back(chromium, serve, tmp_path):
    watch = Watch(chromium, serve(viewed.fill(tmp_path / "run", n=60)))
    page = watch.go("/runs/run/run")
    page.get_by_label("verdict").select_option("solved")
    page.get_by_text("30 episodes match").wait_for()
    assert "verdict=solved" in page.url
    page.keyboard.press("Escape")
    page.get_by_label("Text").fill("n4")
    page.get_by_text("1 episode matches").wait_for()
    page.get_by_role("link", name="Clear").count()
    watch.go("/runs/run/run")
    page.get_by_role("link", name="Older episodes").click()
    page.get_by_text(f"{9:016x}"[:10]).first.wait_for()
    assert watch.quiet()


def test_keys_walk_the_list(chromium, serve, tmp_path):
    page = Watch(chromium, serve(viewed.fill(tmp_path / "run"))).go("/runs/run/run")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/episodes/{1:016x}")


def test_a_live_run_grows_on_the_page(chromium, serve, tmp_path):
    folder = viewed.fill(tmp_path / "run")
    page = Watch(chromium, serve(folder)).go("/runs/run/run")
    with Store.open(folder / "store.sqlite", write=True) as store:
        viewed.put(store, viewed.episode("run", "c" * 16, 7, "7+7=14;14"))
    page.get_by_text("4 episodes").wait_for(timeout=10_000)
    assert page.locator(".row").count() == 4


def test_a_person_labels_by_keys_alone(chromium, serve, tmp_path):
    folder = viewed.fill(tmp_path / "run")
    watch = Watch(chromium, serve(folder))
    page = watch.go("/label/run/run")

    def sees(text):
        page.get_by_text(text).first.wait_for()
        page.wait_for_load_state("networkidle")

    page.keyboard.type("ann")
    page.keyboard.press("Enter")
    sees("1 left for ann")
    page.keyboard.press("s")
    sees("1 put off")
    page.keyboard.press("c")
    page.keyboard.type("looks fine")
    page.keyboard.press("Escape")
    page.keyboard.press("y")
    sees("Nothing waits for you")
    page.keyboard.press("u")
    sees("Is this answer right?")
    page.keyboard.press("n")
    sees("Nothing waits for you")
    marks = LabelBook.beside(str(folder / "store.sqlite")).marks("run")
    assert [mark.what for mark in marks] == ["skip", "answer", "undo", "answer"]
    assert [mark.value for mark in marks] == ["", "right", "", "wrong"]
    assert marks[1].note == "looks fine"
    assert all(mark.seconds is not None and mark.seconds > 0 for mark in marks[1::2])
    assert watch.quiet()


def test_hostile_text_in_every_field_does_nothing(chromium, serve, tmp_path, capsys):
    assert len(set(PAYLOADS)) == 100
    folder = viewed.fill(tmp_path / "run", text=PAYLOADS[3])
    names = [f"n{i}" for i in range(100)]
    with Store.open(folder / "store.sqlite", write=True) as store:
        base = store.run("run")
        for i, text in enumerate(PAYLOADS):
            viewed.put(store, viewed.episode("run", f"{i + 100:016x}", i + 100, text))
            run: dict[str, Any] = base.model_dump() | {
                "id": f"{names[i]} {text[:60]}",
                "reason": text,
            }
            store.put_run(Run(**run))
            status = {"status": "failed", "verdict": None, "error": text, "rewards": {}}
            viewed.put(store, viewed.episode("run", f"{i + 300:016x}", i + 300, text, **status))
    watch = Watch(chromium, serve(folder))
    told = range(100)
    paths = [*PAGES.values(), "/runs/run/run?status=failed"]
    paths += [f"/runs/run/run/episodes/{i + 100:016x}" for i in told]
    paths += [f"/runs/run/run/episodes/{i + 100:016x}?as=learner" for i in told]
    paths += [f"/runs/run/run/episodes/{i + 300:016x}" for i in told]
    paths += [f"/diff/run?a=run/{i + 100:016x}&b=run/{i + 300:016x}" for i in told]
    paths += [f"/runs/run/run?q={quote(text)}" for text in PAYLOADS]
    paths += [
        f"/runs/run/{quote(f'{n} {t[:60]}', safe='')}" for n, t in zip(names, PAYLOADS, strict=True)
    ]
    paths += [f"/label/run/run?author=a&message={quote(text)}" for text in PAYLOADS]
    for path in paths:
        watch.page.goto(watch.base + path)
        watch.page.evaluate("document.querySelectorAll('details').forEach((d) => d.open = true)")
        assert watch.quiet(), (path, vars(watch), watch.page.evaluate("window.refused"))
    with capsys.disabled():
        print(f"\n{len(paths)} pages, 100 payloads: no dialog, external request or CSP report")
