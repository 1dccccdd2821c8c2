"""When a process waits in vain, and the message about it."""

import inspect

from lit_ad.training.signs import Sign, explain_wait, find_place, waits_in_vain


def test_a_wait_is_in_vain_if_no_process_goes_on() -> None:
    own = Sign(0, still=10)
    assert waits_in_vain(own, [Sign(1, still=9, silence=1)], 10)
    assert waits_in_vain(own, [Sign(1, ended=True), Sign(2, still=12)], 10)
    assert not waits_in_vain(own, [Sign(1, still=10), Sign(2, still=3)], 10)
    assert not waits_in_vain(Sign(0, still=1), [Sign(1, ended=True)], 10)


def test_the_message_names_the_missing_and_the_waiting_process() -> None:
    waiting = Sign(0, "a", 7, "barrier, called by act (b.py:1)", still=10, collective=True)
    assert explain_wait([waiting, Sign(1, "a", 8, ended=True, still=10)]) == (
        "no process of this training has gone on for 10 s. Missing: rank 1 (a, process 8), which has ended. Waiting: "
        "rank 0 (a, process 7), in barrier, called by act (b.py:1)"
    )


def test_a_place_is_the_first_line_outside_of_libraries() -> None:
    frame = inspect.currentframe()
    assert frame is not None
    place, collective = find_place([frame])
    assert place.startswith("test_a_place_is_the_first_line_outside_of_libraries (") and "test_signs.py:" in place
    assert not collective
