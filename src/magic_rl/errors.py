"""Errors a user can act on. The command line prints their text as one line and exits with status 2.

They carry facts: what was wrong and where. The command line adds the setting or flag that would help.
"""

from __future__ import annotations


class UserError(Exception):
    """An error the user can fix: it says what was wrong and where. Never shown as a traceback.

    Attributes:
        remedy: Name of what would help, which the command line puts into words; "" if the text says it.
        facts: What those words need, such as a path.
    """

    def __init__(self, text: str, remedy: str = "", **facts: object) -> None:
        super().__init__(text)
        self.remedy, self.facts = remedy, facts


class ConfigError(UserError):
    """A setting that is unknown, impossible, without effect, or contradicts another.

    `facts["override"]` is true for a setting that was given beside the config file.
    """


class DataError(UserError):
    """Seeds, a pool, examples or labelled replies that cannot be read as they are.

    Attributes:
        faults: Everything that is wrong, one line each; the message spells out the first three and counts the rest.
        about: Name of the function argument that is to blame; empty if none is.
    """

    SHOWN = 3  # faults that the message spells out

    def __init__(self, *faults: str, about: str = "", remedy: str = "") -> None:
        """Args: faults: At least one. about, remedy: See the classes."""
        more = f"; and {len(faults) - self.SHOWN} more" if len(faults) > self.SHOWN else ""
        super().__init__("; ".join(faults[: self.SHOWN]) + more, remedy)
        self.faults, self.about = faults, about


class RowCountError(DataError):
    """A set whose number of rows differs from the one behind published numbers.

    Attributes:
        found: Rows that it has.
        published: Rows behind the published numbers.
    """

    def __init__(self, where: str, *, kind: str, found: int, published: int) -> None:
        """Args: where: The set. kind: Which of its rows."""
        super().__init__(f"{where}: has {found:,} {kind} rows; published numbers rest on {published:,}")
        # Without rows there is nothing to measure, so no remedy.
        self.remedy, self.found, self.published = "any count" if found else "", found, published


class ModelError(UserError):
    """A model, tokenizer or adapter that cannot be loaded or would not work."""


class ChatError(UserError):
    """A model gave no usable answer, because of the server, the key, a limit or the budget.

    Attributes:
        reason: What is wrong.
        url: The server; "" if none was asked.
        status: HTTP status of its answer; None if there was none.
    """

    def __init__(
        self, reason: str, *, url: str = "", status: int | None = None, place: str = "", remedy: str = ""
    ) -> None:
        """Args: place: What the caller calls the connection, such as a setting."""
        super().__init__(": ".join(filter(None, (place, url, reason))), remedy, place=place)
        self.reason, self.url, self.status = reason, url, status


class JudgeError(UserError):
    """A judge that cannot label, or labels too little."""


class StoreError(UserError):
    """A run directory that cannot be read, written or continued."""


class TooManyAbstentionsError(JudgeError):
    """The judge gave no verdict on too large a share of episodes for the numbers to be trusted."""


class TooManyCutOffError(UserError):
    """Too large a share of a step's outputs ran into a length limit for anything to be learned."""


class DegenerateError(UserError):
    """A policy no longer produces language, so measuring it or learning from it means nothing."""


class EngineError(UserError):
    """The sampler outside this process is gone or cannot do what it was asked; what was learned so far is intact."""


class MismatchError(EngineError):
    """The sampler outside this process computes a different model from the one that learns here."""
