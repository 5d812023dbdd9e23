"""The report in a real browser: nothing fails to load, nothing is wider than the screen."""

import html
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from reporting_records import Experiment

from arfl import batches
from arfl.reporting import render

ROOT = Path(__file__).parents[2]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"none of {', '.join(BROWSERS)} is on the PATH; install chromium"
)

# The page is shown in a frame of the width to be tested, because a window cannot be made as narrow
# as a phone. A probe in the page tells the frame what it finds, the frame writes it down, and
# --dump-dom prints it. Errors are caught from the first line on.
FRAME = """<!doctype html><title>frame</title><body><script>
addEventListener("message", e => {
  const found = document.createElement("output");
  found.id = "probe";
  found.textContent = e.data;
  document.body.append(found);
});
</script><iframe src="probed.html" width="WIDTH" height="800"></iframe></body>"""
PROBE_HEAD = """<script>
window.problems = [];
addEventListener("error", e => problems.push("error: " + (e.message || e.target.src)), true);
addEventListener("unhandledrejection", e => problems.push("rejection: " + e.reason));
for (const level of ["error", "warn"]) {
  const old = console[level];
  console[level] = (...words) => { problems.push(level + ": " + words.join(" ")); old(...words); };
}
</script>"""
PROBE_END = """<script>
addEventListener("load", () => {
  for (const image of document.images)
    if (!image.complete || image.naturalWidth < 100) problems.push("image: " + image.alt);
  for (const link of document.links) {
    const where = link.getAttribute("href");
    if (!where.startsWith("#")) { problems.push("outside: " + where); continue; }
    location.hash = "";
    link.click();
    const target = document.querySelector(":target");
    if (!target || "#" + target.id !== where) problems.push("link: " + where);
  }
  for (const resource of performance.getEntriesByType("resource"))
    if (!resource.name.startsWith("data:")) problems.push("loaded: " + resource.name);
  const excess = document.documentElement.scrollWidth - innerWidth;
  if (excess > 0) problems.push("wider than the screen by " + excess);
  dispatchEvent(new Event("beforeprint"));
  if (document.querySelector("details:not([open])")) problems.push("closed in print");
  const counts = {images: document.images.length, links: document.links.length};
  parent.postMessage(JSON.stringify({...counts, problems}), "*");
});
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report on invented records, one of them missing."""
    experiment = Experiment(tmp_path_factory.mktemp("report"), targets=("figure3", "table3"))
    # A title that is wider than a phone.
    experiment.targets["backdoors_by_the_scale_of_the_model"] = experiment.targets["table3"]
    experiment.write()
    experiment.path("mnist_shards/label_flip/attackers-1/median/seed-2").unlink()
    batches.pack(experiment.run_dir / "cells", experiment.run_dir)
    out = experiment.folder / "rendered"
    render.render([experiment.run_dir], ROOT / "workflow" / "resources" / "paper", out)
    return out / "quick" / "report.html"


def browse(page, tmp_path, *options):
    """Run the browser on a file; returns what it prints."""
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--virtual-time-budget=8000", f"--user-data-dir={tmp_path / 'profile'}", *options,
        page.as_uri(),
    ]  # fmt: skip
    environment = os.environ | {"HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_works_on_a_desk_and_on_a_phone(page, tmp_path, width):
    probed = tmp_path / "probed.html"
    text = page.read_text(encoding="utf-8")
    text = text.replace("<head>", "<head>" + PROBE_HEAD).replace("</body>", PROBE_END + "</body>")
    probed.write_text(text, encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    dom = browse(frame, tmp_path, "--dump-dom", "--window-size=1400,900")
    found = json.loads(html.unescape(dom.split('id="probe">')[1].split("</output>")[0]))
    assert found["problems"] == []
    assert found["images"] >= 7
    assert found["links"] >= 10


def test_it_prints(page, tmp_path):
    pdf = tmp_path / "report.pdf"
    browse(page, tmp_path, f"--print-to-pdf={pdf}", "--no-pdf-header-footer")
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    assert len(content) > 100_000
