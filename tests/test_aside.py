"""What is read ahead is what is asked for, and an error in the other thread is not lost."""

import threading

import pytest

from micronet.segment.aside import Aside


def test_what_is_expected_is_read_once_in_another_thread():
    aside, readers = Aside(True), []

    def read():
        readers.append(threading.current_thread())
        return len(readers)

    aside.expect("a", read)
    assert aside.get("a", read) == 1
    assert aside.get("a", read) == 2  # not expected: read now
    assert readers[0] is not threading.main_thread()
    assert readers[1] is threading.main_thread()


def test_what_is_written_later_is_there_before_what_is_read_after_it():
    aside, kept, begin = Aside(True), [], threading.Event()

    def write():
        begin.wait(10)
        kept.append(1)

    aside.later(write)
    aside.expect("a", lambda: list(kept))
    begin.set()
    assert aside.get("a", list) == [1]


def test_an_error_of_a_writer_is_raised_by_whoever_comes_next():
    def write():
        raise OSError("No space left on device")

    aside = Aside(True)
    aside.later(write)
    with pytest.raises(OSError, match="No space left"):
        aside.later(lambda: None)
    aside.finish()
    aside.later(write)
    with pytest.raises(OSError, match="No space left"):
        aside.finish()


def test_an_error_of_a_reader_is_raised_where_it_is_asked_for():
    def read():
        raise OSError("gone")

    aside = Aside(True)
    aside.expect("a", read)
    with pytest.raises(OSError, match="gone"):
        aside.get("a", read)


def test_without_a_thread_everything_is_done_where_it_is_asked_for():
    aside, kept = Aside(False), []
    aside.expect("a", lambda: kept.append("ahead"))
    aside.later(lambda: kept.append("written"))
    assert kept == ["written"]
    assert aside.get("a", lambda: 3) == 3
