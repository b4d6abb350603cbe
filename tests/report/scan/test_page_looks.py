"""Pages in a headless browser: contrast, narrow screens, print, sorting, and hostile text."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from page_pixels import OpenPage, shown_slice
from scan_cases import REPORT, measured_lesion, write_scan

from samcancer.report.scan import write_scan_page
from samcancer.report.scan.index import write_index

LEAST_CONTRAST = 4.5
"""WCAG 2.2, 1.4.3, level AA, for text of normal size."""

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=2'>\"'&"

CONTRASTS = """() => {
  function parsed(colour) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 1;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return { rgb: [r, g, b], a: a / 255 };
  }
  function luminance(rgb) {
    const [r, g, b] = rgb.map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }
  function background(element) {
    for (let e = element; e; e = e.parentElement) {
      const found = parsed(getComputedStyle(e).backgroundColor);
      if (found.a === 1) { return found.rgb; }
    }
    return [255, 255, 255];
  }
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const element = node.parentElement;
    const hidden = element.closest("script, svg, .corner, .side, .hidden, [hidden]");
    if (!node.textContent.trim() || hidden || !element.checkVisibility()) { continue; }
    const [a, b] = [parsed(getComputedStyle(element).color).rgb, background(element)]
      .map(luminance).sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), node.textContent.trim().slice(0, 30)]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three scan pages, one of them with hostile text, and their index."""
    folder = tmp_path_factory.mktemp("pages")
    scan, mask = write_scan(folder)
    lesion = asdict(measured_lesion())
    reports: dict[str, dict[str, Any]] = {
        "patient-7": {"lesions": [lesion], "warnings": ["The affine was repaired."]},
        "patient-10": {"case": "patient-10"},
        "hostile": {
            "case": HOSTILE,
            "labels": {"background": 0, HOSTILE: 1, "kidney_lesion": 2},
            "classes": {HOSTILE: {"label": 1, "kind": "lesion", "presence_max": 0.5}},
            "lesions": [{**lesion, "lesion_id": HOSTILE, "class_name": HOSTILE}],
            "model": {"sha256": [HOSTILE], "text_sha256": HOSTILE},
            "software": HOSTILE,
            "warnings": [HOSTILE],
        },
    }
    for name, changes in reports.items():
        page = folder / f"{name}.html"
        write_scan_page(page, scan=scan, mask=mask, report={**REPORT, **changes})
    write_index(folder, failures={HOSTILE: HOSTILE})
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["patient-7", "index"])
def test_every_text_stands_out_from_its_background(
    open_page: OpenPage, pages: Path, name: str, scheme: str
) -> None:
    with open_page(pages / f"{name}.html", color_scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 15
        assert [found for found in contrasts if found[0] < LEAST_CONTRAST] == []


def test_dark_mode_turns_the_page_dark(open_page: OpenPage, pages: Path) -> None:
    seen = []
    for scheme in ("light", "dark"):
        with open_page(pages / "patient-7.html", color_scheme=scheme) as page:
            seen.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert seen == ["rgb(245, 246, 249)", "rgb(15, 20, 26)"]


@pytest.mark.parametrize("name", ["patient-7", "index"])
def test_nothing_hangs_over_the_edge_of_a_phone(
    open_page: OpenPage, pages: Path, name: str
) -> None:
    with open_page(pages / f"{name}.html", viewport={"width": 360, "height": 700}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_in_print_the_key_slices_stand_in_for_the_viewer(open_page: OpenPage, pages: Path) -> None:
    with open_page(pages / "patient-7.html") as page:
        page.emulate_media(media="print")
        assert not page.locator(".stage").is_visible()
        assert page.locator(".key-slice svg").first.is_visible()
        assert page.locator(".projection svg").first.is_visible()
        assert page.locator("#lesions table").is_visible()
        assert page.pdf()[:5] == b"%PDF-"


@pytest.mark.parametrize("name", ["patient-7", "index"])
def test_in_print_no_table_is_wider_than_the_sheet(
    open_page: OpenPage, pages: Path, name: str
) -> None:
    """A4 with Chromium's margins is about 720 pixels wide."""
    with open_page(pages / f"{name}.html", viewport={"width": 720, "height": 1018}) as page:
        page.emulate_media(media="print")
        widths = page.evaluate(
            "Array.from(document.querySelectorAll('table'), t => t.getBoundingClientRect().right)"
        )
        assert widths
        assert max(widths) <= 720
        assert page.locator(".filter").count() == 0 or not page.locator(".filter").is_visible()


@pytest.mark.parametrize("name", ["hostile", "index"])
def test_a_script_in_a_name_is_text_and_never_runs(
    open_page: OpenPage, pages: Path, name: str
) -> None:
    with open_page(pages / f"{name}.html") as page:
        if name == "hostile":
            shown_slice(page, 6)
            page.locator("button[data-lesion='0']").click()
            page.locator(".picture").hover()
        page.wait_for_timeout(100)
        assert page.evaluate("typeof window.hacked") == "undefined"
        assert page.locator("img[src=x]").count() == 0
        assert HOSTILE in page.locator("body").inner_text()


def test_the_policy_refuses_a_script_that_was_put_in_all_the_same(
    browser: Any, pages: Path, tmp_path: Path
) -> None:
    text = (pages / "patient-7.html").read_text(encoding="utf-8")
    spoilt = tmp_path / "spoilt.html"
    spoilt.write_text(text.replace("<main>", "<main><script>window.hacked = 1</script>"))
    page = browser.new_page()
    page.goto(spoilt.as_uri())
    shown_slice(page, 6)
    assert page.evaluate("typeof window.hacked") == "undefined"
    page.close()


def test_the_index_sorts_and_filters_its_rows(open_page: OpenPage, pages: Path) -> None:
    with open_page(pages / "index.html") as page:
        names = """Array.from(document.querySelectorAll('.cases tbody tr:not([hidden]) th'))
          .map(e => e.innerText)"""
        head = page.locator(".cases th button")
        head.nth(0).click()
        assert [n for n in page.evaluate(names) if n != HOSTILE] == ["patient-7", "patient-10"]
        assert page.locator("th[aria-sort=ascending]").inner_text().startswith("Case")
        head.nth(2).click()
        head.nth(2).click()
        assert page.evaluate(names)[0] == "patient-10", "two lesions by the mask, one measured"
        page.locator("#filter").fill("PATIENT-1")
        assert page.evaluate(names) == ["patient-10"]


def test_the_index_leads_to_the_pages(open_page: OpenPage, pages: Path) -> None:
    with open_page(pages / "index.html") as page:
        page.get_by_role("link", name="patient-7").click()
        shown_slice(page, 6)
        assert page.locator("h1").inner_text() == "patient-7"
