"""The notebooks as a reader opens them: JupyterLab and the explorer in a real browser (``make browser``).

Minutes long, so only where it is asked for: ``DGL_BROWSER=all`` opens every notebook, ``DGL_BROWSER=some`` the first
four. Skipped where Playwright or a Chromium is missing. ``DGL_SCREENSHOTS=FOLDER`` keeps a picture of each page.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

if not os.environ.get("DGL_BROWSER"):
    pytest.skip("`make browser` runs these", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api")

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SOME = NOTEBOOKS if os.environ["DGL_BROWSER"] == "all" else NOTEBOOKS[:4]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MINUTES = 60_000  # a minute in Playwright's unit
#: Every cell is on the page, also where it is scrolled out of sight, and no question lies over it.
SETTINGS = {"notebook-extension/tracker": {"windowingMode": "none"}}
SETTINGS["apputils-extension/notification"] = {"fetchNews": "false", "checkForUpdates": False}


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as driver:
        try:
            opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture
def page(browser) -> Iterator:
    opened = browser.new_page(viewport={"width": 1400, "height": 1000})
    yield opened
    opened.close()


def served(folder: Path, *command: str) -> Iterator[str]:
    """The address of a server that is started on a free port, and stopped afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, log = f"http://127.0.0.1:{port}", (folder / "log").open("w")
    arguments = [sys.executable, "-m", *(part.format(port=port) for part in command)]
    own = dict.fromkeys(("JUPYTER_CONFIG_DIR", "JUPYTERLAB_SETTINGS_DIR", "IPYTHONDIR"), str(folder))  # not the user's
    environment = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"} | own  # the tests' is Agg
    server = subprocess.Popen(arguments, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(240):
            assert server.poll() is None, (folder / "log").read_text()
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """JupyterLab on a copy of the notebooks without outputs: what is there afterwards was made there."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "notebooks").mkdir()
    for path in NOTEBOOKS:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in code_cells(notebook):
            cell.update(outputs=[], execution_count=None)
        (folder / "notebooks" / path.name).write_text(json.dumps(notebook), encoding="utf-8")
    for name, setting in SETTINGS.items():
        file = folder / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(setting))
    options = ["--ServerApp.port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--no-browser"]
    yield from served(folder, "jupyterlab", f"--ServerApp.root_dir={folder}", "--allow-root", *options)


@pytest.fixture(scope="module")
def explorer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What ``make explorer`` serves."""
    notebook = ROOT / "notebooks" / "teaching" / "explorer.ipynb"
    yield from served(tmp_path_factory.mktemp("voila"), "voila", str(notebook), "--port={port}", "--no-browser")


def keep(page, name: str) -> None:
    if folder := os.environ.get("DGL_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def widget_moves(page, cell) -> None:
    """A slider of the explorer is moved by the keyboard, and the picture and its line of text follow."""
    picture = cell.locator("img.widget-image").first
    picture.wait_for(timeout=5 * MINUTES)
    picture.scroll_into_view_if_needed()
    before, said = picture.get_attribute("src"), cell.get_by_text("At threshold").first.inner_text()
    for _ in range(3):
        cell.locator("[role=slider]").last.press("ArrowRight")
    page.wait_for_function("([img, src]) => img.src !== src", arg=[picture.element_handle(), before], timeout=MINUTES)
    assert cell.get_by_text("At threshold").first.inner_text() != said


def saved(address: str, name: str) -> dict:
    with urllib.request.urlopen(f"{address}/api/contents/notebooks/{name}?content=1") as answer:
        return json.load(answer)["content"]


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def figures(cell: dict) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell["outputs"])


@pytest.mark.parametrize("notebook", SOME, ids=lambda path: path.stem)
def test_a_notebook_runs_in_jupyterlab(lab: str, page, notebook: Path) -> None:
    page.goto(f"{lab}/lab/tree/notebooks/{notebook.name}?reset")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=2 * MINUTES)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Restart Kernel and Run All Cells").click()
    page.get_by_role("button", name="Confirm Kernel Restart").click(timeout=MINUTES)
    committed = code_cells(json.loads(notebook.read_text(encoding="utf-8")))
    deadline = time.monotonic() + 900
    while True:  # what JupyterLab itself has saved says how far it is
        page.keyboard.press("Control+s")
        page.wait_for_timeout(3000)
        cells = code_cells(saved(lab, notebook.name))
        errors = [o["evalue"] for cell in cells for o in cell["outputs"] if o["output_type"] == "error"]
        assert not errors
        if [cell["execution_count"] for cell in cells] == list(range(1, len(committed) + 1)):
            break
        assert time.monotonic() < deadline, f"not done: {[cell['execution_count'] for cell in cells]}"
    assert [figures(cell) for cell in cells] == [figures(cell) for cell in committed]
    drawn = page.locator(".jp-RenderedImage img")
    assert drawn.count() == sum(map(figures, cells)) > 0
    assert all(drawn.evaluate_all("images => images.map(image => image.naturalWidth > 0)"))
    if any("explorer(" in "".join(cell["source"]) for cell in cells):
        widget_moves(page, page.locator(".jp-Notebook"))
    else:
        drawn.first.scroll_into_view_if_needed()
    keep(page, notebook.stem)


def test_the_explorer_alone(explorer: str, page) -> None:
    page.goto(explorer, timeout=5 * MINUTES)
    widget_moves(page, page.locator("body"))
    assert page.locator("img:not(.widget-image)").evaluate("image => image.naturalWidth > 0")  # the static figure
    keep(page, "explorer")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_page_of_the_site(page, notebook: Path) -> None:
    index = ROOT / "build" / "site" / "docs" / "index.html"
    if not index.exists():
        pytest.skip("`make site` builds it")
    page.goto(index.as_uri())
    page.locator(f'a[href$="{notebook.stem}.html"]').first.click()
    page.wait_for_url(f"**/{notebook.stem}.html", timeout=MINUTES)  # and until its pictures are there
    assert page.locator("h1").first.inner_text().startswith(f"{int(notebook.stem[:2])}.")
    drawn = page.locator("article img")
    assert drawn.count() >= sum(map(figures, code_cells(json.loads(notebook.read_text(encoding="utf-8"))))) > 0
    assert all(drawn.evaluate_all("images => images.map(image => image.naturalWidth > 0)"))
