"""``assign`` against the same rules once more, written over sets of function ids of a small universe instead of patterns."""

import itertools
import random

from agentos_contracts.assign import Claimant, Holder, assign
from agentos_contracts.patterns import Pattern
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = "2026-01-01T12:00:00Z"
BEFORE = "2026-01-01T11:00:00Z"

IDS = [f"{segment}::{name}" for segment in "ab" for name in ("x", "xy", "y", "x::z")]
"""Enough that two of the patterns overlap just when some of these matches both."""
PATTERNS = [Pattern.parse(text) for text in ("a", "b", "a::x", "a::x*", "a::y", "a::x::z", "b::x", "b::x*", "b::y")]
UIDS = ["u1", "u2", "u3", "u4", "u5"]
DAYS = ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z"]


def ids_of(text):
    return frozenset(function_id for function_id in IDS if Pattern(text).matches(function_id))


def test_the_universe_tells_all_overlaps():
    for one, other in itertools.product(PATTERNS, PATTERNS):
        assert one.clashes(other) == bool(ids_of(one.text) & ids_of(other.text))


@st.composite
def claimants_drawn(draw):
    uids = draw(st.lists(st.sampled_from(UIDS), unique=True, max_size=5))
    return [draw(claimant_drawn(uid)) for uid in uids]


@st.composite
def claimant_drawn(draw, uid):
    """Worker ``wN`` has uid ``uN``; one that answers has pods."""
    answers = draw(st.booleans())
    return Claimant(
        name=uid.replace("u", "w"),
        uid=uid,
        created=draw(st.sampled_from(DAYS)),
        patterns=tuple(draw(st.lists(st.sampled_from(PATTERNS), max_size=3))),
        discovered=tuple(draw(st.lists(st.sampled_from(PATTERNS), max_size=2))),
        leaving=draw(st.booleans()),
        started=answers or draw(st.booleans()),
        serving=draw(st.booleans()),
        replaces=draw(st.sampled_from(["", "", "w1", "w2", "w3", "nobody"])),
        answers=answers,
    )


rows_drawn = st.lists(st.tuples(st.sampled_from(PATTERNS), st.sampled_from([*UIDS, "nobody"])), max_size=5)


def recorded_from(rows):
    """Records as an apiserver admits them: no two uids overlap."""
    recorded, taken = {}, []
    for pattern, uid in rows:
        if all(uid == other or not ids_of(pattern.text) & ids_of(text) for text, other in taken) and (
            pattern.text not in {text for text, _ in taken}
        ):
            taken.append((pattern.text, uid))
            recorded.setdefault(pattern.segment, []).append(Holder(pattern.text, pattern.text, uid, BEFORE))
    return recorded


class Model:
    """The rules over sets of texts: ``held`` has what each uid holds."""

    def __init__(self, claimants, recorded):
        self.all = {c.uid: c for c in claimants}
        staying = [c for c in claimants if not c.leaving]
        self.ranked = sorted(staying, key=lambda c: (not c.serving, c.created, c.uid))
        self.wants = {c.uid: {pattern.text for pattern in c.patterns} for c in claimants}
        self.also = {c.uid: {pattern.text for pattern in c.discovered} - self.wants[c.uid] for c in claimants}
        self.held = {c.uid: set() for c in claimants}
        for row in itertools.chain.from_iterable(recorded.values()):
            if row.uid in self.all:
                anything = self.all[row.uid].leaving
                if anything or row.pattern in self.wants[row.uid] | self.also[row.uid]:
                    self.held[row.uid].add(row.pattern)
        self.replaces = {c.uid: self._replaced(c) for c in staying}

    def _replaced(self, c):
        """The uid that a claimant replaces, unless it is the older one in a circle; empty when there is none."""
        named = {each.name: each for each in self.all.values()}
        target = named.get(c.replaces)
        if target is None or target is c:
            return ""
        each = target
        for _ in self.all:
            if each is None or each.leaving:
                return target.uid
            if each is c:
                return "" if (c.created, c.uid) < (target.created, target.uid) else target.uid
            each = named.get(each.replaces)
        return target.uid

    def free(self, uid, text):
        others = (text for other, texts in self.held.items() if other != uid for text in texts)
        return not any(ids_of(text) & ids_of(other) for other in others)

    def is_replaced(self, uid):
        """Whether some other has taken over from it, or from the one that did."""
        by = [other for other, replaced in self.replaces.items() if replaced == uid]
        return not self.held[uid] and any(self.held[other] or self.is_replaced(other) for other in by)

    def grant(self, uid):
        if self.is_replaced(uid):
            return
        if all(self.free(uid, text) for text in self.wants[uid] - self.held[uid]):
            self.held[uid] |= self.wants[uid]
        for text in sorted(self.also[uid]):
            if self.free(uid, text):
                self.held[uid].add(text)

    def hand_over(self, uid):
        replaced = self.replaces[uid]
        if not (replaced and self.held[replaced] and self.all[uid].answers):
            return False
        before = {other: set(texts) for other, texts in self.held.items()}
        self.held[replaced] = set()
        self.grant(uid)
        if self.held[uid] and self.wants[uid] <= self.held[uid]:
            return True
        self.held = before
        return False

    def settle(self):
        while True:
            for c in self.ranked:
                self.grant(c.uid)
            if not any(self.hand_over(c.uid) for c in self.ranked):
                return

    def decide(self):
        self.settle()
        for c in self.ranked:
            if not c.started and not self.wants[c.uid] <= self.held[c.uid]:
                self.held[c.uid] -= self.wants[c.uid]
        self.settle()
        return {uid: texts for uid, texts in self.held.items() if texts}


def held_in(assignment):
    held = {}
    for row in itertools.chain.from_iterable(assignment.holders.values()):
        held.setdefault(row.uid, set()).add(row.pattern)
    return held


@settings(max_examples=600, deadline=None)
@given(claimants_drawn(), rows_drawn, st.randoms())
def test_an_assignment_follows_the_rules(claimants, rows, shuffler: random.Random):
    recorded = recorded_from(rows)
    result = assign(claimants, recorded, NOW)
    model = Model(claimants, recorded)
    held = held_in(result)
    assert held == model.decide()

    staying = [c.uid for c in claimants if not c.leaving]
    assert set(result.waiting) == {uid for uid in staying if not model.wants[uid] <= held.get(uid, set())} - {
        uid for uid in staying if all(model.free(uid, text) for text in model.wants[uid] - held.get(uid, set()))
    }
    assert set(result.replaced) == {uid for uid in staying if model.is_replaced(uid)}
    for uid in result.succeeding:
        assert {clash.holder.uid for clash in result.waiting.get(uid, ())} <= {model.replaces[uid]}

    again = assign(claimants, result.holders, "2027-01-01T00:00:00Z")
    assert again == result

    shuffled = list(claimants)
    shuffler.shuffle(shuffled)
    assert assign(shuffled, {key: rows[::-1] for key, rows in reversed(recorded.items())}, NOW) == result


@settings(max_examples=300, deadline=None)
@given(claimants_drawn(), rows_drawn)
def test_nothing_has_two_owners_and_nobody_is_dispossessed_but_by_the_one_that_replaces_it(claimants, rows):
    recorded = recorded_from(rows)
    result = assign(claimants, recorded, NOW)
    held = held_in(result)
    for (one, texts), (other, others) in itertools.combinations(held.items(), 2):
        assert not {i for text in texts for i in ids_of(text)} & {i for text in others for i in ids_of(text)}, (
            one,
            other,
        )
    handed_over = {c.replaces for c in claimants if c.answers and not c.leaving}
    for c in claimants:
        kept = {row.pattern for rows in recorded.values() for row in rows if row.uid == c.uid}
        wants = {pattern.text for pattern in c.patterns}
        also = {pattern.text for pattern in c.discovered}
        if c.leaving:
            assert held.get(c.uid, set()) <= kept
        if (c.started or c.leaving) and c.name not in handed_over:
            assert (kept if c.leaving else kept & (wants | also)) <= held.get(c.uid, set())
        new = held.get(c.uid, set()) & wants - kept
        assert not new or wants <= held[c.uid], "all or none"
    for segment, before in recorded.items():
        assert all(row.since == NOW or row in before for row in result.holders[segment])
