"""Orders: a function with a rich request, which calls those of another worker."""

import asyncio
from typing import Annotated, Literal

from agentos_workers.kit import Context, FunctionError, Http, Reply, Request, Worker
from pydantic import Field

worker = Worker("orders", description="Takes orders")


class Item(Request):
    """What is bought."""

    sku: str = Field(description="Stock keeping unit", min_length=2)
    quantity: int = Field(default=1, ge=1, le=99)


class Address(Request):
    """Where it goes."""

    street: str
    city: str


class Order(Request):
    """An order."""

    customer: str = Field(json_schema_extra={"format": "email"}, description="Who pays, and gets the mail")
    items: Annotated[list[Item], Field(min_length=1)]
    ship_to: Address
    gift_to: Address | None = None
    priority: Literal["low", "normal", "high"] = "normal"
    express: bool
    discount: float | None = Field(default=None, ge=0, lt=1)
    labels: dict[str, str] | None = Field(default=None, description="Whatever else there is to say")


class Nothing(Request):
    """A request without fields."""


class Placed(Reply):
    """What became of an order."""

    charged: float
    order: Order


class Told(Reply):
    """A text."""

    text: str


@worker.function("orders::place", http=Http("POST", "orders"))
async def place(request: Order, context: Context) -> Placed:
    """Reserves stock, charges the customer and sends a mail."""
    await context.call("stock::reserve", {"skus": [item.sku for item in request.items]}, timeout=5)
    amount = 4.5 * sum(item.quantity for item in request.items)
    await context.call("payments::charge", {"customer": request.customer, "amount": amount}, timeout=5)
    await context.call("mail::send", {"to": request.customer, "template": "order-placed"}, timeout=5)
    return Placed(charged=amount, order=request)


@worker.function("orders::wait")
async def wait(request: Nothing, context: Context) -> Told:
    """Takes half a second."""
    await asyncio.sleep(0.5)
    return Told(text="waited")


@worker.function("orders::fail")
async def fail(request: Nothing, context: Context) -> Told:
    """Always fails."""
    raise FunctionError("OUT_OF_STOCK", "there is nothing left of A-100", status=409)
