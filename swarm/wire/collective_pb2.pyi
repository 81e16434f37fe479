from swarm.wire import membership_pb2 as _membership_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Operation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OPERATION_UNSPECIFIED: _ClassVar[Operation]
    MEAN: _ClassVar[Operation]
    CLIPPED_MEAN: _ClassVar[Operation]
    TRIMMED_MEAN: _ClassVar[Operation]
    MEDIAN: _ClassVar[Operation]
    SUM: _ClassVar[Operation]
    MAX: _ClassVar[Operation]
    MIN: _ClassVar[Operation]
    AGREE: _ClassVar[Operation]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    FULL: _ClassVar[Outcome]
    PARTIAL: _ClassVar[Outcome]
    SKIPPED: _ClassVar[Outcome]
    FOUNDED: _ClassVar[Outcome]
OPERATION_UNSPECIFIED: Operation
MEAN: Operation
CLIPPED_MEAN: Operation
TRIMMED_MEAN: Operation
MEDIAN: Operation
SUM: Operation
MAX: Operation
MIN: Operation
AGREE: Operation
OUTCOME_UNSPECIFIED: Outcome
FULL: Outcome
PARTIAL: Outcome
SKIPPED: Outcome
FOUNDED: Outcome

class Ballot(_message.Message):
    __slots__ = ("attempt", "leader")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    leader: str
    def __init__(self, attempt: _Optional[int] = ..., leader: _Optional[str] = ...) -> None: ...

class FragmentVersion(_message.Message):
    __slots__ = ("fragment", "version", "theta_hash", "momentum_hash")
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    THETA_HASH_FIELD_NUMBER: _ClassVar[int]
    MOMENTUM_HASH_FIELD_NUMBER: _ClassVar[int]
    fragment: str
    version: int
    theta_hash: bytes
    momentum_hash: bytes
    def __init__(self, fragment: _Optional[str] = ..., version: _Optional[int] = ..., theta_hash: _Optional[bytes] = ..., momentum_hash: _Optional[bytes] = ...) -> None: ...

class Contribution(_message.Message):
    __slots__ = ("fragment", "weight", "base_hash", "numel", "norm", "number", "operation", "codec", "state_revision")
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    BASE_HASH_FIELD_NUMBER: _ClassVar[int]
    NUMEL_FIELD_NUMBER: _ClassVar[int]
    NORM_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    STATE_REVISION_FIELD_NUMBER: _ClassVar[int]
    fragment: str
    weight: float
    base_hash: bytes
    numel: int
    norm: float
    number: int
    operation: Operation
    codec: str
    state_revision: int
    def __init__(self, fragment: _Optional[str] = ..., weight: _Optional[float] = ..., base_hash: _Optional[bytes] = ..., numel: _Optional[int] = ..., norm: _Optional[float] = ..., number: _Optional[int] = ..., operation: _Optional[_Union[Operation, str]] = ..., codec: _Optional[str] = ..., state_revision: _Optional[int] = ...) -> None: ...

class Ready(_message.Message):
    __slots__ = ("round", "base_commit", "branch", "joining", "contributions", "steps", "tokens", "loss", "routed_tokens", "record", "suspects", "declined", "upload_bps", "download_bps", "capability", "train_seconds", "change", "served_bytes", "relayed_bytes")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BASE_COMMIT_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    JOINING_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    ROUTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    SUSPECTS_FIELD_NUMBER: _ClassVar[int]
    DECLINED_FIELD_NUMBER: _ClassVar[int]
    UPLOAD_BPS_FIELD_NUMBER: _ClassVar[int]
    DOWNLOAD_BPS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITY_FIELD_NUMBER: _ClassVar[int]
    TRAIN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    SERVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    RELAYED_BYTES_FIELD_NUMBER: _ClassVar[int]
    round: int
    base_commit: bytes
    branch: bytes
    joining: bool
    contributions: _containers.RepeatedCompositeFieldContainer[Contribution]
    steps: int
    tokens: int
    loss: float
    routed_tokens: _containers.RepeatedScalarFieldContainer[int]
    record: _membership_pb2.SignedRecord
    suspects: _containers.RepeatedScalarFieldContainer[str]
    declined: _containers.RepeatedScalarFieldContainer[str]
    upload_bps: float
    download_bps: float
    capability: Capability
    train_seconds: float
    change: SignedChange
    served_bytes: int
    relayed_bytes: int
    def __init__(self, round: _Optional[int] = ..., base_commit: _Optional[bytes] = ..., branch: _Optional[bytes] = ..., joining: bool = ..., contributions: _Optional[_Iterable[_Union[Contribution, _Mapping]]] = ..., steps: _Optional[int] = ..., tokens: _Optional[int] = ..., loss: _Optional[float] = ..., routed_tokens: _Optional[_Iterable[int]] = ..., record: _Optional[_Union[_membership_pb2.SignedRecord, _Mapping]] = ..., suspects: _Optional[_Iterable[str]] = ..., declined: _Optional[_Iterable[str]] = ..., upload_bps: _Optional[float] = ..., download_bps: _Optional[float] = ..., capability: _Optional[_Union[Capability, _Mapping]] = ..., train_seconds: _Optional[float] = ..., change: _Optional[_Union[SignedChange, _Mapping]] = ..., served_bytes: _Optional[int] = ..., relayed_bytes: _Optional[int] = ...) -> None: ...

class Capability(_message.Message):
    __slots__ = ("memory_bytes", "seconds_per_step", "domain")
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    SECONDS_PER_STEP_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    memory_bytes: int
    seconds_per_step: float
    domain: str
    def __init__(self, memory_bytes: _Optional[int] = ..., seconds_per_step: _Optional[float] = ..., domain: _Optional[str] = ...) -> None: ...

class RunChange(_message.Message):
    __slots__ = ("run_id", "number", "settings", "paused", "ended", "revoked", "issued_at_ms")
    class SettingsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    number: int
    settings: _containers.ScalarMap[str, float]
    paused: bool
    ended: bool
    revoked: _containers.RepeatedScalarFieldContainer[str]
    issued_at_ms: int
    def __init__(self, run_id: _Optional[bytes] = ..., number: _Optional[int] = ..., settings: _Optional[_Mapping[str, float]] = ..., paused: bool = ..., ended: bool = ..., revoked: _Optional[_Iterable[str]] = ..., issued_at_ms: _Optional[int] = ...) -> None: ...

class Tally(_message.Message):
    __slots__ = ("peer", "tokens", "rounds", "served_bytes", "relayed_bytes", "last_round")
    PEER_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    SERVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    RELAYED_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAST_ROUND_FIELD_NUMBER: _ClassVar[int]
    peer: str
    tokens: int
    rounds: int
    served_bytes: int
    relayed_bytes: int
    last_round: int
    def __init__(self, peer: _Optional[str] = ..., tokens: _Optional[int] = ..., rounds: _Optional[int] = ..., served_bytes: _Optional[int] = ..., relayed_bytes: _Optional[int] = ..., last_round: _Optional[int] = ...) -> None: ...

class SignedChange(_message.Message):
    __slots__ = ("payload", "signature")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    signature: bytes
    def __init__(self, payload: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class ReadyReply(_message.Message):
    __slots__ = ("status", "leader", "commit")
    class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATUS_UNSPECIFIED: _ClassVar[ReadyReply.Status]
        COLLECTING: _ClassVar[ReadyReply.Status]
        NOT_LEADER: _ClassVar[ReadyReply.Status]
        STALE: _ClassVar[ReadyReply.Status]
    STATUS_UNSPECIFIED: ReadyReply.Status
    COLLECTING: ReadyReply.Status
    NOT_LEADER: ReadyReply.Status
    STALE: ReadyReply.Status
    STATUS_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    status: ReadyReply.Status
    leader: str
    commit: Commit
    def __init__(self, status: _Optional[_Union[ReadyReply.Status, str]] = ..., leader: _Optional[str] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("begin", "end", "reducer")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    REDUCER_FIELD_NUMBER: _ClassVar[int]
    begin: int
    end: int
    reducer: str
    def __init__(self, begin: _Optional[int] = ..., end: _Optional[int] = ..., reducer: _Optional[str] = ...) -> None: ...

class FragmentPlan(_message.Message):
    __slots__ = ("fragment", "numel", "contributors", "weights", "receivers", "holders", "codec", "parts", "operation", "norms")
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    NUMEL_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTORS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    RECEIVERS_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    NORMS_FIELD_NUMBER: _ClassVar[int]
    fragment: str
    numel: int
    contributors: _containers.RepeatedScalarFieldContainer[str]
    weights: _containers.RepeatedScalarFieldContainer[float]
    receivers: _containers.RepeatedScalarFieldContainer[str]
    holders: _containers.RepeatedScalarFieldContainer[str]
    codec: str
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    operation: Operation
    norms: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, fragment: _Optional[str] = ..., numel: _Optional[int] = ..., contributors: _Optional[_Iterable[str]] = ..., weights: _Optional[_Iterable[float]] = ..., receivers: _Optional[_Iterable[str]] = ..., holders: _Optional[_Iterable[str]] = ..., codec: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ..., operation: _Optional[_Union[Operation, str]] = ..., norms: _Optional[_Iterable[float]] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("peer", "record")
    PEER_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    peer: str
    record: _membership_pb2.SignedRecord
    def __init__(self, peer: _Optional[str] = ..., record: _Optional[_Union[_membership_pb2.SignedRecord, _Mapping]] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("run_id", "branch", "round", "ballot", "base_commit", "electorate", "unanimous", "members", "fragments", "chunk_elements", "attempt_timeout_ms")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    BASE_COMMIT_FIELD_NUMBER: _ClassVar[int]
    ELECTORATE_FIELD_NUMBER: _ClassVar[int]
    UNANIMOUS_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    FRAGMENTS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_ELEMENTS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    branch: bytes
    round: int
    ballot: Ballot
    base_commit: bytes
    electorate: _containers.RepeatedScalarFieldContainer[str]
    unanimous: bool
    members: _containers.RepeatedCompositeFieldContainer[Member]
    fragments: _containers.RepeatedCompositeFieldContainer[FragmentPlan]
    chunk_elements: int
    attempt_timeout_ms: int
    def __init__(self, run_id: _Optional[bytes] = ..., branch: _Optional[bytes] = ..., round: _Optional[int] = ..., ballot: _Optional[_Union[Ballot, _Mapping]] = ..., base_commit: _Optional[bytes] = ..., electorate: _Optional[_Iterable[str]] = ..., unanimous: bool = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., fragments: _Optional[_Iterable[_Union[FragmentPlan, _Mapping]]] = ..., chunk_elements: _Optional[int] = ..., attempt_timeout_ms: _Optional[int] = ...) -> None: ...

class Promise(_message.Message):
    __slots__ = ("granted", "promised", "accepted_ballot", "accepted_record", "commit", "reason", "helps")
    GRANTED_FIELD_NUMBER: _ClassVar[int]
    PROMISED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_BALLOT_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_RECORD_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    HELPS_FIELD_NUMBER: _ClassVar[int]
    granted: bool
    promised: Ballot
    accepted_ballot: Ballot
    accepted_record: bytes
    commit: Commit
    reason: str
    helps: bool
    def __init__(self, granted: bool = ..., promised: _Optional[_Union[Ballot, _Mapping]] = ..., accepted_ballot: _Optional[_Union[Ballot, _Mapping]] = ..., accepted_record: _Optional[bytes] = ..., commit: _Optional[_Union[Commit, _Mapping]] = ..., reason: _Optional[str] = ..., helps: bool = ...) -> None: ...

class Suspect(_message.Message):
    __slots__ = ("peer", "reason")
    PEER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    peer: str
    reason: str
    def __init__(self, peer: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("round", "branch", "ballot", "results", "suspects", "failure", "bytes_sent", "bytes_received", "norms")
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    SUSPECTS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    BYTES_SENT_FIELD_NUMBER: _ClassVar[int]
    BYTES_RECEIVED_FIELD_NUMBER: _ClassVar[int]
    NORMS_FIELD_NUMBER: _ClassVar[int]
    round: int
    branch: bytes
    ballot: Ballot
    results: _containers.RepeatedCompositeFieldContainer[FragmentVersion]
    suspects: _containers.RepeatedCompositeFieldContainer[Suspect]
    failure: str
    bytes_sent: int
    bytes_received: int
    norms: _containers.RepeatedCompositeFieldContainer[PartNorm]
    def __init__(self, round: _Optional[int] = ..., branch: _Optional[bytes] = ..., ballot: _Optional[_Union[Ballot, _Mapping]] = ..., results: _Optional[_Iterable[_Union[FragmentVersion, _Mapping]]] = ..., suspects: _Optional[_Iterable[_Union[Suspect, _Mapping]]] = ..., failure: _Optional[str] = ..., bytes_sent: _Optional[int] = ..., bytes_received: _Optional[int] = ..., norms: _Optional[_Iterable[_Union[PartNorm, _Mapping]]] = ...) -> None: ...

class PartNorm(_message.Message):
    __slots__ = ("fragment", "peer", "squares")
    FRAGMENT_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    SQUARES_FIELD_NUMBER: _ClassVar[int]
    fragment: str
    peer: str
    squares: float
    def __init__(self, fragment: _Optional[str] = ..., peer: _Optional[str] = ..., squares: _Optional[float] = ...) -> None: ...

class ReportReply(_message.Message):
    __slots__ = ("noted",)
    NOTED_FIELD_NUMBER: _ClassVar[int]
    noted: bool
    def __init__(self, noted: bool = ...) -> None: ...

class FragmentOutcome(_message.Message):
    __slots__ = ("state", "advanced", "contributors", "weights", "numel", "operation", "codec")
    STATE_FIELD_NUMBER: _ClassVar[int]
    ADVANCED_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTORS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    NUMEL_FIELD_NUMBER: _ClassVar[int]
    OPERATION_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    state: FragmentVersion
    advanced: bool
    contributors: _containers.RepeatedScalarFieldContainer[str]
    weights: _containers.RepeatedScalarFieldContainer[float]
    numel: int
    operation: Operation
    codec: str
    def __init__(self, state: _Optional[_Union[FragmentVersion, _Mapping]] = ..., advanced: bool = ..., contributors: _Optional[_Iterable[str]] = ..., weights: _Optional[_Iterable[float]] = ..., numel: _Optional[int] = ..., operation: _Optional[_Union[Operation, str]] = ..., codec: _Optional[str] = ...) -> None: ...

class Assignment(_message.Message):
    __slots__ = ("peer", "experts", "since", "steps", "seconds_per_step", "places")
    PEER_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_PER_STEP_FIELD_NUMBER: _ClassVar[int]
    PLACES_FIELD_NUMBER: _ClassVar[int]
    peer: str
    experts: _containers.RepeatedScalarFieldContainer[int]
    since: _containers.RepeatedScalarFieldContainer[int]
    steps: int
    seconds_per_step: float
    places: int
    def __init__(self, peer: _Optional[str] = ..., experts: _Optional[_Iterable[int]] = ..., since: _Optional[_Iterable[int]] = ..., steps: _Optional[int] = ..., seconds_per_step: _Optional[float] = ..., places: _Optional[int] = ...) -> None: ...

class ExpertStanding(_message.Message):
    __slots__ = ("expert", "trained_tokens", "orphaned_rounds", "served")
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    TRAINED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ORPHANED_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    expert: int
    trained_tokens: float
    orphaned_rounds: int
    served: _containers.RepeatedCompositeFieldContainer[DomainShare]
    def __init__(self, expert: _Optional[int] = ..., trained_tokens: _Optional[float] = ..., orphaned_rounds: _Optional[int] = ..., served: _Optional[_Iterable[_Union[DomainShare, _Mapping]]] = ...) -> None: ...

class DomainShare(_message.Message):
    __slots__ = ("domain", "share")
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    domain: str
    share: float
    def __init__(self, domain: _Optional[str] = ..., share: _Optional[float] = ...) -> None: ...

class Resignation(_message.Message):
    __slots__ = ("peer", "base_commit", "signature", "back")
    PEER_FIELD_NUMBER: _ClassVar[int]
    BASE_COMMIT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    BACK_FIELD_NUMBER: _ClassVar[int]
    peer: str
    base_commit: bytes
    signature: bytes
    back: bool
    def __init__(self, peer: _Optional[str] = ..., base_commit: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., back: bool = ...) -> None: ...

class ResignationReply(_message.Message):
    __slots__ = ("staying",)
    STAYING_FIELD_NUMBER: _ClassVar[int]
    staying: bool
    def __init__(self, staying: bool = ...) -> None: ...

class RoundRecord(_message.Message):
    __slots__ = ("run_id", "branch", "round", "previous", "electorate", "unanimous", "roster", "fragments", "assignments", "outcome", "missing", "joined", "left", "committed_tokens", "routed_tokens", "loss", "proposer", "attempts", "decided_at_ms", "resignations", "experts", "selection_bias", "tallies", "change")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_FIELD_NUMBER: _ClassVar[int]
    ELECTORATE_FIELD_NUMBER: _ClassVar[int]
    UNANIMOUS_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    FRAGMENTS_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ROUTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    PROPOSER_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    DECIDED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    RESIGNATIONS_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    SELECTION_BIAS_FIELD_NUMBER: _ClassVar[int]
    TALLIES_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    branch: bytes
    round: int
    previous: bytes
    electorate: _containers.RepeatedScalarFieldContainer[str]
    unanimous: bool
    roster: _containers.RepeatedScalarFieldContainer[str]
    fragments: _containers.RepeatedCompositeFieldContainer[FragmentOutcome]
    assignments: _containers.RepeatedCompositeFieldContainer[Assignment]
    outcome: Outcome
    missing: _containers.RepeatedCompositeFieldContainer[Suspect]
    joined: _containers.RepeatedScalarFieldContainer[str]
    left: _containers.RepeatedScalarFieldContainer[str]
    committed_tokens: int
    routed_tokens: _containers.RepeatedScalarFieldContainer[int]
    loss: float
    proposer: str
    attempts: int
    decided_at_ms: int
    resignations: _containers.RepeatedCompositeFieldContainer[Resignation]
    experts: _containers.RepeatedCompositeFieldContainer[ExpertStanding]
    selection_bias: _containers.RepeatedScalarFieldContainer[float]
    tallies: _containers.RepeatedCompositeFieldContainer[Tally]
    change: SignedChange
    def __init__(self, run_id: _Optional[bytes] = ..., branch: _Optional[bytes] = ..., round: _Optional[int] = ..., previous: _Optional[bytes] = ..., electorate: _Optional[_Iterable[str]] = ..., unanimous: bool = ..., roster: _Optional[_Iterable[str]] = ..., fragments: _Optional[_Iterable[_Union[FragmentOutcome, _Mapping]]] = ..., assignments: _Optional[_Iterable[_Union[Assignment, _Mapping]]] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., missing: _Optional[_Iterable[_Union[Suspect, _Mapping]]] = ..., joined: _Optional[_Iterable[str]] = ..., left: _Optional[_Iterable[str]] = ..., committed_tokens: _Optional[int] = ..., routed_tokens: _Optional[_Iterable[int]] = ..., loss: _Optional[float] = ..., proposer: _Optional[str] = ..., attempts: _Optional[int] = ..., decided_at_ms: _Optional[int] = ..., resignations: _Optional[_Iterable[_Union[Resignation, _Mapping]]] = ..., experts: _Optional[_Iterable[_Union[ExpertStanding, _Mapping]]] = ..., selection_bias: _Optional[_Iterable[float]] = ..., tallies: _Optional[_Iterable[_Union[Tally, _Mapping]]] = ..., change: _Optional[_Union[SignedChange, _Mapping]] = ...) -> None: ...

class Accept(_message.Message):
    __slots__ = ("ballot", "record")
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    ballot: Ballot
    record: bytes
    def __init__(self, ballot: _Optional[_Union[Ballot, _Mapping]] = ..., record: _Optional[bytes] = ...) -> None: ...

class Vote(_message.Message):
    __slots__ = ("voter", "ballot", "record_sha256", "signature")
    VOTER_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    RECORD_SHA256_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    voter: str
    ballot: Ballot
    record_sha256: bytes
    signature: bytes
    def __init__(self, voter: _Optional[str] = ..., ballot: _Optional[_Union[Ballot, _Mapping]] = ..., record_sha256: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class AcceptReply(_message.Message):
    __slots__ = ("vote", "promised", "reason")
    VOTE_FIELD_NUMBER: _ClassVar[int]
    PROMISED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    vote: Vote
    promised: Ballot
    reason: str
    def __init__(self, vote: _Optional[_Union[Vote, _Mapping]] = ..., promised: _Optional[_Union[Ballot, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class Commit(_message.Message):
    __slots__ = ("record", "votes")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    VOTES_FIELD_NUMBER: _ClassVar[int]
    record: bytes
    votes: _containers.RepeatedCompositeFieldContainer[Vote]
    def __init__(self, record: _Optional[bytes] = ..., votes: _Optional[_Iterable[_Union[Vote, _Mapping]]] = ...) -> None: ...

class CommitReply(_message.Message):
    __slots__ = ("adopted", "reason")
    ADOPTED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    adopted: bool
    reason: str
    def __init__(self, adopted: bool = ..., reason: _Optional[str] = ...) -> None: ...

class GetCommit(_message.Message):
    __slots__ = ("latest", "round", "links")
    LATEST_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    latest: bool
    round: int
    links: int
    def __init__(self, latest: bool = ..., round: _Optional[int] = ..., links: _Optional[int] = ...) -> None: ...

class GetCommitReply(_message.Message):
    __slots__ = ("commit", "attending_branch", "members", "links")
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    ATTENDING_BRANCH_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    LINKS_FIELD_NUMBER: _ClassVar[int]
    commit: Commit
    attending_branch: bytes
    members: _containers.RepeatedCompositeFieldContainer[Member]
    links: _containers.RepeatedCompositeFieldContainer[Commit]
    def __init__(self, commit: _Optional[_Union[Commit, _Mapping]] = ..., attending_branch: _Optional[bytes] = ..., members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., links: _Optional[_Iterable[_Union[Commit, _Mapping]]] = ...) -> None: ...
