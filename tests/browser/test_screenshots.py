"""The pictures of docs/console.md. ``make screenshots`` puts them there."""

import asyncio
import os
import struct
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.browser.test_calls import ORDER

pytestmark = pytest.mark.asyncio(loop_scope="session")

DOCS = Path(__file__).parents[2] / "docs" / "images"
SIZE = {"width": 1280, "height": 800}
MOST_BYTES = 120 << 10
DECLINED = ORDER | {"items": [{"sku": "A-100", "quantity": 99}]}


async def test_screenshots(shop, look, tmp_path):
    folder = DOCS if os.environ.get("AGENTOS_SCREENSHOTS") == "1" else tmp_path
    folder.mkdir(exist_ok=True)
    await asyncio.gather(*(shop.call("orders::place", ORDER) for _ in range(2)))
    failed = await shop.call("orders::place", DECLINED)
    await shop.call("orders::place", ORDER)

    page = await look(shop, "calls", viewport=SIZE)
    await page.locator(".call", has_text="payments::charge").first.click()
    await expect(page.locator(".detail .span")).to_have_count(5)
    await page.screenshot(path=folder / "console-calls.png")

    page = await look(shop, f"trace/{failed['trace_id']}", viewport=SIZE, color_scheme="dark")
    await page.locator(".span", has_text="payments::check").click()
    await expect(page.get_by_role("article", name="Span")).to_be_visible()
    await page.screenshot(path=folder / "console-trace.png")

    page = await look(shop, "functions/orders%3A%3Aplace", viewport=SIZE)
    await page.get_by_label("customer", exact=True).fill("ada@example.com")
    await page.get_by_role("button", name="Add to items").click()
    await page.get_by_label("items[0].sku", exact=True).fill("A-100")
    await page.get_by_label("shipTo.city", exact=True).fill("Bonn")
    await page.get_by_role("button", name="Call", exact=True).click()
    await expect(page.locator(".message", has_text="Required.")).to_have_count(2)
    await page.screenshot(path=folder / "console-form.png")

    for name in ("console-calls.png", "console-trace.png", "console-form.png"):
        picture = (folder / name).read_bytes()
        assert picture.startswith(b"\x89PNG\r\n\x1a\n")
        assert struct.unpack(">II", picture[16:24]) == (SIZE["width"], SIZE["height"])
        assert 10_000 < len(picture) <= MOST_BYTES
