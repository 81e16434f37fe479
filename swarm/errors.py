"""Every failure a user or a peer can cause, as one exception type with a stable code.

The code is what scripts, tests and `docs/errors.md` refer to; the message says what happened and
to what; the hint says what to do. Codes are never renamed or reused.
"""

from __future__ import annotations

import enum


class Code(str, enum.Enum):
    """Stable error codes; `docs/errors.md` has one entry for each."""

    CONFIG_UNREADABLE = "CONFIG_UNREADABLE"
    CONFIG_UNKNOWN_KEY = "CONFIG_UNKNOWN_KEY"
    CONFIG_INVALID = "CONFIG_INVALID"
    RUN_MISMATCH = "RUN_MISMATCH"
    RUN_ENDED = "RUN_ENDED"

    IDENTITY_CORRUPT = "IDENTITY_CORRUPT"
    IDENTITY_PERMISSIONS = "IDENTITY_PERMISSIONS"
    IDENTITY_IN_USE = "IDENTITY_IN_USE"
    SIGNATURE_INVALID = "SIGNATURE_INVALID"
    TICKET_INVALID = "TICKET_INVALID"
    NOT_ADMITTED = "NOT_ADMITTED"

    DATA_MISSING = "DATA_MISSING"
    DATA_EMPTY = "DATA_EMPTY"
    SHARD_CORRUPT = "SHARD_CORRUPT"
    FRAGMENT_CORRUPT = "FRAGMENT_CORRUPT"
    CHECKPOINT_CORRUPT = "CHECKPOINT_CORRUPT"
    DISK_FULL = "DISK_FULL"
    DIR_NOT_WRITABLE = "DIR_NOT_WRITABLE"

    PORT_IN_USE = "PORT_IN_USE"
    P2P_START_FAILED = "P2P_START_FAILED"
    STAGE_TIMEOUT = "STAGE_TIMEOUT"
    BOOTSTRAP_UNREACHABLE = "BOOTSTRAP_UNREACHABLE"
    PEER_UNREACHABLE = "PEER_UNREACHABLE"
    PEER_REFUSED = "PEER_REFUSED"
    PEER_STALLED = "PEER_STALLED"
    RELAY_REFUSED = "RELAY_REFUSED"
    TOO_FEW_PEERS = "TOO_FEW_PEERS"

    MESSAGE_OVERSIZED = "MESSAGE_OVERSIZED"
    MESSAGE_UNSIGNED = "MESSAGE_UNSIGNED"
    MESSAGE_MALFORMED = "MESSAGE_MALFORMED"
    MESSAGE_VERSION = "MESSAGE_VERSION"
    MESSAGE_WRONG_RUN = "MESSAGE_WRONG_RUN"
    MESSAGE_EXPIRED = "MESSAGE_EXPIRED"
    MESSAGE_UNKNOWN = "MESSAGE_UNKNOWN"
    OVER_LIMIT = "OVER_LIMIT"

    ATTEMPT_FAILED = "ATTEMPT_FAILED"
    COMMIT_INVALID = "COMMIT_INVALID"
    FRAGMENT_UNAVAILABLE = "FRAGMENT_UNAVAILABLE"
    NON_FINITE = "NON_FINITE"
    OPERATION_MISSED = "OPERATION_MISSED"
    STATE_MISMATCH = "STATE_MISMATCH"

    BASE_MISMATCH = "BASE_MISMATCH"
    CARD_INVALID = "CARD_INVALID"
    ARTIFACT_OVERSIZED = "ARTIFACT_OVERSIZED"
    EXPERT_CORRUPT = "EXPERT_CORRUPT"
    EXPERT_FOREIGN = "EXPERT_FOREIGN"
    EXPERT_ABSURD = "EXPERT_ABSURD"
    EXPERT_WITHDRAWN = "EXPERT_WITHDRAWN"
    NOTICE_INVALID = "NOTICE_INVALID"
    NOTICE_STALE = "NOTICE_STALE"
    TUNING_MISMATCH = "TUNING_MISMATCH"

    WORKER_CRASHED = "WORKER_CRASHED"
    NODE_NOT_RUNNING = "NODE_NOT_RUNNING"
    NODE_ALREADY_RUNNING = "NODE_ALREADY_RUNNING"
    MODEL_UNREADABLE = "MODEL_UNREADABLE"
    EXPORT_LOSSY = "EXPORT_LOSSY"
    USAGE = "USAGE"
    INTERNAL = "INTERNAL"


class SwarmError(Exception):
    """A failure with a stable code, a message, and a hint on what to do about it."""

    def __init__(self, code: Code, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def again(self) -> SwarmError:
        """The same failure as a new error, for one that is kept and raised each time it is met.

        An error that is raised collects the frames that it passes, and all that they hold.
        """
        return SwarmError(self.code, self.message, self.hint)

    def __str__(self) -> str:
        text = f"{self.code.value}: {self.message}"
        return f"{text} ({self.hint})" if self.hint else text
