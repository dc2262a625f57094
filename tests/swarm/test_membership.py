"""Membership as a step machine: the transition table, the order of reports, the limit, the view."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.config import PEERS_MAX
from p2pfusion.swarm.membership import Change, Membership, Status
from p2pfusion.wire.messages import Report, Rumour
from tests.swarm.made import ME, peer, report

SUSPECT_S, DEAD_S = 3.0, 6.0


def membership() -> Membership:
    return Membership(ME, suspect_s=SUSPECT_S, dead_s=DEAD_S)


def left(member: int, incarnation: int = 1) -> Rumour:
    return Rumour(peer(member), incarnation, "left")


def became(status: Status, member: int = 1) -> list[Change]:
    return [Change(peer(member), f"node-{member}", status)]


def brought_to(status: Status) -> Membership:
    """Member 1 last heard at 0 s as (incarnation 2, beat 5), in that status."""
    members = membership()
    members.observe(report(1, 5, incarnation=2), 0.0)
    if status == "left":
        members.hear_rumour(left(1, 2))
    elif status != "alive":
        members.tick(SUSPECT_S if status == "suspect" else DEAD_S)
    return members


def status_of(members: Membership) -> Status | None:
    """Of member 1, as the three public lists tell it."""
    found: list[Status] = [p.status for p in members.view(0.0).peers]
    found += [p.status for p in members.dead()]
    found += ["left" for _ in members.gone()]
    assert len(found) <= 1
    return found[0] if found else None


# -- the transition table ---------------------------------------------------------------------------------------------

NEWER = {"next beat": (2, 6), "next incarnation": (3, 0)}
OLDER = {"same": (2, 5), "lower beat": (2, 4), "lower incarnation, higher beat": (1, 99)}
AFTER_NEWER: dict[tuple[Status, str], Status] = {
    ("alive", "next beat"): "alive",
    ("alive", "next incarnation"): "alive",
    ("suspect", "next beat"): "alive",
    ("suspect", "next incarnation"): "alive",
    ("dead", "next beat"): "alive",
    ("dead", "next incarnation"): "alive",
    ("left", "next beat"): "left",
    ("left", "next incarnation"): "alive",
}


@pytest.mark.parametrize(("status", "which"), AFTER_NEWER)
def test_a_newer_report(status, which):
    members, (incarnation, beat) = brought_to(status), NEWER[which]
    news = report(1, beat, incarnation=incarnation, role="draining")
    after = AFTER_NEWER[status, which]
    assert members.observe(news, 10.0) == ([] if after == status else became(after))
    assert status_of(members) == after
    assert members.report_of(peer(1)) == news


@pytest.mark.parametrize("status", ["alive", "suspect", "dead", "left"])
@pytest.mark.parametrize("which", OLDER)
def test_an_older_report_changes_nothing(status, which):
    members, (incarnation, beat) = brought_to(status), OLDER[which]
    assert members.observe(report(1, beat, incarnation=incarnation, role="draining"), 10.0) is None
    assert status_of(members) == status
    known = members.report_of(peer(1))
    assert known is not None
    assert (known.incarnation, known.beat, known.role) == (2, 5, "trains")


@pytest.mark.parametrize(
    ("status", "at_s", "after"),
    [
        ("alive", 2.9, "alive"),
        ("alive", 3.0, "suspect"),
        ("alive", 6.0, "dead"),
        ("suspect", 5.9, "suspect"),
        ("suspect", 6.0, "dead"),
        ("dead", 100.0, "dead"),
        ("left", 100.0, "left"),
    ],
)
def test_silence(status, at_s, after):
    members = brought_to(status)
    assert members.tick(at_s) == ([] if after == status else became(after))
    assert status_of(members) == after
    assert members.tick(at_s) == []


@pytest.mark.parametrize("status", ["alive", "suspect", "dead", "left"])
@pytest.mark.parametrize("incarnation", [1, 2, 3])
def test_a_rumour_that_it_left(status, incarnation):
    members = brought_to(status)
    is_news = incarnation >= 2 and status != "left"
    assert members.hear_rumour(left(1, incarnation)) == (became("left") if is_news else None)
    assert status_of(members) == ("left" if is_news else status)


def test_a_rumour_about_somebody_unknown_is_nothing():
    members = membership()
    assert members.hear_rumour(left(1)) is None
    assert members.gone() == []


def test_a_beat_keeps_a_member_alive():
    members = membership()
    for beat in range(10):
        assert members.observe(report(1, beat), 2.0 * beat) == (became("alive") if beat == 0 else [])
        assert members.tick(2.0 * beat + 2.0) == []


def test_my_own_report_relayed_is_none_of_my_business():
    members = membership()
    assert members.observe(report(0, 99), 0.0) is None
    assert members.view(0.0).peers == ()


def test_who_slept_starts_every_clock_anew():
    members = membership()
    members.observe(report(1), 0.0)
    members.observe(report(2), 0.0)
    members.tick(SUSPECT_S)
    members.woke(100.0)
    assert members.tick(100.0 + SUSPECT_S - 0.1) == []
    assert [p.status for p in members.view(0.0).peers] == ["suspect", "suspect"], "only a report clears suspicion"
    assert members.tick(100.0 + DEAD_S) == became("dead", 1) + became("dead", 2)


def test_changes_come_sorted_by_id():
    members = membership()
    for member in (3, 1, 2):
        members.observe(report(member), 0.0)
    assert members.tick(SUSPECT_S) == [change for m in (1, 2, 3) for change in became("suspect", m)]


# -- what others read -------------------------------------------------------------------------------------------------


def test_the_view_has_the_live_ones_sorted():
    members = membership()
    for member in (4, 2, 3, 1):
        members.observe(report(member, addresses=(f"10.0.0.{member}:7000",)), 0.0)
    members.hear_rumour(left(3))
    members.tick(SUSPECT_S)
    members.observe(report(2, 2, addresses=("10.0.0.2:7000",)), SUSPECT_S)
    view = members.view(4.0)
    assert (view.me, view.at_s) == (ME, 4.0)
    assert [(p.id, p.status) for p in view.peers] == [(peer(1), "suspect"), (peer(2), "alive"), (peer(4), "suspect")]
    assert [p.addresses for p in view.peers] == [("10.0.0.1:7000",), ("10.0.0.2:7000",), ("10.0.0.4:7000",)]
    assert [(r.peer, status) for r, status in members.reports()] == [(p.id, p.status) for p in view.peers]
    assert members.gone() == [left(3)]
    assert repr(members) == "<Membership node-1 suspect, node-2 alive, node-3 left, node-4 suspect>"


def test_the_view_stays_as_it_was():
    members = membership()
    members.observe(report(1), 0.0)
    view = members.view(0.0)
    members.tick(DEAD_S)
    assert [p.status for p in view.peers] == ["alive"]


def test_trainers_are_those_who_train_and_are_not_suspect_and_i():
    members = Membership(peer(3), suspect_s=SUSPECT_S, dead_s=DEAD_S)
    members.observe(report(1), 0.0)
    members.tick(SUSPECT_S)
    for member, role in ((2, "trains"), (4, "syncing"), (5, "draining"), (6, "observes"), (7, "trains")):
        members.observe(report(member, role=role), SUSPECT_S)
    assert members.view(SUSPECT_S).trainers() == (peer(2), peer(3), peer(7))


def test_a_report_of_an_unknown_peer():
    assert membership().report_of(peer(1)) is None


# -- the limit --------------------------------------------------------------------------------------------------------


def full() -> Membership:
    """`PEERS_MAX` live members, the first ones heard of first."""
    members = membership()
    for member in range(1, PEERS_MAX + 1):
        assert members.observe(report(member), member / PEERS_MAX) is not None
    return members


def test_one_more_than_peers_max_is_ignored_while_all_live():
    members = full()
    assert members.observe(report(PEERS_MAX + 1), 2.0) is None
    assert len(members.view(2.0).peers) == PEERS_MAX
    assert members.observe(report(7, 2), 2.0) == [], "who is known is still heard"


@pytest.mark.parametrize("how", ["dead", "left"])
def test_the_one_gone_longest_makes_room(how):
    members = full()
    gone = (9, 400, 17)
    for beat, member in enumerate(range(1, PEERS_MAX + 1), 2):
        if member not in gone:
            members.observe(report(member, beat), 10.0)
    if how == "dead":
        assert [c.peer for c in members.tick(DEAD_S + 1.0)] == [peer(m) for m in sorted(gone)]
    else:
        for member in gone:
            members.hear_rumour(left(member))
    for newcomer, forgotten in enumerate(sorted(gone), PEERS_MAX + 1):
        assert members.observe(report(newcomer), 10.0) == became("alive", newcomer)
        assert members.report_of(peer(forgotten)) is None
    assert members.observe(report(PEERS_MAX + 9), 10.0) is None
    assert members.dead() == members.gone() == []


# -- properties -------------------------------------------------------------------------------------------------------

numbered = st.builds(
    lambda member, incarnation, beat: report(member, beat, incarnation=incarnation),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 4),
)


@given(st.lists(numbered), st.randoms())
def test_what_is_known_in_the_end_does_not_depend_on_the_order(heard, random):
    def known(order: list[Report]) -> list[Report | None]:
        members = membership()
        for one in order:
            members.observe(one, 0.0)
        return [members.report_of(peer(member)) for member in (1, 2, 3)]

    again = [*heard, *heard]
    random.shuffle(again)
    assert known(again) == known(heard)


@given(
    st.lists(st.one_of(numbered, st.builds(left, st.integers(1, 3), st.integers(1, 3)), st.floats(0, 4)), max_size=30)
)
def test_incarnations_never_fall_and_changes_are_changes(steps):
    members, now_s = membership(), 0.0
    incarnations, statuses = dict.fromkeys((1, 2, 3), 0), dict.fromkeys((1, 2, 3))
    for step in steps:
        if isinstance(step, float):
            now_s += step
            changes = members.tick(now_s)
        elif isinstance(step, Rumour):
            changes = members.hear_rumour(step) or []
        else:
            changes = members.observe(step, now_s) or []
        for change in changes:
            number = int.from_bytes(change.peer, "big")
            assert statuses[number] != change.status
            statuses[number] = change.status
        for number, before in incarnations.items():
            known = members.report_of(peer(number))
            incarnations[number] = known.incarnation if known else 0
            assert incarnations[number] >= before
        live = {p.id: p.status for p in members.view(now_s).peers}
        assert live == {peer(n): s for n, s in statuses.items() if s in ("alive", "suspect")}


def test_a_report_is_taken_as_it_is():
    members, one = membership(), report(1)
    members.observe(one, 0.0)
    members.observe(replace(one, beat=2, addresses=("10.0.0.9:1",), name="renamed"), 1.0)
    (found,) = members.view(1.0).peers
    assert (found.name, found.addresses, found.incarnation, found.role) == ("renamed", ("10.0.0.9:1",), 1, "trains")
