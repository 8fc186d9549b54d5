"""What the page shows of workers and their functions."""

import pytest
from playwright.async_api import expect

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_workers_are_listed_with_their_functions(shop, look):
    page = await look(shop)
    orders = page.locator(".worker", has=page.get_by_role("heading", name="orders"))
    await expect(orders.locator(".badge")).to_have_text("Ready")
    await expect(orders.locator(".name")).to_have_text(["orders::fail", "orders::place", "orders::wait"])
    await expect(orders).to_contain_text("Reserves stock, charges the customer and sends a mail.")


async def test_functions_of_the_engine_are_hidden_until_they_are_asked_for(shop, look):
    page = await look(shop)
    state = page.get_by_role("link", name="state::get", exact=False)
    await expect(page.get_by_role("link", name="mail::send")).to_be_visible()
    await expect(state).to_have_count(0)
    await page.get_by_role("button", name="Engine’s own").click()
    await expect(state.first).to_be_visible()


async def test_the_filter_finds_functions_by_every_word(shop, look):
    page = await look(shop)
    await page.keyboard.press("/")
    await page.keyboard.type("card customer")
    await expect(page.locator(".worker .name")).to_have_text(["payments::charge"])
    await page.keyboard.type(" nothing-like-it")
    await expect(page.get_by_text("Nothing matches.")).to_be_visible()


@pytest.mark.parametrize("key", ["Enter", "ArrowDown"])
async def test_from_the_filter_one_key_leads_to_what_it_found(shop, look, key):
    page = await look(shop)
    await page.keyboard.press("/")
    await page.keyboard.type("card customer")
    await page.keyboard.press(key)
    await expect(page.locator("[data-row]:focus")).to_contain_text("payments::charge")


async def test_a_worker_that_comes_or_goes_is_seen_at_once(own, look):
    page = await look(own)
    await expect(page.get_by_text("No worker is connected yet.")).to_be_visible()
    await own.start_worker("shop", "mail::send")
    await expect(page.locator(".worker .name")).to_have_count(4)
    await expect(page.locator("#workers-count")).to_have_text("1")
    await own.stop_worker("shop")
    await expect(page.locator(".worker")).to_have_count(0)


async def test_what_waits_or_fails_says_why(own, look):
    page = await look(own)
    waits = {"name": "reports", "state": "Waiting", "reason": "Conflict", "message": "orders::* is owned by orders"}
    fails = {"name": "images", "state": "BackingOff", "reason": "Exited", "message": "exit code 1", "restarts": 5}
    own.tell_fleet([waits, fails])
    for each in (waits, fails):
        worker = page.locator(".worker", has=page.get_by_role("heading", name=each["name"]))
        await expect(worker).to_contain_text(f"{each['reason']} {each['message']}")
    await expect(page.locator(".badge.bad")).to_have_text("BackingOff")
    await expect(page.locator(".badge.warn")).to_have_text("Waiting")
    await expect(page.get_by_text("5 restarts")).to_be_visible()
