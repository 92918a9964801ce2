"""The errors of Tidegate, named by what the daemon does next."""

from collections.abc import Callable, Mapping


class TidegateError(Exception):
    """Something went wrong and a person may have to act: `hint` says how."""

    def __init__(self, reason: str, *, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.reason} ({self.hint})" if self.hint else self.reason

    def __reduce__(self) -> tuple[Callable[..., "TidegateError"], tuple[object, ...]]:
        """From one process to another."""
        return _made_again, (type(self), self.args, self.__dict__)


def _made_again(kind: type[TidegateError], arguments: tuple[object, ...], state: dict[str, object]) -> TidegateError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


class RejectFile(TidegateError):
    """This file can never load as it is: quarantine it with a report.

    `pointer`, `line` and `column` (from 1) say where, as far as it is known.
    """

    def __init__(
        self,
        reason: str,
        *,
        hint: str = "",
        pointer: str | None = None,
        line: int | None = None,
        column: int | None = None,
    ) -> None:
        super().__init__(reason, hint=hint)
        self.pointer = pointer
        self.line = line
        self.column = column


class RejectRecord(ValueError):
    """This record can never become rows: it is rejected with this reason, and the others load. `to_rows` raises it."""


class RetryLater(TidegateError):
    """Not the file's fault: leave it where it is, back off and try again.

    `after_seconds`: not before; a partner may have said so.
    """

    def __init__(self, reason: str, *, hint: str = "", after_seconds: float = 0.0) -> None:
        super().__init__(reason, hint=hint)
        self.after_seconds = after_seconds


class NoDatabase(RetryLater):
    """The database is away: it does not answer, or takes no writes. Another server may take its place at any moment."""


class Contention(RetryLater):
    """Others were at the same files or rows, and nothing is wrong: it goes on when they are done."""


class RestFlow(RetryLater):
    """A fault of one flow, its table for the most part: it rests and is tried again, and all others go on."""


class FileGone(TidegateError):
    """The file is no longer there, or no longer the one that was seen: forget it."""


class StopConnector(TidegateError):
    """This connector cannot go on before a person acts; everything else does."""


class StopDaemon(TidegateError):
    """Going on would be wrong: leave with this sentence; a supervisor starts us again."""


class RefusedByPartner(TidegateError):
    """A partner says no to what it was asked on behalf of somebody, who has to hear of it.

    `status`: of its answer. `fields`: what it says of single fields. `after_seconds`: not before.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int,
        fields: Mapping[str, object] | None = None,
        after_seconds: float = 0.0,
        hint: str = "",
    ) -> None:
        super().__init__(reason, hint=hint)
        self.status = status
        self.fields = fields or {}
        self.after_seconds = after_seconds
