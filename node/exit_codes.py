"""Exit codes of the command line, by class of error; docs/errors.md shows the same table.

Numbers are never reused for another meaning.
"""

from __future__ import annotations

from swarm.errors import Code

OK = 0
FAILED = 1
USAGE = 2
NOT_RUNNING = 3
CONFIG = 10
IDENTITY = 11
DATA = 12
STORAGE = 13
NETWORK = 14
PROTOCOL = 15
COLLECTIVE = 16
WORKER = 17
EXPERT = 18
INTERNAL = 70
INTERRUPTED = 130
TERMINATED = 143

EXIT_CODES = {
    OK: "done",
    FAILED: "the command ran to its end, its result is negative",
    USAGE: "wrong arguments",
    NOT_RUNNING: "the node is not running",
    CONFIG: "run manifest or settings",
    IDENTITY: "key file or signature",
    DATA: "training data",
    STORAGE: "files on disk",
    NETWORK: "reaching or serving other peers",
    PROTOCOL: "a message of another peer",
    COLLECTIVE: "round, commit or fragment",
    WORKER: "the training process, or a second daemon",
    EXPERT: "an owner's expert, its card or its assembly",
    INTERNAL: "a bug in this program",
    INTERRUPTED: "Ctrl-C",
    TERMINATED: "ended by SIGTERM",
}

CLASSES = {
    CONFIG: (
        Code.CONFIG_UNREADABLE,
        Code.CONFIG_UNKNOWN_KEY,
        Code.CONFIG_INVALID,
        Code.RUN_MISMATCH,
        Code.RUN_ENDED,
    ),
    IDENTITY: (
        Code.IDENTITY_CORRUPT,
        Code.IDENTITY_PERMISSIONS,
        Code.IDENTITY_IN_USE,
        Code.SIGNATURE_INVALID,
        Code.TICKET_INVALID,
        Code.NOT_ADMITTED,
    ),
    DATA: (Code.DATA_MISSING, Code.DATA_EMPTY),
    STORAGE: (
        Code.SHARD_CORRUPT,
        Code.FRAGMENT_CORRUPT,
        Code.CHECKPOINT_CORRUPT,
        Code.DISK_FULL,
        Code.DIR_NOT_WRITABLE,
        Code.MODEL_UNREADABLE,
        Code.EXPORT_LOSSY,
    ),
    NETWORK: (
        Code.PORT_IN_USE,
        Code.P2P_START_FAILED,
        Code.STAGE_TIMEOUT,
        Code.BOOTSTRAP_UNREACHABLE,
        Code.PEER_UNREACHABLE,
        Code.PEER_REFUSED,
        Code.PEER_STALLED,
        Code.TOO_FEW_PEERS,
    ),
    PROTOCOL: (
        Code.MESSAGE_OVERSIZED,
        Code.MESSAGE_UNSIGNED,
        Code.MESSAGE_MALFORMED,
        Code.MESSAGE_VERSION,
        Code.MESSAGE_WRONG_RUN,
        Code.MESSAGE_EXPIRED,
        Code.MESSAGE_UNKNOWN,
        Code.OVER_LIMIT,
    ),
    COLLECTIVE: (
        Code.ATTEMPT_FAILED,
        Code.COMMIT_INVALID,
        Code.FRAGMENT_UNAVAILABLE,
        Code.NON_FINITE,
        Code.OPERATION_MISSED,
        Code.STATE_MISMATCH,
    ),
    WORKER: (Code.WORKER_CRASHED, Code.NODE_ALREADY_RUNNING),
    EXPERT: (
        Code.BASE_MISMATCH,
        Code.CARD_INVALID,
        Code.ARTIFACT_OVERSIZED,
        Code.EXPERT_CORRUPT,
        Code.EXPERT_FOREIGN,
        Code.EXPERT_ABSURD,
        Code.EXPERT_WITHDRAWN,
        Code.NOTICE_INVALID,
        Code.NOTICE_STALE,
        Code.TUNING_MISMATCH,
    ),
    NOT_RUNNING: (Code.NODE_NOT_RUNNING,),
    USAGE: (Code.USAGE,),
    INTERNAL: (Code.INTERNAL,),
}

BY_CODE = {code: number for number, codes in CLASSES.items() for code in codes}


def exit_code(code: Code) -> int:
    """Exit code of the program for an error; 70 for a code without a class."""
    return BY_CODE.get(code, INTERNAL)
