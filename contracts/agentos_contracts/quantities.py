"""Amounts of resources as Kubernetes writes them: ``500m``, ``2``, ``256Mi``."""

import math
from decimal import Decimal, InvalidOperation

_SUFFIXES = {
    **{suffix: Decimal(10) ** (3 * power) for power, suffix in enumerate("num", start=-3)},
    **{suffix: Decimal(10) ** (3 * power) for power, suffix in enumerate("kMGTPE", start=1)},
    **{f"{suffix}i": Decimal(2) ** (10 * power) for power, suffix in enumerate("KMGTPE", start=1)},
}


def amount(value: object) -> Decimal | None:
    """Return how much a quantity is, whatever its unit; None when it is none."""
    text = str(value)
    number = text.rstrip("numkKMGTPEi")
    try:
        return Decimal(number) * _SUFFIXES.get(text[len(number) :], 1)
    except InvalidOperation:
        return None


def cores(value: Decimal) -> str:
    """Return an amount of CPU as Kubernetes writes it, such as 500m or 2; what is left of a thousandth is rounded up."""
    thousandths = math.ceil(value * 1000)
    return f"{thousandths // 1000}" if thousandths % 1000 == 0 else f"{thousandths}m"


def size(value: Decimal) -> str:
    """Return an amount of memory in the largest unit that says it exactly, such as 512Mi; fractions of a byte are rounded up."""
    whole, unit = math.ceil(value), ""
    for larger in ("Ki", "Mi", "Gi", "Ti"):
        if whole == 0 or whole % 1024:
            break
        whole, unit = whole // 1024, larger
    return f"{whole}{unit}"
