"""How much a dropped file may be; one that is more is rejected as a whole."""

from dataclasses import dataclass

REJECTED_SHARE = 0.1
"""Up to this share of a file's records may be bad, however many that are."""

UNPACKED_BYTES = 1 << 20
"""A packed file may always unpack into so much: a short one repeats itself without meaning harm."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a site allows.

    max_bytes: of a file, also when unpacked.
    max_unpack_ratio: so many times its own bytes a packed file may unpack into.
    max_rejects: so many records of a file may be bad whatever their share.
    """

    max_bytes: int
    max_unpack_ratio: int
    max_rejects: int

    def unpacked_bytes(self, packed: int) -> int:
        """The most that a file of so many bytes may unpack into."""
        return max(UNPACKED_BYTES, self.max_unpack_ratio * packed)

    def too_many(self, rejected: int, records: int) -> bool:
        """Whether that many bad ones among that many records are too many."""
        return rejected > self.max_rejects and rejected > REJECTED_SHARE * records

    def why_too_many(self, rejected: int, records: int) -> tuple[str, str]:
        """What to say of it, and what helps."""
        reason = (
            f"{rejected} of the first {records} records are rejected: more than MAX_REJECTS ({self.max_rejects}) "
            f"and more than {REJECTED_SHARE:.0%}"
        )
        hint = "mend the file, the first ones are listed here; where so many are to be expected, raise MAX_REJECTS"
        return reason, hint


class Rejects:
    """The count of one file's records as they are read, and of the bad ones among them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.records = 0
        self.rejected = 0

    def add(self, records: int, rejected: int) -> None:
        self.records += records
        self.rejected += rejected

    def too_many(self, records: int = 0, rejected: int = 0) -> bool:
        """Whether there are, with so many that are not added yet."""
        return self.limits.too_many(self.rejected + rejected, self.records + records)
