"""Membership as a step machine: whose word counts for what, suspicion and death, tombstones, limits, the view.

After memberlist's state_test.go: `TestMemberList_AliveNode_*`, `SuspectNode_*`, `DeadNode_*`, `Refute`.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.config import PEERS_MAX, RUMOURS_PER_CALL_MAX, GossipConfig
from p2pfusion.swarm.membership import TOMBSTONE_S, Change, Membership, Status
from p2pfusion.wire.messages import PeerId, Report, Rumour
from tests.swarm.made import ME, peer, report

GOSSIP = GossipConfig(suspicion_min_s=1.5, suspicion_max_s=4.0, probe_interval_s=1.0, indirect_probes=3)
STATUSES: tuple[Status, ...] = ("alive", "suspect", "dead", "left")


def membership(me: PeerId = ME) -> Membership:
    return Membership(me, GOSSIP)


def left(member: int, incarnation: int = 1) -> Rumour:
    return Rumour(peer(member), incarnation, "left", peer(member))


def suspect(member: int, incarnation: int = 1, by: int = 8) -> Rumour:
    return Rumour(peer(member), incarnation, "suspect", peer(by))


def dead(member: int, incarnation: int = 1, by: int = 8) -> Rumour:
    return Rumour(peer(member), incarnation, "dead", peer(by))


def became(status: Status, member: int = 1) -> list[Change]:
    return [Change(peer(member), f"node-{member}", status)]


def brought_to(status: Status, others: int = 6) -> Membership:
    """Member 1 known as (incarnation 2, beat 5) in that status since 0 s; `others` more are alive."""
    members = membership()
    members.observe(report(1, 5, incarnation=2), 0.0)
    for other in range(2, 2 + others):
        members.observe(report(other), 0.0)
    if status == "left":
        members.hear_rumour(left(1, 2), 0.0)
    elif status != "alive":
        members.accuse(peer(1), -4.0 if status == "dead" else 0.0)
        members.tick(0.0)
    assert status_of(members) == status
    members.to_warn()
    return members


def status_of(members: Membership, member: int = 1) -> Status | None:
    """As the public lists tell it."""
    found: list[Status] = [p.status for p in members.view(0.0).peers if p.id == peer(member)]
    found += [p.status for p in members.dead() if p.id == peer(member)]
    found += ["left" for r in members.gone() if (r.peer, r.status) == (peer(member), "left")]
    assert len(found) <= 1
    return found[0] if found else None


# -- reports: the transition table ------------------------------------------------------------------------------------

NEWER = {"next beat": (2, 6), "next incarnation": (3, 0)}
OLDER = {"same": (2, 5), "lower beat": (2, 4), "lower incarnation, higher beat": (1, 99)}
RELAYED: dict[tuple[Status, str], Status] = {
    ("alive", "next beat"): "alive",
    ("alive", "next incarnation"): "alive",
    ("suspect", "next beat"): "suspect",
    ("suspect", "next incarnation"): "alive",
    ("dead", "next beat"): "dead",
    ("dead", "next incarnation"): "alive",
    ("left", "next beat"): "left",
    ("left", "next incarnation"): "alive",
}
DIRECT = RELAYED | {("suspect", "next beat"): "alive", ("dead", "next beat"): "alive"}


@pytest.mark.parametrize(("status", "which"), RELAYED)
@pytest.mark.parametrize("by", [None, 1, 5])
def test_a_newer_report(status, which, by):
    """Relayed, only a higher incarnation clears; from the accused itself, any newer line does, except after leaving."""
    members, (incarnation, beat) = brought_to(status), NEWER[which]
    news = report(1, beat, incarnation=incarnation, role="draining")
    after = (DIRECT if by == 1 else RELAYED)[status, which]
    changes = members.observe(news, 10.0, None if by is None else peer(by))
    is_believed = (status, after) != ("dead", "dead")
    assert changes == (None if not is_believed else [] if after == status else became(after))
    assert status_of(members) == after
    known = members.report_of(peer(1))
    assert known == (news if is_believed else report(1, 5, incarnation=2))


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("which", OLDER)
@pytest.mark.parametrize("by", [None, 5])
def test_an_older_report_that_is_relayed_changes_nothing(status, which, by):
    members, (incarnation, beat) = brought_to(status), OLDER[which]
    line = report(1, beat, incarnation=incarnation, role="draining")
    assert members.observe(line, 10.0, None if by is None else peer(by)) is None
    assert status_of(members) == status
    assert members.report_of(peer(1)) == report(1, 5, incarnation=2)


def test_its_own_word_counts_although_somebody_else_was_faster_to_relay_it():
    members = brought_to("suspect")
    assert members.observe(report(1, 6, incarnation=2), 1.0, peer(5)) == []
    assert members.observe(report(1, 6, incarnation=2), 1.1, peer(1)) == became("alive")


def test_a_request_that_lingered_proves_nothing_twice():
    members = brought_to("alive")
    members.observe(report(1, 6, incarnation=2), 1.0, peer(1))
    members.accuse(peer(1), 3.0)
    assert members.observe(report(1, 6, incarnation=2), 3.5, peer(1)) is None
    assert status_of(members) == "suspect"
    members.tick(9.0)
    assert members.observe(report(1, 6, incarnation=2), 9.5, peer(1)) is None
    assert status_of(members) == "dead"


@pytest.mark.parametrize(("status", "after"), [("alive", []), ("suspect", became("alive")), ("dead", became("alive"))])
def test_an_answer_is_proof_of_life(status, after):
    members = brought_to(status)
    assert members.heard(peer(1), 1.0) == after
    assert status_of(members) == "alive"


def test_who_left_and_answers_has_left_all_the_same():
    assert brought_to("left").heard(peer(1), 1.0) == []


def test_a_stranger_who_answers_is_not_yet_a_member():
    assert membership().heard(peer(1), 1.0) == []


def test_my_own_report_relayed_is_none_of_my_business():
    members = membership()
    assert members.observe(report(0, 99), 0.0) is None
    assert members.view(0.0).peers == ()


# -- accusations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("incarnation", [1, 2, 3])
@pytest.mark.parametrize("status", STATUSES)
def test_a_rumour_of_suspicion(incarnation, status):
    members = brought_to(status)
    changes = members.hear_rumour(suspect(1, incarnation), 1.0)
    is_news = incarnation >= 2 and status in ("alive", "suspect")
    assert changes == (None if not is_news else became("suspect") if status == "alive" else [])
    assert status_of(members) == ("suspect" if is_news else status)


@pytest.mark.parametrize(
    ("accusers", "dies_s"),
    [([], 4.0), ([2], 2.75), ([2, 3], 2.019), ([2, 3, 4], 1.5), ([2, 3, 4, 5], 1.5), ([2, 2, 2], 2.75)],
)
def test_independent_accusers_shorten_its_time(accusers, dies_s):
    members = brought_to("suspect")
    for accuser in accusers:
        members.hear_rumour(suspect(1, 2, by=accuser), 0.1)
    assert members.tick(dies_s - 0.01) == []
    assert members.tick(dies_s + 0.01) == became("dead")
    assert members.tick(99.0) == []


@pytest.mark.parametrize(("others", "dies_s"), [(0, 4.0), (1, 1.5), (2, 1.5)])
def test_in_a_small_swarm_fewer_are_enough(others, dies_s):
    """Of two nobody can confirm: then only time decides."""
    members = brought_to("suspect", others)
    for accuser in range(2, 2 + others):
        members.hear_rumour(suspect(1, 2, by=accuser), 0.1)
    assert members.tick(dies_s - 0.01) == []
    assert members.tick(dies_s) == became("dead")


def test_news_of_an_accuser_is_passed_on_once():
    members = brought_to("alive")
    for _ in range(3):
        members.hear_rumour(suspect(1, 2, by=3), 0.1)
    assert members.tell(peer(5)) == (suspect(1, 2, by=3),)
    assert members.hear_rumour(suspect(1, 2, by=3), 0.1) is None


def test_a_death_that_is_told_is_a_suspicion_with_the_least_time():
    """Stale news cannot kill: after a partition both sides tell of the other's deaths."""
    members = brought_to("alive")
    assert members.hear_rumour(dead(1, 2), 1.0) == became("suspect")
    assert members.to_warn() == [peer(1)]
    assert members.tick(2.4) == []
    assert members.tick(2.5) == became("dead")


def test_a_death_that_is_told_of_a_suspect_ends_its_time():
    members = brought_to("suspect")
    assert members.hear_rumour(dead(1, 2), 2.0) == []
    assert members.tick(2.0) == became("dead"), "it had the least time to refute already"


def test_who_has_just_spoken_to_me_is_not_suspected_on_hearsay_but_told():
    members = brought_to("alive")
    members.observe(report(1, 6, incarnation=2), 5.0, peer(1))
    assert members.hear_rumour(suspect(1, 2), 5.9) is None
    assert members.hear_rumour(dead(1, 2), 5.9) is None
    assert status_of(members) == "alive"
    assert members.tell(peer(1)) == (dead(1, 2),)
    assert members.tell(peer(3)) == ()
    assert members.hear_rumour(suspect(1, 2), 6.0) == became("suspect")


def test_the_accused_is_always_told_until_it_contradicts():
    members = brought_to("alive")
    members.accuse(peer(1), 0.0)
    mine = Rumour(peer(1), 2, "suspect", ME)
    assert members.to_warn() == [peer(1)]
    assert members.to_warn() == []
    assert members.accused() == [peer(1)]
    for _ in range(20):
        assert mine in members.tell(peer(1))
    assert members.tell(peer(3)) == (mine,)
    assert members.tell(peer(3)) == (), "others are told once"
    members.heard(peer(1), 1.0)
    assert members.tell(peer(1)) == (mine,), "it lives, but only it can tell everybody"
    assert members.accused() == []
    members.observe(report(1, 6, incarnation=3), 1.1, peer(4))
    assert members.tell(peer(1)) == ()


def test_the_dead_are_told_what_they_died_of():
    members = brought_to("dead")
    assert members.tell(peer(1))[0] == Rumour(peer(1), 2, "dead", ME)


def test_who_is_refuted_stays_refuted():
    members = brought_to("suspect")
    assert members.observe(report(1, 0, incarnation=3), 1.0, peer(4)) == became("alive")
    assert members.hear_rumour(suspect(1, 2, by=6), 1.1) is None
    assert members.hear_rumour(dead(1, 2, by=6), 1.2) is None
    assert members.tick(99.0) == []


def test_a_suspicion_of_a_later_life_is_not_cleared_by_an_earlier_one():
    members = brought_to("alive")
    members.hear_rumour(suspect(1, 7), 0.0)
    assert members.observe(report(1, 0, incarnation=7), 1.0, peer(4)) == []
    assert status_of(members) == "suspect"
    assert members.observe(report(1, 0, incarnation=8), 1.1, peer(4)) == became("alive")


def test_who_only_suspects_the_dead_is_told_of_the_death():
    members = brought_to("dead")
    members.rumours.drop(peer(1))
    members.hear_rumour(suspect(1, 2, by=6), 1.0)
    assert members.tell(peer(6)) == (Rumour(peer(1), 2, "dead", ME),)


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("incarnation", [1, 2, 3])
def test_a_rumour_that_it_left(status, incarnation):
    members = brought_to(status)
    is_news = incarnation >= 2 and status != "left"
    assert members.hear_rumour(left(1, incarnation), 1.0) == (became("left") if is_news else None)
    assert status_of(members) == ("left" if is_news else status)
    assert members.tick(99.0) == ([] if status != "suspect" or is_news else became("dead"))


@pytest.mark.parametrize("rumour", [left(1), suspect(1), dead(1)])
def test_a_rumour_about_somebody_unknown_is_nothing(rumour):
    members = membership()
    assert members.hear_rumour(rumour, 0.0) is None
    assert members.accuse(peer(1), 0.0) == []
    assert members.gone() == []


@pytest.mark.parametrize("status", ["dead", "left"])
def test_who_is_gone_is_not_accused(status):
    assert brought_to(status).accuse(peer(1), 1.0) == []


# -- a loop that stood still ------------------------------------------------------------------------------------------


def test_time_in_which_i_stood_still_does_not_count():
    members = brought_to("suspect")
    members.stood_still(2.0, 3.0)
    assert members.tick(5.9) == []
    assert members.tick(6.0) == became("dead")


def test_who_slept_longer_than_the_suspicion_time_starts_every_clock_anew():
    members = brought_to("suspect")
    for accuser in (2, 3, 4):
        members.hear_rumour(dead(1, 2, by=accuser), 0.1)
    members.stood_still(100.0, 100.0)
    assert status_of(members) == "suspect", "only its word clears it"
    assert members.tick(103.9) == []
    assert members.tick(104.0) == became("dead")


# -- another id at the same address -----------------------------------------------------------------------------------


def at(member: int, *addresses: str, beat: int = 1, incarnation: int = 1) -> Report:
    return report(member, beat, addresses=addresses, incarnation=incarnation)


def test_who_lost_its_disk_is_a_new_peer_and_the_old_one_is_dead_at_once():
    members = membership()
    members.observe(at(1, "a"), 0.0)
    members.observe(at(2, "a"), 1.0, peer(2))
    assert members.neighbours(at(2, "a")) == [peer(1)]
    assert members.displaced(peer(1), peer(2), 1.0) == became("dead")
    assert members.tell(peer(9)) == (Rumour(peer(1), 1, "dead", ME),)
    assert members.dead() == [], "there is no use in calling that address for it"
    assert members.displaced(peer(1), peer(2), 1.0) == []


@pytest.mark.parametrize(
    ("theirs", "mine", "is_claimed"),
    [
        (("a",), ("a",), True),
        (("a",), ("a", "b"), True),
        (("a", "b"), ("a",), False),  # it may well be reached at b
        (("a",), ("b",), False),
        ((), ("a",), False),
    ],
)
def test_neighbours_have_all_their_addresses_in_common(theirs, mine, is_claimed):
    members = membership()
    members.observe(at(1, *theirs), 0.0)
    assert members.neighbours(at(2, *mine)) == is_claimed * [peer(1)]


def test_who_lives_in_spite_of_another_at_its_address_is_not_killed_again():
    members = membership()
    members.observe(at(1, "a"), 0.0)
    members.displaced(peer(1), peer(2), 1.0)
    assert members.observe(at(1, "a", beat=2), 2.0, peer(1)) == became("alive")
    assert members.displaced(peer(1), peer(2), 3.0) == []


def test_nobody_displaces_itself_or_me():
    members = membership()
    members.observe(at(1, "a"), 0.0)
    assert members.displaced(peer(1), peer(1), 1.0) == []
    assert members.displaced(ME, peer(1), 1.0) == []
    assert members.displaced(peer(7), peer(1), 1.0) == []


# -- identities in disorder -------------------------------------------------------------------------------------------


def test_who_speaks_as_of_an_older_life_is_reminded_until_it_goes_on_above():
    members = brought_to("left")
    assert members.observe(report(1, 99, incarnation=1), 1.0, peer(1)) is None
    assert members.to_remind(peer(1)) == report(1, 5, incarnation=2)
    assert members.to_remind(peer(2)) is None
    assert members.observe(report(1, 0, incarnation=3), 1.0, peer(1)) == became("alive")
    assert members.to_remind(peer(1)) is None


def test_two_that_speak_as_one_are_reminded_of_each_other():
    members = membership()
    members.observe(at(1, "a", beat=9), 0.0, peer(1))
    members.observe(at(1, "b", beat=2), 0.0, peer(1))
    assert members.to_remind(peer(1)) == at(1, "a", beat=9)


# -- what is told -----------------------------------------------------------------------------------------------------


def test_everything_is_told_when_asked_within_the_limit_the_latest_first():
    members = membership()
    for member in range(1, RUMOURS_PER_CALL_MAX + 9):
        members.observe(report(member), 0.0)
        members.hear_rumour(left(member), float(member))
    for member in range(1, RUMOURS_PER_CALL_MAX + 9):
        members.rumours.drop(peer(member))
    assert members.tell(peer(999)) == ()
    told = members.tell(peer(999), all_=True)
    assert told == tuple(left(member) for member in range(RUMOURS_PER_CALL_MAX + 8, 8, -1))


def test_rumours_per_call_max():
    members = membership()
    for member in range(1, RUMOURS_PER_CALL_MAX + 9):
        members.observe(report(member), 0.0)
        members.hear_rumour(suspect(member, by=999), 1.0)
    assert len(members.tell(peer(500))) == RUMOURS_PER_CALL_MAX
    assert len(members.tell(peer(1))) <= RUMOURS_PER_CALL_MAX
    assert suspect(1, by=999) in members.tell(peer(1), all_=True)


# -- the view ---------------------------------------------------------------------------------------------------------


def test_the_view_has_the_live_ones_sorted():
    members = membership()
    for member in (4, 2, 3, 1):
        members.observe(at(member, f"10.0.0.{member}:7000"), 0.0)
    members.accuse(peer(1), 0.0)
    members.accuse(peer(4), 0.0)
    members.hear_rumour(left(3), 0.0)
    view = members.view(4.0)
    assert (view.me, view.at_s) == (ME, 4.0)
    assert [(p.id, p.status) for p in view.peers] == [(peer(1), "suspect"), (peer(2), "alive"), (peer(4), "suspect")]
    assert [p.addresses for p in view.peers] == [("10.0.0.1:7000",), ("10.0.0.2:7000",), ("10.0.0.4:7000",)]
    assert [(r.peer, status) for r, status in members.reports()] == [(p.id, p.status) for p in view.peers]
    assert members.live() == [p.id for p in view.peers]
    assert members.gone() == [left(3)]
    assert repr(members) == "<Membership node-1 suspect, node-2 alive, node-3 left, node-4 suspect>"


def test_the_view_stays_as_it_was():
    members = brought_to("alive", others=0)
    view = members.view(0.0)
    members.accuse(peer(1), 0.0)
    assert [p.status for p in view.peers] == ["alive"]


def test_trainers_are_those_who_train_and_are_not_suspect_and_i():
    members = membership(peer(3))
    for member, role in ((1, "trains"), (2, "trains"), (4, "syncing"), (5, "draining"), (6, "observes"), (7, "trains")):
        members.observe(report(member, role=role), 0.0)
    members.accuse(peer(1), 0.0)
    assert members.view(0.0).trainers() == (peer(2), peer(3), peer(7))


def test_changes_come_sorted_by_id_and_say_what_was_before():
    members = membership()
    for member in (3, 1, 2):
        members.observe(report(member), 0.0)
        members.accuse(peer(member), 0.0)
    changes = members.tick(9.0)
    assert changes == [change for m in (1, 2, 3) for change in became("dead", m)]
    assert {change.before for change in changes} == {"suspect"}


def test_a_report_is_taken_as_it_is():
    members, one = membership(), report(1)
    members.observe(one, 0.0)
    members.observe(replace(one, beat=2, addresses=("10.0.0.9:1",), name="renamed"), 1.0)
    (found,) = members.view(1.0).peers
    assert (found.name, found.addresses, found.incarnation, found.role) == ("renamed", ("10.0.0.9:1",), 1, "trains")
    assert membership().report_of(peer(1)) is None


# -- the limits -------------------------------------------------------------------------------------------------------


def full() -> Membership:
    """`PEERS_MAX` live members."""
    members = membership()
    for member in range(1, PEERS_MAX + 1):
        assert members.observe(report(member), 0.0) is not None
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
    for now_s, member in enumerate(gone):
        if how == "dead":
            members.accuse(peer(member), now_s - 4.0)
            members.tick(now_s)
        else:
            members.hear_rumour(left(member), now_s)
    for newcomer, forgotten in enumerate(gone, PEERS_MAX + 1):
        assert members.observe(report(newcomer), 10.0) == became("alive", newcomer)
        assert members.report_of(peer(forgotten)) is None
    assert members.observe(report(PEERS_MAX + 9), 10.0) is None
    assert members.dead() == members.gone() == []


@pytest.mark.parametrize("status", ["dead", "left"])
def test_tombstones_are_forgotten_after_a_day(status):
    members = brought_to(status)
    members.tick(TOMBSTONE_S - 1.0)
    assert members.gone() != []
    members.tick(2 * TOMBSTONE_S)
    assert members.gone() == []
    assert len(members.live()) == 6


# -- properties -------------------------------------------------------------------------------------------------------

numbers = st.integers(1, 3)
numbered = st.builds(lambda m, i, b: report(m, b, incarnation=i), numbers, numbers, st.integers(0, 4))
said = st.tuples(numbered, st.none() | numbers)
rumoured = st.builds(
    lambda m, i, s, a: Rumour(peer(m), i, s, peer(a)),
    numbers,
    numbers,
    st.sampled_from(["suspect", "dead", "left"]),
    st.integers(1, 6),
)
deeds = st.tuples(st.sampled_from(["accuse", "heard", "displaced", "still"]), numbers)


@given(st.lists(numbered), st.randoms())
def test_what_is_known_of_the_living_does_not_depend_on_the_order(heard, random):
    def known(order: list[Report]) -> list[Report | None]:
        members = membership()
        for one in order:
            members.observe(one, 0.0)
        return [members.report_of(peer(member)) for member in (1, 2, 3)]

    again = [*heard, *heard]
    random.shuffle(again)
    assert known(again) == known(heard)


def step(members: Membership, one: object, now_s: float) -> list[Change]:
    match one:
        case (Report() as line, by):
            return members.observe(line, now_s, None if by is None else peer(by)) or []
        case Rumour():
            return members.hear_rumour(one, now_s) or []
        case ("accuse", member):
            return members.accuse(peer(member), now_s)
        case ("heard", member):
            return members.heard(peer(member), now_s)
        case ("displaced", member):
            return members.displaced(peer(member), peer(9), now_s)
    members.stood_still(2.5, now_s)
    return []


@given(st.lists(st.one_of(said, rumoured, deeds, st.floats(0, 2)), max_size=40))
def test_incarnations_never_fall_changes_are_changes_and_nobody_dies_unheard(steps):
    members, now_s = membership(), 0.0
    incarnations = dict.fromkeys((1, 2, 3), 0)
    statuses: dict[int, Status | None] = dict.fromkeys((1, 2, 3))
    suspect_s, word_s = dict.fromkeys((1, 2, 3), 0.0), dict.fromkeys((1, 2, 3), -9.0)
    for one in steps:
        if isinstance(one, float):
            now_s += one
            changes = members.tick(now_s)
        else:
            changes = step(members, one, now_s)
        for change in changes:
            number = int.from_bytes(change.peer, "big")
            assert statuses[number] != change.status
            assert change.before == statuses[number]
            if change.status == "dead" and not (isinstance(one, tuple) and one[0] == "displaced"):
                assert isinstance(one, float)
                assert now_s - suspect_s[number] >= GOSSIP.suspicion_min_s - 1e-9
                assert now_s - word_s[number] >= GOSSIP.suspicion_min_s - 1e-9
            suspect_s[number] = now_s if change.status == "suspect" else suspect_s[number]
            statuses[number] = change.status
        if isinstance(one, tuple) and one[0] == "heard":
            word_s[one[1]] = now_s
        for number, before in incarnations.items():
            known = members.report_of(peer(number))
            incarnations[number] = known.incarnation if known else 0
            assert incarnations[number] >= before
        live = {p.id: p.status for p in members.view(now_s).peers}
        assert live == {peer(n): s for n, s in statuses.items() if s in ("alive", "suspect")}


@given(st.lists(st.one_of(said, rumoured), max_size=30), st.integers(1, 3))
def test_stale_gossip_never_resurrects(steps, member):
    """Reports and rumours of incarnations at or below the tombstone's, from third parties only."""
    members = membership()
    members.observe(report(member, 4, incarnation=3), 0.0)
    members.accuse(peer(member), 0.0)
    members.tick(9.0)
    for one in steps:
        by = one[1] if isinstance(one, tuple) else None
        if by != member:
            step(members, one, 10.0)
    assert peer(member) not in members.live()
