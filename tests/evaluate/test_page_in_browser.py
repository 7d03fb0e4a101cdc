"""The report's page as a browser lays it out; skipped where there is none."""

import html
import json
import re
import shutil
import subprocess

import pytest

from ring_rl.evaluate.contents import gather
from ring_rl.evaluate.page import html_page

from .test_page import runs, write_look  # noqa: F401

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)

# Measures the page in frames, since a window may not be as narrow as a telephone.
MEASURE = """
onload = () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    const images = [...page.querySelectorAll("img.chart")];
    const size = node => parseFloat(getComputedStyle(node).fontSize);
    return {
      width: frame.clientWidth, wide: root.scrollWidth,
      loaded: images.every(image => image.naturalWidth > 0), images: images.length,
      narrowest: Math.min(...images.map(image => image.clientWidth)),
      smallest: Math.min(...[...page.querySelectorAll("body *")].map(size)),
    };
  });
  document.body.textContent = JSON.stringify(found);
};
"""


@pytest.mark.skipif(BROWSER is None, reason="no browser")
def test_a_browser_shows_all_of_it_at_any_width(runs, tmp_path):  # noqa: F811
    write_look(runs / "agent" / "evaluation")
    page = html.escape(html_page(gather([runs]))[0])
    frames = "".join(
        f'<iframe style="border:0" width="{width}" height="800" srcdoc="{page}">'
        "</iframe>"
        for width in (400, 1200)
    )
    file = tmp_path / "frames.html"
    file.write_text(f"<!doctype html><body>{frames}<script>{MEASURE}</script></body>")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()]
    made = subprocess.run(command, capture_output=True, text=True, timeout=600)
    body = re.search(r"<body>(.*?)</body>", made.stdout, re.DOTALL)
    assert body is not None, made.stderr[-2000:]
    phone, screen = json.loads(html.unescape(body[1]))
    assert (phone["width"], screen["width"]) == (400, 1200)
    for found in (phone, screen):
        # Tables scroll by themselves; the page does not.
        assert found["wide"] <= found["width"]
        assert found["loaded"] and found["images"] > 8
        assert found["smallest"] >= 11
    assert phone["narrowest"] >= 350
    assert screen["narrowest"] >= 450
