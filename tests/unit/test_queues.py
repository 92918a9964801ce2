"""Whose turn it is: flows in turn, a flow's files in order, and always a worker for small files."""

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from file_processing.inbound import intake
from file_processing.inbound.adhoc import GivenFile
from file_processing.inbound.routing import RoutedFile
from file_processing.queues import Queues, Turn

LONG = intake.SMALL_BYTES + 1


def file(flow: str, name: str, *, size: int = 10, arrival: int = 0) -> RoutedFile:
    path, seen_at = Path(f"/in/{flow}/{name}"), datetime.now(UTC)
    return RoutedFile(GivenFile(path, f"{flow}/{name}", seen_at, size=size, arrival=arrival), flow)


def queues(*flows: str, workers: int = 2) -> Queues:
    """Queues with nothing to recover."""
    made = Queues(flows, workers)
    for queue in made:
        queue.to_recover = False
    return made


def begin(given: Queues) -> Turn:
    turn = given.next_turn()
    assert turn is not None
    return turn


def names(files: Iterable[RoutedFile]) -> list[str]:
    return [routed.dropped.path.name for routed in files]


def no_turn(given: Queues) -> bool:
    """Whether nobody gets a turn until the queues are closed."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(given.next_turn)
        given.close()
        turn = asked.result(10)
    return turn is None


def test_a_flow_that_is_fed_all_the_time_is_left_after_each_group() -> None:
    given = queues("fed", "other", workers=1)
    given.add(file("fed", str(number)) for number in range(intake.GROUP_FILES + 1))
    turn = begin(given)
    assert len(turn.files) == intake.GROUP_FILES
    given.add([file("other", "x")])
    given.add(file("fed", str(number)) for number in range(5))
    given.over(turn)
    order = []
    for _ in range(3):
        turn = begin(given)
        order.append(turn.queue.flow)
        given.add([file("fed", "more")])
        given.over(turn)
    assert order == ["other", "fed", "fed"]


def test_what_is_left_of_a_turn_comes_first_in_the_next_one() -> None:
    given = queues("a")
    given.add(file("a", name) for name in ("1", "2", "3"))
    turn = begin(given)
    given.add([file("a", "4")])
    given.over(turn, turn.files[1:])
    assert names(begin(given).files) == ["2", "3", "4"]


def test_a_turn_goes_on_with_further_groups_while_no_other_flow_waits() -> None:
    given = queues("a", "b")
    given.add(file("a", str(number)) for number in range(intake.GROUP_FILES + 3))
    turn = begin(given)
    further = given.go_on(turn)
    assert names(further) == [str(intake.GROUP_FILES + number) for number in range(3)]
    assert given.go_on(turn) == ()
    given.over(turn, further[1:])
    assert names(begin(given).files) == names(further[1:])


def test_a_turn_does_not_go_on_where_another_flow_waits() -> None:
    given = queues("a", "b", workers=1)
    given.add(file("a", str(number)) for number in range(intake.GROUP_FILES + 1))
    turn = begin(given)
    given.add([file("b", "x")])
    assert given.go_on(turn) == ()
    given.over(turn)
    assert begin(given).queue.flow == "b"


def test_a_turn_does_not_go_on_with_a_long_file_nor_behind_one_nor_when_all_ends() -> None:
    given = queues("a", "b")
    given.add([file("a", "small"), file("a", "long", size=LONG), file("b", "long", size=LONG), file("b", "small")])
    turns = [begin(given), begin(given)]
    assert [given.go_on(turn) for turn in turns] == [(), ()]
    given = queues("a")
    given.add(file("a", str(number)) for number in range(intake.GROUP_FILES + 1))
    turn = begin(given)
    given.close()
    assert given.go_on(turn) == ()


def test_a_flow_has_one_turn_at_a_time() -> None:
    given = queues("a")
    given.add([file("a", "1")])
    begin(given)
    given.add([file("a", "2")])
    assert no_turn(given)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_there_is_always_a_worker_for_small_files_and_one_for_a_long_one(workers: int) -> None:
    flows = [f"{kind}{number}" for kind in ("long", "small") for number in range(workers + 1)]
    given = queues(*flows, workers=workers)
    given.add(file(flow, "x", size=LONG if flow.startswith("long") else 10) for flow in flows)
    kinds = [begin(given).is_long for _ in range(2 * workers)]
    assert kinds == [True] * workers + [False] * workers
    assert no_turn(given)


def test_a_long_file_waits_for_another_one_and_its_end_is_noticed() -> None:
    given = queues("a", "b", workers=1)
    given.add([file("a", "1", size=LONG), file("b", "1", size=LONG)])
    turn = begin(given)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(begin, given)
        given.over(turn)
        assert asked.result(10).queue.flow == "b"


def test_a_queue_that_rests_is_resumed_by_itself() -> None:
    given = queues("a")
    (queue,) = given
    given.add([file("a", "1")])
    queue.resume_at = time.monotonic() + 0.05
    assert names(begin(given).files) == ["1"]
    assert time.monotonic() >= queue.resume_at


def test_a_recovery_has_a_turn_without_files() -> None:
    given = Queues(["a"], 1)
    turn = begin(given)
    assert (turn.queue.to_recover, list(turn.files)) == (True, [])
    assert not turn.is_long


# Several loaders of one flow


def test_who_has_nothing_else_to_do_takes_whole_groups_of_a_flow_in_hand() -> None:
    given = queues("a", workers=3)
    given.add(file("a", str(number)) for number in range(2 * intake.GROUP_FILES + 2))
    assert [len(begin(given).files) for _ in range(2)] == [intake.GROUP_FILES] * 2
    assert no_turn(given), "half a group grows while others are in hand"


def test_a_flow_that_nobody_has_in_hand_comes_first() -> None:
    given = queues("a", "b")
    given.add(file("a", str(number)) for number in range(2 * intake.GROUP_FILES + 1))
    begin(given)
    given.add([file("b", "1")])
    assert begin(given).queue.flow == "b"


@pytest.mark.parametrize("first", ["a long file", "a recovery"])
def test_a_long_file_and_a_recovery_have_the_flow_for_themselves(first: str) -> None:
    given = queues("a", workers=3)
    (queue,) = given
    queue.to_recover = first == "a recovery"
    given.add([file("a", "0", size=LONG if first == "a long file" else 10)])
    turn = begin(given)
    assert turn.recovers == queue.to_recover
    queue.to_recover = False
    given.add(file("a", str(number)) for number in range(intake.GROUP_FILES + 1))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(begin, given)
        given.over(turn)
        assert asked.result(10).files


def test_a_long_file_waits_for_those_who_have_small_ones_of_its_flow() -> None:
    given = queues("a", workers=3)
    given.add([file("a", "1")])
    small = begin(given)
    given.add([file("a", "long", size=LONG)])
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(begin, given)
        given.over(small)
        assert asked.result(10).is_long


def test_files_are_in_order_while_none_that_came_before_is_left() -> None:
    given = queues("a", workers=3)
    given.add(file("a", name, arrival=arrival) for name, arrival in (("1", 1), ("2", 2)))
    turn = begin(given)
    one, two = (routed.dropped for routed in turn.files)
    assert given.in_order(turn, [one, two], [])
    assert given.in_order(turn, [one], [two])
    assert not given.in_order(turn, [two], [one])
    given.add([file("a", "late", arrival=1)])
    assert given.in_order(turn, [one], [two])
    assert not given.in_order(turn, [two], [])


def test_files_are_not_in_order_while_others_of_the_flow_are_in_hand() -> None:
    given = queues("a", workers=3)
    given.add(file("a", str(number), arrival=number) for number in range(2 * intake.GROUP_FILES + 1))
    first = begin(given)
    assert given.in_order(first, [routed.dropped for routed in first.files], [])
    begin(given)
    assert not given.in_order(first, [routed.dropped for routed in first.files], [])
