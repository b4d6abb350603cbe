"""The one error type for bad input, with the one message form every command prints.

A message reads ``FILE: FACT. MEND.`` on a single line: what was read, what is wrong with it, and
what the user can do about it.
"""

from __future__ import annotations

from pathlib import Path


class InputError(ValueError):
    """Input that cannot be used as it is; a command prints it as one line and exits with 2."""

    def __init__(
        self, fact: str, *, path: Path | str | None = None, mend: str | None = None
    ) -> None:
        """Compose the message.

        Args:
            fact: What is wrong, quoting the value that came; no full stop at the end.
            path: The file or folder concerned; None when an argument is at fault.
            mend: What to do about it, as an imperative; no full stop at the end.
        """
        self.fact = fact
        self.path = None if path is None else Path(path)
        self.mend = mend
        where = "" if path is None else f"{path}: "
        advice = f" {mend[0].upper()}{mend[1:]}." if mend else ""
        super().__init__(_printable(" ".join(f"{where}{fact}.{advice}".splitlines())))

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild from the parts, so that the error crosses process borders unchanged."""
        return (_rebuild, (self.fact, self.path, self.mend))


def fact_of(error: Exception) -> str:
    """Return what is wrong without any path, as a page that is passed on may say it."""
    if isinstance(error, InputError):
        return " ".join(error.fact.splitlines())
    return f"unexpected {type(error).__name__}; the log says more"


def refusal_of(error: Exception, path: Path) -> InputError:
    """Return the one line to print of a case; what is no bad input, but a fault, is told as such.

    Args:
        error: What ended the work on the case.
        path: The case's file, for an error that names none.
    """
    if isinstance(error, InputError):
        return error
    fact = f"unexpected {type(error).__name__} ({error})"
    return InputError(fact, path=path, mend="see the traceback with --debug")


def _printable(text: str) -> str:
    """Return text whose control characters a terminal shows instead of obeying."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _rebuild(fact: str, path: Path | None, mend: str | None) -> InputError:
    return InputError(fact, path=path, mend=mend)
