from __future__ import annotations

import logging
import threading
import warnings

import pytest

from samcancer.volume_io.quiet import quiet_dicom_libraries


def say_everything() -> None:
    logging.getLogger("pydicom").warning("CANARY")
    logging.getLogger("highdicom.base").error("CANARY")
    warnings.warn("CANARY", UserWarning, stacklevel=1)


def is_heard(caplog: pytest.LogCaptureFixture) -> bool:
    logging.getLogger("pydicom").warning("heard")
    return "heard" in caplog.text


def test_nothing_is_warned_or_logged_in_the_block_and_all_of_it_afterwards(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with quiet_dicom_libraries(), quiet_dicom_libraries():
        say_everything()
    assert caplog.text == ""
    assert is_heard(caplog)
    with pytest.warns(UserWarning, match="CANARY"):
        say_everything()


def test_a_block_that_fails_ends_the_silence(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyError, match="gone"), quiet_dicom_libraries():
        raise KeyError("gone")
    assert is_heard(caplog)


def test_a_block_that_ends_leaves_another_thread_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inside, ended = threading.Event(), threading.Event()

    def other() -> None:
        with quiet_dicom_libraries():
            inside.set()
            ended.wait(10)
            say_everything()

    thread = threading.Thread(target=other)
    with quiet_dicom_libraries():
        thread.start()
        assert inside.wait(10)
    ended.set()
    thread.join(10)
    assert caplog.text == ""
    assert is_heard(caplog)
