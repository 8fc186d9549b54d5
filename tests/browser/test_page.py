"""What holds of the page as a whole: keys, themes, strangers' text, an engine that goes away, accessibility, size."""

import asyncio
import json
from pathlib import Path

import pytest
import websockets
from playwright.async_api import expect

from tests.browser.test_calls import ORDER

pytestmark = pytest.mark.asyncio(loop_scope="session")

STATIC = Path(__file__).parents[2] / "engine" / "agentos_engine" / "console" / "static"
HOSTILE = "<img src=x onerror=alert(1)>"
NO_ANSWER = ("Failed to load resource: net::ERR_",)


async def test_the_page_is_used_with_the_keyboard_alone(shop, look):
    page = await look(shop)
    keys = page.keyboard
    await expect(page.get_by_role("link", name="mail::send")).to_be_visible()

    await keys.press("/")
    await keys.type("stock::")
    await keys.press("ArrowDown")
    await keys.press("Enter")
    await expect(page.get_by_role("button", name="Add to skus")).to_be_focused()
    await keys.press("Enter")
    await keys.type("A-100")
    await keys.press("Control+Enter")
    await expect(page.locator(".outcome .badge")).to_have_text("ok")

    await keys.press("Escape")
    await expect(page.locator('[data-row][aria-current="true"]')).to_be_focused()
    await keys.press("Escape")
    await expect(page).to_have_url(f"{shop.url}/#/workers")

    await shop.call("orders::place", ORDER)
    await keys.press("g")
    await keys.press("c")
    await expect(page.locator(".call .name").first).to_have_text("mail::send")
    for key in ("j", "j", "ArrowDown", "j", "j", "k", "j"):
        await keys.press(key)
    await expect(page.locator(".call:focus .name")).to_have_text("orders::place")
    await keys.press("Enter")
    await expect(page.get_by_role("region", name="Input")).to_contain_text("ada@example.com")
    await expect(page.locator(".call:focus")).to_be_visible()

    before = page.url
    await keys.press("r")
    await page.wait_for_url(lambda url: url != before)
    await expect(page.locator(".detail .span")).to_have_count(5)
    await keys.press("t")
    await expect(page.get_by_role("region", name="Waterfall")).to_be_visible()
    await keys.press("j")
    await keys.press("j")
    await keys.press("Enter")
    await expect(page.get_by_role("article", name="Span").get_by_role("heading").first).to_have_text(
        "call stock::reserve"
    )
    await keys.press("Escape")
    await expect(page.get_by_role("article", name="Span")).to_have_count(0)

    await keys.press("?")
    await expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    await keys.press("Escape")
    await expect(page.get_by_role("dialog", name="Keyboard")).to_be_hidden()
    await keys.press("g")
    await keys.press("l")
    await expect(page.get_by_role("region", name="Logs")).to_be_visible()
    await keys.press("g")
    await keys.press("w")
    await expect(page.get_by_role("region", name="Workers")).to_be_visible()


async def test_the_focused_control_can_be_seen(shop, look):
    page = await look(shop)
    await page.keyboard.press("Tab")
    style = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert style == "solid"


async def test_light_and_dark_follow_the_system_until_one_is_chosen(shop, look):
    async def brightness() -> int:
        colour = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    page = await look(shop, color_scheme="dark")
    assert await brightness() < 200
    await page.emulate_media(color_scheme="light")
    assert await brightness() > 600
    await page.get_by_role("button", name="Light or dark").click()
    assert await brightness() < 200
    await page.reload()
    assert await brightness() < 200


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_has_enough_contrast(shop, look, scheme):
    await shop.call("orders::fail")
    page = await look(shop, "calls", color_scheme=scheme)
    await page.locator(".call").first.click()
    await expect(page.locator(".detail .failure")).to_be_visible()
    weak = await page.evaluate(
        """() => {
        const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
        const rgb = (colour) => {
            canvas.clearRect(0, 0, 1, 1);
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
            return canvas.getImageData(0, 0, 1, 1).data;
        };
        const luminance = (colour) => {
            const [r, g, b] = [...rgb(colour)].map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92
                : ((part / 255 + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const behind = (element) => {
            for (; element; element = element.parentElement) {
                const colour = getComputedStyle(element).backgroundColor;
                if (rgb(colour)[3] === 255) return colour;
            }
            return "white";
        };
        const weak = [];
        for (const element of document.querySelectorAll("body *")) {
            const texts = [...element.childNodes].filter((node) => node.nodeType === 3 && node.data.trim());
            if (!texts.length || !element.checkVisibility() || element.closest(":disabled")) continue;
            const [a, b] = [luminance(getComputedStyle(element).color), luminance(behind(element))].sort((x, y) => y - x);
            const ratio = (a + 0.05) / (b + 0.05);
            if (ratio < 4.5) weak.push(`${texts[0].data} ${ratio.toFixed(2)}`);
        }
        return weak;
    }"""
    )
    assert weak == []


async def test_names_and_payloads_of_strangers_stay_text(own, look):
    """A worker by the raw protocol, all of whose words are HTML that would open a dialog."""
    schema = {
        "type": "object",
        "description": HOSTILE,
        "properties": {HOSTILE: {"type": "string", "description": HOSTILE}},
    }
    page = await look(own)
    async with websockets.connect(f"ws://127.0.0.1:{own.ports['port']}") as socket:

        async def send(**message: object) -> None:
            await socket.send(json.dumps(message))

        async def answer() -> None:
            async for frame in socket:
                message = json.loads(frame)
                if message["type"] != "invokefunction":
                    continue
                failed = message["data"].get("fail")
                outcome = {"error": {"code": HOSTILE, "message": HOSTILE}} if failed else {"result": {HOSTILE: HOSTILE}}
                name = {"invocation_id": message["invocation_id"], "function_id": message["function_id"]}
                await send(type="invocationresult", **name, **outcome)

        serving = asyncio.create_task(answer())
        about = {"name": HOSTILE, "runtime": HOSTILE, "version": HOSTILE, "pid": 1}
        await send(type="invokefunction", function_id="engine::workers::register", data=about)
        await send(type="registerfunction", id=HOSTILE, description=HOSTILE, request_format=schema)
        await expect(page.locator(".worker h2")).to_have_text(HOSTILE)
        await page.locator(".worker .row").click()
        await page.get_by_label(HOSTILE, exact=True).fill(HOSTILE)
        await page.get_by_role("button", name="Call", exact=True).click()
        await expect(page.get_by_role("region", name="Result")).to_contain_text(HOSTILE)
        await own.call(HOSTILE, {"fail": True})
        await own.call("engine::log::error", {"message": HOSTILE, "data": {HOSTILE: HOSTILE}})
        await page.get_by_role("link", name="Calls", exact=True).click()
        await page.locator(".call").first.click()
        await expect(page.locator(".detail .failure")).to_contain_text(HOSTILE)
        await page.get_by_role("link", name="Open", exact=True).click()
        await page.locator(".span").first.click()
        await expect(page.get_by_role("article", name="Span")).to_contain_text(HOSTILE)
        await page.get_by_role("link", name="Logs", exact=True).click()
        await page.locator(".log").first.click()
        await expect(page.locator(".log-facts")).to_contain_text(HOSTILE)
        assert await page.locator("main img").count() == 0
        serving.cancel()


async def test_an_engine_that_goes_away_is_told_and_found_again(own, look):
    page = await look(own, "calls", tolerated=NO_ANSWER)
    await own.call("state::set", {"scope": "a", "key": "b", "value": 1})
    await expect(page.locator(".call .name")).to_have_text(["state::set"])
    await own.stop()
    await expect(page.get_by_role("alert")).to_contain_text("The engine does not answer.")
    await expect(page.locator("#connection")).to_have_text("no connection")
    async with page.expect_request("**/api/events"):
        await page.get_by_role("button", name="Try now").click()
    await own.start()
    await expect(page.locator("#connection")).to_have_text("live")
    await expect(page.locator("#banner")).to_be_hidden()
    await expect(page.locator(".call")).to_have_count(0)
    await own.call("state::get", {"scope": "a", "key": "b"})
    await expect(page.locator(".call .name")).to_have_text(["state::get"])


async def test_what_was_filled_in_outlives_an_engine(own, look):
    page = await look(own, "functions/state%3A%3Aget", tolerated=NO_ANSWER)
    await page.get_by_label("Input as JSON").fill('{"scope": "a"}')
    await own.stop()
    await expect(page.locator("#banner")).to_be_visible()
    await own.start()
    await expect(page.locator("#connection")).to_have_text("live")
    await expect(page.get_by_label("Input as JSON")).to_have_value('{"scope": "a"}')


@pytest.mark.parametrize("width", [1280, 600])
async def test_every_control_has_a_name_and_nothing_is_cut_off(shop, look, width):
    answer = await shop.call("orders::place", ORDER)
    await shop.call("engine::log::info", {"message": "an order was placed"})
    page = await look(shop, viewport={"width": width, "height": 800})
    for address in ("workers", "calls", "logs", "functions/orders%3A%3Aplace", f"trace/{answer['trace_id']}"):
        await page.goto(f"{shop.url}/#/{address}")
        await expect(page.locator("main :is([data-row], label)").first).to_be_attached()
        nameless = await page.evaluate(
            """() => [...document.querySelectorAll("a, button, input, select, textarea, summary, [tabindex]")]
            .filter((each) => each.id !== "main" && each.checkVisibility())
            .filter((each) => !(each.getAttribute("aria-label") || each.innerText || each.labels?.[0]?.innerText || "").trim())
            .map((each) => each.outerHTML)"""
        )
        assert nameless == [], address
        assert await page.evaluate("document.documentElement.scrollWidth") <= width, address
    heading = await page.evaluate("document.querySelectorAll('h1').length")
    assert heading == 1
    assert await page.evaluate("document.documentElement.lang") == "en"


async def test_an_address_that_leads_nowhere_says_so(shop, look):
    page = await look(shop, "nowhere")
    await expect(page.get_by_text("There is no such view.")).to_be_visible()
    await page.goto(f"{shop.url}/#/functions/no%3A%3Asuch")
    await expect(page.locator(".detail .failure")).to_contain_text("not found")
    await page.goto(f"{shop.url}/#/calls/%")
    await expect(page.get_by_text("There is no such view.")).to_be_visible()


async def test_the_page_is_small_and_has_no_inline_script_or_style():
    files = list(STATIC.iterdir())
    assert sum(file.stat().st_size for file in files) <= 88 << 10
    text = "".join(file.read_text() for file in files)
    for forbidden in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "<style",
        ' style="',
        "https://",
    ):
        assert forbidden not in text.replace("https://example.com", "")
