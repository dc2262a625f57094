"""Who is here: the newest offer wins, silence and goodbyes end it, and strangers cannot fill it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2pfusion.hops.directory import Directory
from p2pfusion.wire.hops import DEVICES_MAX
from tests.hops.made import SPLIT, device, held, offer

SILENT_S = 3.0


def directory() -> Directory:
    return Directory(device(0), SPLIT.tag, SILENT_S)


def test_a_device_is_here_until_it_was_silent_for_so_long() -> None:
    known = directory()
    assert known.hear([offer(1)], 10.0)
    assert [one.device for one in known.here(12.9)] == [device(1)]
    assert known.here(13.0) == ()
    assert known.addresses() == ["10.0.0.1:7000"]  # it may come back


def test_an_old_beat_keeps_nobody_alive_however_often_it_is_told() -> None:
    known = directory()
    known.hear([offer(1, beat=5)], 0.0)
    for now_s in (1.0, 2.0):
        assert not known.hear([offer(1, beat=5), offer(1, beat=4)], now_s)
    assert known.here(3.0) == ()
    assert known.hear([offer(1, beat=6)], 3.5)  # back: that is news
    assert len(known.here(3.6)) == 1


def test_a_beat_alone_is_no_news_but_what_others_act_upon_is() -> None:
    known = directory()
    known.hear([offer(1, beat=1)], 0.0)
    assert not known.hear([offer(1, beat=2)], 0.1)
    changes = ({"memory_bytes": 1}, {"held": (held(2),)}, {"is_relay": False}, {"is_owner": True})
    for beat, change in enumerate(changes, 3):
        assert known.hear([offer(1, beat=beat, **change)], 0.2)


def test_of_two_offers_the_newer_life_wins_before_the_higher_beat() -> None:
    known = directory()
    known.hear([offer(1, incarnation=2, beat=1, memory_bytes=7)], 0.0)
    known.hear([offer(1, incarnation=1, beat=9, memory_bytes=8)], 0.0)
    assert known.here(0.0)[0].memory_bytes == 7


def test_who_leaves_is_gone_at_once_for_good_and_remembered() -> None:
    known = directory()
    known.hear([offer(1, beat=1)], 0.0)
    assert known.hear([offer(1, beat=3, is_leaving=True)], 0.1)
    assert not known.hear([offer(1, beat=2)], 0.2)  # somebody else's older news
    assert known.here(0.2) == ()
    assert [one.device for one in known.left()] == [device(1)]
    assert known.addresses() == []


def test_who_does_not_answer_is_gone_until_it_beats_again() -> None:
    known = directory()
    known.hear([offer(1, beat=1)], 0.0)
    known.lose(device(1))
    known.lose(device(9))  # never heard of
    assert known.here(0.0) == known.heard(0.0, 60.0) == ()
    assert known.hear([offer(1, beat=2)], 0.1)
    assert len(known.here(0.1)) == 1


def test_who_fell_silent_was_still_heard_of_a_while_ago() -> None:
    known = directory()
    known.hear([offer(1), offer(2), offer(3, is_leaving=True)], 10.0)
    known.hear([offer(2, beat=2)], 40.0)
    assert [one.device for one in known.heard(42.0, 60.0)] == [device(1), device(2)]
    assert [one.device for one in known.here(42.0)] == [device(2)]
    assert [one.device for one in known.heard(70.0, 60.0)] == [device(2)]


def test_other_runs_and_my_own_words_are_not_heard() -> None:
    known = directory()
    assert not known.hear([offer(1, run=bytes(16)), offer(0)], 0.0)
    assert known.here(0.0) == ()


def test_it_is_full_of_those_who_are_here_and_forgets_who_is_gone_longest() -> None:
    known = directory()
    everybody = [offer(number) for number in range(1, DEVICES_MAX)]
    known.hear(everybody, 0.0)
    late = offer(DEVICES_MAX)
    assert not known.hear([late], 1.0)
    known.hear([offer(number, beat=2) for number in range(3, DEVICES_MAX)], 1.0)
    known.hear([offer(2, beat=2)], 0.5)
    assert known.hear([late], 4.0)  # 1 is gone longest, then 2
    known.hear([offer(number, beat=3) for number in range(1, DEVICES_MAX)], 4.0)
    here = {one.device for one in known.here(4.0)}
    assert late.device in here
    assert len(here) == DEVICES_MAX - 1


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 6)), max_size=30), st.randoms())
def test_the_order_in_which_offers_come_does_not_matter(heard: list[tuple[int, int, int]], chance: object) -> None:
    offers = [offer(number, incarnation=life, beat=beat) for number, life, beat in heard]
    other = list(offers)
    chance.shuffle(other)  # type: ignore[attr-defined]
    left, right = directory(), directory()
    for one in offers:
        left.hear([one], 0.0)
    right.hear(other, 0.0)
    assert left.here(1.0) == right.here(1.0)
    newest = {number: max((life, beat) for n, life, beat in heard if n == number) for number, _, _ in heard}
    assert {one.device: (one.incarnation, one.beat) for one in left.here(1.0)} == {
        device(number): value for number, value in newest.items()
    }
