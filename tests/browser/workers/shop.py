"""What orders need: stock, payments and mail."""

import asyncio

from agentos_workers.kit import Context, FunctionError, Reply, Request, Worker

worker = Worker("shop", description="Stock, payments and mail")


class Reserve(Request):
    """What to set aside."""

    skus: list[str]


class Charge(Request):
    """Whom to charge how much."""

    customer: str
    amount: float


class Mail(Request):
    """What to send to whom."""

    to: str
    template: str


class Done(Reply):
    """That it was done."""

    done: bool = True


@worker.function("stock::reserve")
async def reserve(request: Reserve, context: Context) -> Done:
    """Sets aside what an order needs."""
    await asyncio.sleep(0.006)
    return Done()


@worker.function("payments::charge")
async def charge(request: Charge, context: Context) -> Done:
    """Charges a customer's card."""
    await context.call("payments::check", {"customer": request.customer, "amount": request.amount}, timeout=5)
    await asyncio.sleep(0.02)
    return Done()


@worker.function("payments::check")
async def check(request: Charge, context: Context) -> Done:
    """Refuses what is too much."""
    await asyncio.sleep(0.008)
    if request.amount > 400:
        raise FunctionError("CARD_DECLINED", "the bank refuses more than 400", status=402)
    return Done()


@worker.function("mail::send")
async def send(request: Mail, context: Context) -> Done:
    """Sends a mail made from a template."""
    await asyncio.sleep(0.01)
    return Done()
