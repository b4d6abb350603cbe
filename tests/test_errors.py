"""The form of a refusal: one line, the file first, the mend last, the same in every process."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from samcancer.errors import InputError


def test_a_message_names_the_file_the_fact_and_the_mend():
    error = InputError("the file is empty", path=Path("a b/scan.nii.gz"), mend="re-copy the file")
    assert str(error) == "a b/scan.nii.gz: the file is empty. Re-copy the file."


def test_file_and_mend_may_be_left_out():
    assert str(InputError("--folds is 0")) == "--folds is 0."
    assert str(InputError("--folds is 0", mend="")) == "--folds is 0."


@pytest.mark.parametrize("broken", ["\n", "\r", "\r\n", "\u2028", "\x0b"])
def test_a_message_is_one_line_whatever_its_parts_hold(broken):
    error = InputError(f"a{broken}b", path=f"c{broken}d", mend=f"e{broken}f")
    assert str(error).splitlines() == ["c d: a b. E f."]


def test_an_error_crosses_processes_unchanged():
    error = InputError("is short", path="scan.mha", mend="re-copy the file")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, InputError)
    assert str(again) == str(error)
    assert (again.fact, again.path, again.mend) == (error.fact, error.path, error.mend)


def test_a_refusal_is_also_a_value_error():
    with pytest.raises(ValueError, match="is short"):
        raise InputError("is short")
