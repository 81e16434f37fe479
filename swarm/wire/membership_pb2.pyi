from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PeerRecord(_message.Message):
    __slots__ = ("peer_id", "run_id", "display_name", "software_version", "protocol", "p2p_addresses", "data_addresses", "tls_certificate", "device", "memory_bytes", "tokens_per_second", "bandwidth_bps", "domain", "held_experts", "branch", "round", "committed_tokens", "commit_id", "state", "incarnation", "issued_at_ms", "lease_ttl_ms", "nat", "observers", "lan_addresses", "network_hash", "relay", "permission")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    P2P_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    DATA_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    TLS_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    BANDWIDTH_BPS_FIELD_NUMBER: _ClassVar[int]
    DOMAIN_FIELD_NUMBER: _ClassVar[int]
    HELD_EXPERTS_FIELD_NUMBER: _ClassVar[int]
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMMIT_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    LEASE_TTL_MS_FIELD_NUMBER: _ClassVar[int]
    NAT_FIELD_NUMBER: _ClassVar[int]
    OBSERVERS_FIELD_NUMBER: _ClassVar[int]
    LAN_ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    NETWORK_HASH_FIELD_NUMBER: _ClassVar[int]
    RELAY_FIELD_NUMBER: _ClassVar[int]
    PERMISSION_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    run_id: bytes
    display_name: str
    software_version: str
    protocol: int
    p2p_addresses: _containers.RepeatedScalarFieldContainer[str]
    data_addresses: _containers.RepeatedScalarFieldContainer[str]
    tls_certificate: bytes
    device: str
    memory_bytes: int
    tokens_per_second: float
    bandwidth_bps: float
    domain: str
    held_experts: _containers.RepeatedScalarFieldContainer[int]
    branch: bytes
    round: int
    committed_tokens: int
    commit_id: bytes
    state: str
    incarnation: bytes
    issued_at_ms: int
    lease_ttl_ms: int
    nat: str
    observers: int
    lan_addresses: _containers.RepeatedScalarFieldContainer[str]
    network_hash: bytes
    relay: bool
    permission: bytes
    def __init__(self, peer_id: _Optional[str] = ..., run_id: _Optional[bytes] = ..., display_name: _Optional[str] = ..., software_version: _Optional[str] = ..., protocol: _Optional[int] = ..., p2p_addresses: _Optional[_Iterable[str]] = ..., data_addresses: _Optional[_Iterable[str]] = ..., tls_certificate: _Optional[bytes] = ..., device: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., tokens_per_second: _Optional[float] = ..., bandwidth_bps: _Optional[float] = ..., domain: _Optional[str] = ..., held_experts: _Optional[_Iterable[int]] = ..., branch: _Optional[bytes] = ..., round: _Optional[int] = ..., committed_tokens: _Optional[int] = ..., commit_id: _Optional[bytes] = ..., state: _Optional[str] = ..., incarnation: _Optional[bytes] = ..., issued_at_ms: _Optional[int] = ..., lease_ttl_ms: _Optional[int] = ..., nat: _Optional[str] = ..., observers: _Optional[int] = ..., lan_addresses: _Optional[_Iterable[str]] = ..., network_hash: _Optional[bytes] = ..., relay: bool = ..., permission: _Optional[bytes] = ...) -> None: ...

class Permission(_message.Message):
    __slots__ = ("run_id", "ticket_key", "expires_at_ms", "only_peer", "max_peers", "run_signature", "peer_id", "ticket_signature")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    TICKET_KEY_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_MS_FIELD_NUMBER: _ClassVar[int]
    ONLY_PEER_FIELD_NUMBER: _ClassVar[int]
    MAX_PEERS_FIELD_NUMBER: _ClassVar[int]
    RUN_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    TICKET_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    run_id: bytes
    ticket_key: bytes
    expires_at_ms: int
    only_peer: str
    max_peers: int
    run_signature: bytes
    peer_id: str
    ticket_signature: bytes
    def __init__(self, run_id: _Optional[bytes] = ..., ticket_key: _Optional[bytes] = ..., expires_at_ms: _Optional[int] = ..., only_peer: _Optional[str] = ..., max_peers: _Optional[int] = ..., run_signature: _Optional[bytes] = ..., peer_id: _Optional[str] = ..., ticket_signature: _Optional[bytes] = ...) -> None: ...

class Ticket(_message.Message):
    __slots__ = ("manifest", "peers", "grant", "seed", "data")
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    manifest: bytes
    peers: _containers.RepeatedScalarFieldContainer[str]
    grant: Permission
    seed: bytes
    data: str
    def __init__(self, manifest: _Optional[bytes] = ..., peers: _Optional[_Iterable[str]] = ..., grant: _Optional[_Union[Permission, _Mapping]] = ..., seed: _Optional[bytes] = ..., data: _Optional[str] = ...) -> None: ...

class SignedRecord(_message.Message):
    __slots__ = ("payload", "signature")
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    signature: bytes
    def __init__(self, payload: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class NamedValue(_message.Message):
    __slots__ = ("peer_id", "run_id", "name", "value", "issued_at_ms", "lease_ttl_ms")
    PEER_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    LEASE_TTL_MS_FIELD_NUMBER: _ClassVar[int]
    peer_id: str
    run_id: bytes
    name: str
    value: bytes
    issued_at_ms: int
    lease_ttl_ms: int
    def __init__(self, peer_id: _Optional[str] = ..., run_id: _Optional[bytes] = ..., name: _Optional[str] = ..., value: _Optional[bytes] = ..., issued_at_ms: _Optional[int] = ..., lease_ttl_ms: _Optional[int] = ...) -> None: ...
