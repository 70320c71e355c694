"""Who is next: Waiting against a list and a rule in words; tenants, priorities and programs that share a device."""

import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.batching import finish, inverting, outcomes, program, run, running, same
from workers.engine.batcher import MOST_IDLE, Batcher
from workers.engine.rows import Search, Ticket
from workers.engine.waiting import AGING, Waiting

ROW = inverting(0)
FAR = 10_000


def search(priority: int, tenant: str) -> Search:
    return Ticket([ROW], priority, tenant, threading.Event()).searches[0]


class Listed:
    """The rule, on a plain list: of the most urgent lines, one that was served longest ago; in it, the first."""

    def __init__(self) -> None:
        self.waiting: list[Search] = []
        self.served: list[tuple[int, str]] = []

    def heads(self, now: float, aged: bool, without: set[str]) -> list[Search]:
        """Those that may be next."""
        lines: dict[tuple[int, str], Search] = {}
        for each in self.waiting:
            if each.ticket.tenant not in without:
                lines.setdefault((each.ticket.priority, each.ticket.tenant), each)
        urgency = {key: key[0] + (int((now - head.waits_since) / AGING) if aged else 0) for key, head in lines.items()}
        urgent = [key for key in lines if urgency[key] == max(urgency.values())]
        last = {key: max((i for i, served in enumerate(self.served) if served == key), default=-1) for key in urgent}
        return [lines[key] for key in urgent if last[key] == min(last.values())]

    def take(self, each: Search) -> None:
        self.waiting.remove(each)
        self.served.append((each.ticket.priority, each.ticket.tenant))


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(-1, 2), st.sampled_from("abc")),
        st.tuples(st.just("take"), st.booleans(), st.sets(st.sampled_from("abc"), max_size=2)),
        st.tuples(st.just("back"), st.integers(0, 5), st.just("")),
        st.tuples(st.just("cancel"), st.integers(0, 5), st.just("")),
        st.tuples(st.just("wait"), st.integers(1, 50), st.just("")),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(ACTIONS)
def test_the_next_one_is_the_one_that_the_rule_says(actions: list[tuple[str, int, str | set[str]]]) -> None:
    waiting, listed, now, taken = Waiting(most=1), Listed(), 0.0, list[Search]()
    for name, number, other in actions:
        if name == "push":
            waiting.push(new := search(number, str(other)), now)
            listed.waiting.append(new)
        elif name == "take":
            heads = listed.heads(now, bool(number), full := set(other))
            found = waiting.peek(Counter(full), now, bool(number))
            assert found in heads if heads else found is None
            if found:
                waiting.take(found)
                listed.take(found)
                taken.append(found)
        elif name == "back" and number < len(taken):
            waiting.push_back(back := taken.pop(number))
            listed.waiting.insert(0, back)
        elif name == "cancel" and number < len(listed.waiting):
            listed.waiting[number].ticket.cancelled = True
            waiting.drop_cancelled()
            listed.waiting = [each for each in listed.waiting if not each.ticket.cancelled]
        now += number if name == "wait" else 0
        assert set(map(id, waiting.searches())) == set(map(id, listed.waiting))
        assert (len(waiting), bool(waiting)) == (len(listed.waiting), bool(listed.waiting))
        assert waiting.priorities() == {each.ticket.priority for each in listed.waiting}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=30))
def test_no_tenant_waits_for_more_than_one_turn_of_each_other(tenants: list[str]) -> None:
    waiting, order, none = Waiting(), list[str](), Counter[str]()
    for tenant in tenants:
        waiting.push(search(1, tenant), 0)
    while found := waiting.peek(none, 0):
        waiting.take(found)
        order.append(found.ticket.tenant)
    left = Counter(tenants)
    for i, tenant in enumerate(order):
        upcoming = order[i + 1 : order.index(tenant, i + 1)] if left[tenant] > 1 else []
        assert max(Counter(upcoming).values(), default=0) <= 1
        left[tenant] -= 1


# On a device.


def still() -> float:
    return 0.0


@pytest.mark.parametrize(("first", "second", "shares"), [(4, 4, (2, 2)), (12, 12, (2, 2)), (12, 1, (3, 1))])
def test_a_tenant_that_comes_later_gets_its_share_at_once(first: int, second: int, shares: tuple[int, int]) -> None:
    """Though the one before holds every row with searches that are far from over, and has more that wait."""
    batcher = Batcher(most=4, clock=still)
    batcher.submit(program(), [inverting(i, FAR) for i in range(first)], tenant="first")
    batcher.step()
    batcher.step()
    assert running(batcher) == {"first": 4}
    batcher.submit(program(), [inverting(i, FAR) for i in range(second)], tenant="second")
    batcher.step()
    assert running(batcher) == dict(zip(("first", "second"), shares, strict=True))


def test_shares_stay_even_whoever_has_the_shorter_searches() -> None:
    batcher = Batcher(most=4, block=1, clock=still)
    long = batcher.submit(program(), [inverting(i, FAR) for i in range(8)], tenant="long")
    short = batcher.submit(program(), [inverting(i % 16, 1 + i % 4) for i in range(60)], tenant="short")
    while short.steps.min() == 0:
        assert batcher.step()
        if batcher.places and len(next(iter(batcher.places.values())).waiting) > 8:
            assert all(1 <= n <= 3 for n in running(batcher).values())
    assert sorted(long.steps)[-2] > 20


def test_three_tenants_on_four_rows_differ_by_one_at_most() -> None:
    batcher = Batcher(most=4, clock=still)
    for tenant in "abc":
        batcher.submit(program(), [inverting(i, FAR) for i in range(6)], tenant=tenant)
        batcher.step()
    assert sorted(running(batcher).values()) == [1, 1, 2]


def test_a_higher_priority_takes_a_row_at_once_and_the_preempted_goes_on_to_the_same_bits() -> None:
    batcher, of, numbers = Batcher(block=5), program(bucket=4), range(4)
    low = batcher.submit(of, [inverting(i, 20 + i, patience=9) for i in numbers], priority=0, tenant="low")
    batcher.step()
    batcher.step()
    before = low.steps.copy()
    high = batcher.submit(of, [inverting(i, 8) for i in range(5, 8)], priority=2, tenant="high")
    batcher.step()
    assert running(batcher) == {"high": 3, "low": 1}
    assert sum(low.steps > before) == 1
    finish(batcher)
    assert len(outcomes(high)) == 3
    found, without = outcomes(low), run([inverting(i, 20 + i, patience=9) for i in numbers], of)
    assert all(same(found[i], without[i]) for i in numbers)


def test_who_is_least_far_makes_room() -> None:
    batcher = Batcher(most=2, block=3)
    far = batcher.submit(program(), [inverting(0, FAR)], priority=0)
    for _ in range(3):
        batcher.step()
    near = batcher.submit(program(), [inverting(1, FAR)], priority=0)
    batcher.step()
    batcher.submit(program(), [inverting(2, 1)], priority=1)
    at = far.steps[0], near.steps[0]
    batcher.step()
    assert far.steps[0] > at[0]
    assert near.steps[0] == at[1]


def test_a_lower_priority_takes_no_row_from_a_higher_one() -> None:
    batcher = Batcher(most=2, block=2, clock=still)
    batcher.submit(program(), [inverting(i, FAR) for i in range(2)], priority=1, tenant="high")
    batcher.step()
    low = batcher.submit(program(), [inverting(2, 2)], priority=0, tenant="low")
    for _ in range(5):
        batcher.step()
    assert low.steps[0] == 0


def test_a_row_that_waited_long_enough_gets_the_next_free_place_and_keeps_it_under_a_steady_higher_load() -> None:
    now = [0.0]
    batcher = Batcher(most=1, clock=lambda: now[0])
    low = batcher.submit(program(), [inverting(0, 20)], priority=0, tenant="low")
    over = None
    for i in range(60):
        batcher.submit(program(), [inverting(1 + i % 8, 4)], priority=1, tenant="high")
        batcher.step()
        now[0] += AGING / 5
        over = over or outcomes(low).get(0)
    assert over is not None
    assert over.error is None


def test_ageing_counts_steps_of_priority() -> None:
    waiting, none = Waiting(), Counter[str]()
    waiting.push(old := search(0, "a"), 0.0)
    waiting.push(new := search(2, "b"), 2 * AGING)
    assert waiting.peek(none, 2 * AGING - 1) is new
    waiting.push(search(1, "b"), 2 * AGING)
    assert waiting.peek(none, 3 * AGING) is old
    assert waiting.peek(none, 3 * AGING, aged=False) is new


@pytest.mark.parametrize("cap", [1, 2, 3])
def test_a_tenant_has_at_most_its_cap_of_rows_and_others_take_the_rest(cap: int) -> None:
    batcher = Batcher(most=4, block=2, most_of_tenant=cap)
    tickets = [batcher.submit(program(), [inverting(i, 3 + i) for i in range(6)], p, "a") for p in (0, 2)]
    batcher.step()
    assert running(batcher) == {"a": cap}
    tickets.append(batcher.submit(program(), [inverting(i, 5) for i in range(6)], tenant="b"))
    while batcher.step():
        assert all(n <= cap for n in running(batcher).values())
    assert [len(outcomes(ticket)) for ticket in tickets] == [6, 6, 6]


def test_every_row_of_everyone_ends_once_whatever_their_priorities_steps_and_tenants() -> None:
    batcher = Batcher(most=4, block=3, most_of_tenant=3)
    tickets = []
    for i in range(24):
        of = program(key="ab"[i % 2], bucket=(None, 2)[i // 2 % 2])
        rows = [inverting((i + j) % 16, (i * 7 + j * 5) % 11) for j in range(1 + i % 4)]
        tickets.append(batcher.submit(of, rows, i % 3, "xyz"[i // 3 % 3]))
        batcher.step()
    finish(batcher)
    for i, ticket in enumerate(tickets):
        found = outcomes(ticket)
        assert sorted(found) == list(range(1 + i % 4))
        assert [len(found[j].grad_norm) for j in found] == [(i * 7 + j * 5) % 11 for j in found]


# Lanes side by side.


def test_two_programs_share_the_device_and_the_higher_priority_has_more_of_it() -> None:
    batcher = Batcher(block=1)
    low, high, other = (batcher.submit(program(key=f"{p}"), [inverting(0, FAR)], p // 2) for p in (0, 4, 1))
    for _ in range(60):
        batcher.step()
    assert len(batcher.places) == 3
    assert 0 < low.steps[0] < high.steps[0]
    assert 0 < other.steps[0] < high.steps[0]


def test_options_that_change_the_computation_make_lanes_of_their_own_and_jobs_do_not() -> None:
    batcher = Batcher()
    for options in ({}, {"precision": "tf32"}, {"solver": "adam"}, {"bucket": 4}):
        for tenant in ("one", "other"):
            batcher.submit(program(**options), [inverting(0, 1)], tenant=tenant)
    batcher.step()
    assert len(batcher.places) == 4
    finish(batcher)
    assert batcher.stats.row_steps == 2 * (2 + 2 + 2) + 2 * 4


def test_idle_lanes_are_dropped_by_least_recent_use_and_never_one_that_has_rows() -> None:
    batcher = Batcher()
    long = batcher.submit(program(key="long"), [inverting(0, 60)])
    for key in (*"abcdefgh", "a", "i"):
        ticket = batcher.submit(program(key=key), [inverting(0, 1)])
        while not outcomes(ticket):
            batcher.step()
    kept = [key[0] for key in batcher.places if isinstance(key, tuple)]
    assert kept == ["long", *"cdefgh", "a", "i"][-MOST_IDLE - 1 :]
    finish(batcher)
    assert same(outcomes(long)[0], run([inverting(0, 60)])[0])
