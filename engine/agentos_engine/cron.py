"""Cron expressions with seconds: when is the next tick? All times are UTC.

Six fields, or seven: second, minute, hour, day of month, month, day of week and, if wanted, year. A day has to match
both day fields. Weekdays are numbered from 1, Sunday, to 7, Saturday.
"""

import calendar
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime

MAX_LENGTH = 1024
"""Characters of an expression."""

YEARS = range(1970, 2101)
"""Years in which anything happens; bounds the search for the next tick."""

SHORTHANDS = {
    "@yearly": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 1",
    "@daily": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}


class ExpressionError(ValueError):
    """An expression that cannot be read, or never comes true; the message says why and what to write instead."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The values at which ticks happen, in ascending order."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: tuple[int, ...]
    months: tuple[int, ...]
    weekdays: tuple[int, ...]
    years: tuple[int, ...]

    def next_after(self, time: float) -> int | None:
        """Return the first tick later than a time, both in seconds since 1970; None when there is none any more."""
        start = datetime.fromtimestamp(math.floor(time) + 1, UTC)
        for day in self._days_from(start.date()):
            moment = (
                self._time_from(start) if day == start.date() else (self.hours[0], self.minutes[0], self.seconds[0])
            )
            if moment is not None:
                return calendar.timegm((*day.timetuple()[:3], *moment))
        return None

    def _days_from(self, first: date) -> Iterator[date]:
        for year in self.years:
            for month in self.months:
                if (year, month) < (first.year, first.month):
                    continue
                length = calendar.monthrange(year, month)[1]
                for each in self.days:
                    if each > length:
                        break
                    day = date(year, month, each)
                    if day >= first and day.isoweekday() % 7 + 1 in self.weekdays:
                        yield day

    def _time_from(self, start: datetime) -> tuple[int, int, int] | None:
        for hour in self.hours:
            if hour > start.hour:
                return hour, self.minutes[0], self.seconds[0]
            if hour < start.hour:
                continue
            for minute in self.minutes:
                if minute > start.minute:
                    return hour, minute, self.seconds[0]
                if minute == start.minute and (second := _first_from(self.seconds, start.second)) is not None:
                    return hour, minute, second
        return None


def parse(expression: str) -> Schedule:
    """Read an expression. Raises ExpressionError."""
    if len(expression) > MAX_LENGTH:
        raise ExpressionError(f"the cron expression has {len(expression)} characters, more than {MAX_LENGTH}")
    text = expression.strip()
    if text.startswith("@") and text not in SHORTHANDS:
        raise ExpressionError(f"{text[:50]!r} is not one of {', '.join(SHORTHANDS)}")
    fields = SHORTHANDS.get(text, text).split()
    if len(fields) not in (6, 7):
        raise ExpressionError(
            f"the cron expression {text[:100]!r} has {len(fields)} fields; 6 or 7 are needed: "
            f"second minute hour day-of-month month day-of-week [year]{_remedy(fields)}"
        )
    schedule = Schedule(*(form.read(field) for form, field in zip(_FORMS, [*fields, "*"], strict=False)))
    if schedule.next_after(-1) is None:
        raise ExpressionError(f"the cron expression {text[:100]!r} never comes true: no such day exists")
    return schedule


@dataclass(frozen=True, slots=True)
class _Form:
    """What one of the fields may hold."""

    name: str
    low: int
    high: int
    names: Mapping[str, int]
    wildcards: tuple[str, ...] = ("*",)

    def read(self, field: str) -> tuple[int, ...]:
        values: set[int] = set()
        for part in field.split(","):
            values.update(self._part(part))
        return tuple(sorted(values))

    def _part(self, part: str) -> range:
        base, slash, step_text = part.partition("/")
        step = self._step(part, step_text) if slash else 1
        if base in self.wildcards:
            return range(self.low, self.high + 1, step)
        first, hyphen, last = base.partition("-")
        low = self._value(part, first)
        if not hyphen:
            if slash and not first.isdecimal():
                raise self._error(part, f"a step needs a number or a range, such as {self.low}-{self.high}/{step}")
            return range(low, self.high + 1, step) if slash else range(low, low + 1)
        if first.isdecimal() != last.isdecimal():
            raise self._error(part, "the ends of a range are both numbers, or both names")
        high = self._value(part, last)
        if low > high:
            numbers = first.isdecimal()
            top, bottom = (self.high, self.low) if numbers else (self._name(self.high), self._name(self.low))
            raise self._error(part, f"the range runs backwards; write two: {first}-{top},{bottom}-{last}")
        return range(low, high + 1, step)

    def _step(self, part: str, text: str) -> int:
        if not _NUMBER.fullmatch(text) or int(text) == 0:
            raise self._error(part, "the step after / is a number from 1 on")
        return int(text)

    def _value(self, part: str, text: str) -> int:
        if _NUMBER.fullmatch(text):
            value = int(text)
            if self.low <= value <= self.high:
                return value
        elif (value := self.names.get(text.lower())) is not None:
            return value
        named = f", or a name such as {next(iter(self.names)).upper()}" if self.names else ""
        sunday = "; 1 is Sunday" if self.name == "day of week" else ""
        raise self._error(part, f"{text[:50]!r} is not a number from {self.low} to {self.high}{named}{sunday}")

    def _name(self, value: int) -> str:
        return next(name for name, number in self.names.items() if number == value).upper()

    def _error(self, part: str, reason: str) -> ExpressionError:
        return ExpressionError(f"{self.name} {part[:50]!r} of the cron expression: {reason}")


_NUMBER = re.compile(r"[0-9]{1,4}")
_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")


def _names(words: tuple[str, ...], **others: int) -> dict[str, int]:
    short = {word[:3]: number for number, word in enumerate(words, 1)}
    return short | {word: number for number, word in enumerate(words, 1)} | others


_FORMS = (
    _Form("second", 0, 59, {}),
    _Form("minute", 0, 59, {}),
    _Form("hour", 0, 23, {}),
    _Form("day of month", 1, 31, {}, ("*", "?")),
    _Form("month", 1, 12, _names(_MONTHS)),
    _Form("day of week", 1, 7, _names(_WEEKDAYS, tues=3, thurs=5), ("*", "?")),
    _Form("year", YEARS[0], YEARS[-1], {}),
)


def _first_from(values: tuple[int, ...], low: int) -> int | None:
    return next((each for each in values if each >= low), None)


def _remedy(fields: list[str]) -> str:
    """What to write instead of a crontab line, whose weekdays count from 0 or 7, Sunday."""
    if len(fields) != 5 or not (fields[2].startswith("*") or fields[4].startswith("*")):
        return ""  # a crontab line with both day fields wants either of them to match, which cannot be written here
    weekday = re.sub(r"(?<![0-9/])[0-7](?![0-9])", lambda match: _WEEKDAYS[int(match[0]) % 7][:3].upper(), fields[4])
    suggestion = " ".join(["0", *fields[:4], weekday])
    try:
        parse(suggestion)
    except ExpressionError:
        return ""
    return f". For the same times write {suggestion!r}"
