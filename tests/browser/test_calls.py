"""Calls as they happen, one call with all that is known of it, its trace, and the logs."""

import json

import pytest
from playwright.async_api import expect

pytestmark = pytest.mark.asyncio(loop_scope="session")

ORDER = {
    "customer": "ada@example.com",
    "items": [{"sku": "A-100", "quantity": 2}],
    "shipTo": {"street": "Main Street 1", "city": "Bonn"},
    "express": False,
}


async def test_calls_of_workers_appear_while_they_happen(shop, look):
    page = await look(shop, "calls")
    await shop.call("orders::place", ORDER)
    rows = page.locator(".call")
    await expect(rows.nth(4)).to_be_visible()
    names = await rows.locator(".name").all_text_contents()
    assert names[:5] == ["mail::send", "payments::check", "payments::charge", "stock::reserve", "orders::place"]
    await expect(rows.nth(3).locator(".parties")).to_have_text("orders → shop")
    await expect(rows.nth(4).locator(".parties")).to_have_text("console → orders")
    await expect(rows.nth(4).locator(".duration")).to_contain_text("ms")


async def test_a_call_that_runs_is_shown_as_running_and_an_error_stands_out(shop, look):
    page = await look(shop, "calls")
    first = page.locator(".call").first
    await page.evaluate("""() => void fetch("/api/call", {method: "POST", body: '{"function_id": "orders::wait"}',
        headers: {"content-type": "application/json"}})""")
    await expect(first.locator(".duration")).to_have_text("running")
    await expect(first.get_by_label("running", exact=True)).to_be_visible()
    await expect(first.get_by_label("ok", exact=True)).to_be_visible()
    await shop.call("orders::fail")
    await expect(first.locator(".status")).to_have_text("invocation_failed")
    await expect(first).to_have_attribute("data-status", "error")
    await first.click()
    await expect(page.locator(".detail .failure")).to_contain_text("there is nothing left of A-100")


async def test_a_pause_keeps_the_rows_and_counts_what_comes(shop, look):
    await shop.call("stock::reserve", {"skus": ["A-1"]})
    page = await look(shop, "calls")
    names = page.locator(".call .name")
    await expect(names.first).to_have_text("stock::reserve")
    await page.keyboard.press("p")
    await shop.call("mail::send", {"to": "ada@example.com", "template": "hello"})
    await expect(page.get_by_role("button", name="Paused, ")).to_be_visible()
    await expect(names.first).to_have_text("stock::reserve")
    await page.keyboard.press("p")
    await expect(names.first).to_have_text("mail::send")


async def test_no_more_than_500_calls_are_kept(shop, look):
    page = await look(shop, "calls")
    await page.evaluate("""async () => {
        const {Calls} = await import("/assets/calls.js");
        const calls = new Calls();
        for (let id = 0; id < 600; id++) calls.add({id: String(id), status: "ok"});
        if (calls.items.length !== 500 || calls.items[0].key !== "599" || calls.byKey.size !== 500) throw Error("kept");
    }""")


async def test_a_call_shows_input_result_and_trace_and_is_made_again(shop, look):
    await shop.call("orders::place", ORDER)
    page = await look(shop, "calls")
    await page.locator(".call", has_text="orders::place").first.click()
    shown = await page.get_by_role("region", name="Input").text_content()
    assert json.loads(shown) == ORDER
    assert json.loads(await page.get_by_role("region", name="Result").text_content())["charged"] == 9
    await expect(page.locator(".detail .span")).to_have_count(5)
    before = page.url
    await page.get_by_role("button", name="Call again with the same input").click()
    await page.wait_for_url(lambda url: url != before)
    assert json.loads(await page.get_by_role("region", name="Input").text_content()) == ORDER
    await expect(page.locator(".call[aria-current] .name")).to_have_text("orders::place")


async def test_in_a_realm_calls_are_seen_without_their_payloads(realm, look):
    page = await look(realm, "calls")
    await realm.call("state::set", {"scope": "a", "key": "b", "value": "a secret"})
    await page.locator(".call", has_text="state::set").click()
    await expect(page.get_by_text("Payloads are not recorded here.")).to_be_visible()
    await expect(page.get_by_role("button", name="Call again with the same input")).to_be_disabled()
    await expect(page.locator("main")).not_to_contain_text("a secret")
    await page.get_by_role("link", name="Call it").click()
    await expect(page.get_by_label("Input as JSON")).to_have_value("{}")


async def test_the_input_of_a_call_is_edited_and_called(shop, look):
    await shop.call("orders::place", ORDER)
    page = await look(shop, "calls")
    await page.locator(".call", has_text="orders::place").first.click()
    await page.get_by_role("link", name="Edit and call").click()
    await expect(page.get_by_label("items[0].sku", exact=True)).to_have_value("A-100")
    await page.get_by_label("items[0].quantity", exact=True).fill("7")
    await page.get_by_role("button", name="Call", exact=True).click()
    result = json.loads(await page.get_by_role("region", name="Result").text_content())
    assert result["charged"] == 31.5
    assert result["order"]["shipTo"] == ORDER["shipTo"]


async def test_a_trace_is_a_waterfall_of_nested_spans(shop, look):
    answer = await shop.call("orders::place", ORDER | {"items": [{"sku": "A-100", "quantity": 99}]})
    page = await look(shop, f"trace/{answer['trace_id']}")
    spans = page.locator(".span")
    await expect(spans.locator(".name")).to_have_text(
        [
            "call orders::place",
            "call stock::reserve",
            "call payments::charge",
            "call payments::check",
            "call mail::send",
        ]
        if "result" in answer
        else ["call orders::place", "call stock::reserve", "call payments::charge", "call payments::check"]
    )
    await expect(spans.nth(3)).to_contain_text("error")
    await expect(spans.nth(1)).not_to_contain_text("error")
    boxes = [await spans.nth(index).locator(".bar").bounding_box() for index in range(4)]
    names = [await spans.nth(index).locator(".name").bounding_box() for index in range(4)]
    whole, reserve, charge, check = boxes
    assert whole["x"] <= reserve["x"] < reserve["x"] + reserve["width"] <= charge["x"] + 3
    assert charge["x"] <= check["x"]
    assert check["x"] + check["width"] <= charge["x"] + charge["width"] + 3 <= whole["x"] + whole["width"] + 6
    assert names[0]["x"] < names[1]["x"] == names[2]["x"] < names[3]["x"]


async def test_a_span_shows_its_attributes_and_the_way_back_works(shop, look):
    answer = await shop.call("orders::place", ORDER)
    page = await look(shop, f"trace/{answer['trace_id']}")
    await page.locator(".span", has_text="payments::check").click()
    facts = page.get_by_role("article", name="Span")
    await expect(facts.locator("dd")).to_contain_text(["payments::check", "shop", "shop"])
    await page.go_back()
    await expect(facts).to_have_count(0)
    await page.go_forward()
    await expect(facts).to_be_visible()


async def test_an_unknown_trace_or_call_is_said_to_be_unknown(shop, look):
    page = await look(shop, "trace/" + "0" * 31 + "1")
    await expect(page.get_by_text("No spans of this trace are kept.")).to_be_visible()
    page = await look(shop, "calls/999999", tolerated=("Failed to load resource",))
    await expect(page.get_by_text("The engine has forgotten this call.")).to_be_visible()


async def test_logs_come_in_and_are_filtered(shop, look):
    page = await look(shop, "logs")
    await shop.call("engine::log::warn", {"message": "stock is low", "data": {"sku": "A-100"}})
    await shop.call("engine::log::info", {"message": "all is well"})
    await expect(page.locator(".log .body").first).to_have_text("all is well")
    await page.get_by_label("Filter logs").fill("A-100 LOW")
    await expect(page.locator(".log .body")).to_have_text(["stock is low"])
    await page.locator(".log").click()
    await expect(page.locator(".log-facts")).to_contain_text("A-100")
