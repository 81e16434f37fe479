from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class PeerStatus(_message.Message):
    __slots__ = ("peer_id", "display_name", "domain", "path", "held_experts", "tokens_per_second", "in_roster", "alive", "round", "bytes_sent", "bytes_received", "steps", "places", "device", "state", "nat", "version", "last_counted_round", "absent")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    HELD_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    IN_ROSTER_FIELD_NUMBER: _ClassVar[int]
    ALIVE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    NAT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LAST_COUNTED_ROUND_FIELD_NUMBER: _ClassVar[int]
    ABSENT_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    display_name: str
    domain: str
    path: str
    held_experts: _containers.RepeatedScalarFieldContainer[int]
    tokens_per_second: float
    in_roster: bool
    alive: bool
    round: int
    bytes_sent: int
    bytes_received: int
    steps: int
    places: int
    device: str
    state: str
    nat: str
    version: str
    last_counted_round: int
    absent: str
    def __init__(self, peer_id: _Optional[str] = ..., display_name: _Optional[str] = ..., domain: _Optional[str] = ..., path: _Optional[str] = ..., held_experts: _Optional[_Iterable[int]] = ..., tokens_per_second: _Optional[float] = ..., in_roster: bool = ..., alive: bool = ..., round: _Optional[int] = ..., bytes_sent: _Optional[int] = ..., bytes_received: _Optional[int] = ..., steps: _Optional[int] = ..., places: _Optional[int] = ..., device: _Optional[str] = ..., state: _Optional[str] = ..., nat: _Optional[str] = ..., version: _Optional[str] = ..., last_counted_round: _Optional[int] = ..., absent: _Optional[str] = ...) -> None: ...

class ExpertStatus(_message.Message):
    __slots__ = ("expert", "holders", "held_since", "trained_tokens", "orphaned_rounds", "served", "version", "load")
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    HELD_SINCE_FIELD_NUMBER: _ClassVar[int]
    TRAINED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ORPHANED_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    expert: int
    holders: _containers.RepeatedScalarFieldContainer[str]
    held_since: int
    trained_tokens: float
    orphaned_rounds: int
    served: _containers.RepeatedScalarFieldContainer[str]
    version: int
    load: float
    def __init__(self, expert: _Optional[int] = ..., holders: _Optional[_Iterable[str]] = ..., held_since: _Optional[int] = ..., trained_tokens: _Optional[float] = ..., orphaned_rounds: _Optional[int] = ..., served: _Optional[_Iterable[str]] = ..., version: _Optional[int] = ..., load: _Optional[float] = ...) -> None: ...

class ContributionStatus(_message.Message):
    __slots__ = ("peer_id", "display_name", "tokens", "rounds", "served_bytes", "relayed_bytes", "last_round")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    SERVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    RELAYED_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAST_ROUND_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    display_name: str
    tokens: int
    rounds: int
    served_bytes: int
    relayed_bytes: int
    last_round: int
    def __init__(self, peer_id: _Optional[str] = ..., display_name: _Optional[str] = ..., tokens: _Optional[int] = ..., rounds: _Optional[int] = ..., served_bytes: _Optional[int] = ..., relayed_bytes: _Optional[int] = ..., last_round: _Optional[int] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("run_id", "run_name", "peer_id", "display_name", "domain", "state", "reason", "since_ms", "round", "branch", "commit_id", "last_outcome", "tokens_per_second", "loss", "step", "steps_per_round", "held_experts", "peers", "bytes_sent", "bytes_received", "tokens_trained", "committed_tokens", "refused", "pid", "worker_pid", "addresses", "version", "last_counted_round", "data_report", "device", "company", "company_since_ms", "company_reason", "role", "clock_offset_s", "clock_peers", "nat", "nat_reason", "observed", "relays", "upload_bps", "download_bps", "port", "experts", "next_event", "next_event_s", "change_number", "changed", "run_paused", "run_ended", "revoked", "newest_change", "contributions")
    class RefusedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class DataReportEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_NAME_FIELD_NUMBER: _ClassVar[int]
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    COMMIT_ID_FIELD_NUMBER: _ClassVar[int]
    LAST_OUTCOME_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_PER_ROUND_FIELD_NUMBER: _ClassVar[int]
    HELD_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_TRAINED_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    WORKER_PID_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LAST_COUNTED_ROUND_FIELD_NUMBER: _ClassVar[int]
    DATA_REPORT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    COMPANY_FIELD_NUMBER: _ClassVar[int]
    COMPANY_SINCE_MS_FIELD_NUMBER: _ClassVar[int]
    COMPANY_REASON_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CLOCK_OFFSET_S_FIELD_NUMBER: _ClassVar[int]
    CLOCK_PEERS_FIELD_NUMBER: _ClassVar[int]
    NAT_FIELD_NUMBER: _ClassVar[int]
    NAT_REASON_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_FIELD_NUMBER: _ClassVar[int]
    RELAYS_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_BPS_FIELD_NUMBER: _ClassVar[int]
    DOWNLOAD_BPS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_EVENT_FIELD_NUMBER: _ClassVar[int]
    NEXT_EVENT_S_FIELD_NUMBER: _ClassVar[int]
    CHANGE_NUMBER_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    RUN_PAUSED_FIELD_NUMBER: _ClassVar[int]
    RUN_ENDED_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    NEWEST_CHANGE_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    run_name: str
    peer_id: str
    display_name: str
    domain: str
    state: str
    reason: str
    since_ms: int
    round: int
    branch: str
    commit_id: str
    last_outcome: str
    tokens_per_second: float
    loss: float
    step: int
    steps_per_round: int
    held_experts: _containers.RepeatedScalarFieldContainer[int]
    peers: _containers.RepeatedCompositeFieldContainer[PeerStatus]
    bytes_sent: int
    bytes_received: int
    tokens_trained: int
    committed_tokens: int
    refused: _containers.ScalarMap[str, int]
    pid: int
    worker_pid: int
    addresses: _containers.RepeatedScalarFieldContainer[str]
    version: str
    last_counted_round: int
    data_report: _containers.ScalarMap[str, int]
    device: str
    company: str
    company_since_ms: int
    company_reason: str
    role: str
    clock_offset_s: float
    clock_peers: int
    nat: str
    nat_reason: str
    observed: _containers.RepeatedScalarFieldContainer[str]
    relays: _containers.RepeatedScalarFieldContainer[str]
    upload_bps: float
    download_bps: float
    port: int
    experts: _containers.RepeatedCompositeFieldContainer[ExpertStatus]
    next_event: str
    next_event_s: float
    change_number: int
    changed: _containers.RepeatedScalarFieldContainer[str]
    run_paused: bool
    run_ended: bool
    revoked: _containers.RepeatedScalarFieldContainer[str]
    newest_change: bytes
    contributions: _containers.RepeatedCompositeFieldContainer[ContributionStatus]
    def __init__(self, run_id: _Optional[str] = ..., run_name: _Optional[str] = ..., peer_id: _Optional[str] = ..., display_name: _Optional[str] = ..., domain: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., since_ms: _Optional[int] = ..., round: _Optional[int] = ..., branch: _Optional[str] = ..., commit_id: _Optional[str] = ..., last_outcome: _Optional[str] = ..., tokens_per_second: _Optional[float] = ..., loss: _Optional[float] = ..., step: _Optional[int] = ..., steps_per_round: _Optional[int] = ..., held_experts: _Optional[_Iterable[int]] = ..., peers: _Optional[_Iterable[_Union[PeerStatus, _Mapping]]] = ..., bytes_sent: _Optional[int] = ..., bytes_received: _Optional[int] = ..., tokens_trained: _Optional[int] = ..., committed_tokens: _Optional[int] = ..., refused: _Optional[_Mapping[str, int]] = ..., pid: _Optional[int] = ..., worker_pid: _Optional[int] = ..., addresses: _Optional[_Iterable[str]] = ..., version: _Optional[str] = ..., last_counted_round: _Optional[int] = ..., data_report: _Optional[_Mapping[str, int]] = ..., device: _Optional[str] = ..., company: _Optional[str] = ..., company_since_ms: _Optional[int] = ..., company_reason: _Optional[str] = ..., role: _Optional[str] = ..., clock_offset_s: _Optional[float] = ..., clock_peers: _Optional[int] = ..., nat: _Optional[str] = ..., nat_reason: _Optional[str] = ..., observed: _Optional[_Iterable[str]] = ..., relays: _Optional[_Iterable[str]] = ..., upload_bps: _Optional[float] = ..., download_bps: _Optional[float] = ..., port: _Optional[int] = ..., experts: _Optional[_Iterable[_Union[ExpertStatus, _Mapping]]] = ..., next_event: _Optional[str] = ..., next_event_s: _Optional[float] = ..., change_number: _Optional[int] = ..., changed: _Optional[_Iterable[str]] = ..., run_paused: bool = ..., run_ended: bool = ..., revoked: _Optional[_Iterable[str]] = ..., newest_change: _Optional[bytes] = ..., contributions: _Optional[_Iterable[_Union[ContributionStatus, _Mapping]]] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class StopReply(_message.Message):
    __slots__ = ("stopping",)
    STOPPING_FIELD_NUMBER: _ClassVar[int]
    stopping: bool
    def __init__(self, stopping: bool = ...) -> None: ...

class HistoryRequest(_message.Message):
    __slots__ = ("after_round",)
    AFTER_ROUND_FIELD_NUMBER: _ClassVar[int]
    after_round: int
    def __init__(self, after_round: _Optional[int] = ...) -> None: ...

class RoundSummary(_message.Message):
    __slots__ = ("round", "outcome", "seconds", "contributors", "missing", "voters", "commit_id", "state_root", "loss", "committed_tokens", "bytes_sent", "bytes_received", "attempts", "committed_at_ms", "electorate", "metrics")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ROUND_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTORS_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    VOTERS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_ROOT_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    ELECTORATE_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    round: int
    outcome: str
    seconds: float
    contributors: _containers.RepeatedScalarFieldContainer[str]
    missing: _containers.RepeatedScalarFieldContainer[str]
    voters: _containers.RepeatedScalarFieldContainer[str]
    commit_id: str
    state_root: str
    loss: float
    committed_tokens: int
    bytes_sent: int
    bytes_received: int
    attempts: int
    committed_at_ms: int
    electorate: int
    metrics: _containers.ScalarMap[str, float]
    def __init__(self, round: _Optional[int] = ..., outcome: _Optional[str] = ..., seconds: _Optional[float] = ..., contributors: _Optional[_Iterable[str]] = ..., missing: _Optional[_Iterable[str]] = ..., voters: _Optional[_Iterable[str]] = ..., commit_id: _Optional[str] = ..., state_root: _Optional[str] = ..., loss: _Optional[float] = ..., committed_tokens: _Optional[int] = ..., bytes_sent: _Optional[int] = ..., bytes_received: _Optional[int] = ..., attempts: _Optional[int] = ..., committed_at_ms: _Optional[int] = ..., electorate: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ...) -> None: ...

class HistoryReply(_message.Message):
    __slots__ = ("rounds",)
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    rounds: _containers.RepeatedCompositeFieldContainer[RoundSummary]
    def __init__(self, rounds: _Optional[_Iterable[_Union[RoundSummary, _Mapping]]] = ...) -> None: ...

class ChangeRequest(_message.Message):
    __slots__ = ("change",)
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    change: bytes
    def __init__(self, change: _Optional[bytes] = ...) -> None: ...

class ChangeReply(_message.Message):
    __slots__ = ("code", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class LogRequest(_message.Message):
    __slots__ = ("after",)
    AFTER_FIELD_NUMBER: _ClassVar[int]
    after: int
    def __init__(self, after: _Optional[int] = ...) -> None: ...

class LogLine(_message.Message):
    __slots__ = ("number", "at_ms", "text")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    number: int
    at_ms: int
    text: str
    def __init__(self, number: _Optional[int] = ..., at_ms: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class LogReply(_message.Message):
    __slots__ = ("lines",)
    LINES_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[LogLine]
    def __init__(self, lines: _Optional[_Iterable[_Union[LogLine, _Mapping]]] = ...) -> None: ...

class Look(_message.Message):
    __slots__ = ("at_ms", "status", "rounds", "log")
    AT_MS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    LOG_FIELD_NUMBER: _ClassVar[int]
    at_ms: int
    status: StatusReply
    rounds: _containers.RepeatedCompositeFieldContainer[RoundSummary]
    log: _containers.RepeatedCompositeFieldContainer[LogLine]
    def __init__(self, at_ms: _Optional[int] = ..., status: _Optional[_Union[StatusReply, _Mapping]] = ..., rounds: _Optional[_Iterable[_Union[RoundSummary, _Mapping]]] = ..., log: _Optional[_Iterable[_Union[LogLine, _Mapping]]] = ...) -> None: ...
