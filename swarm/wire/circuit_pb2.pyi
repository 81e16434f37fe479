from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CircuitStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CIRCUIT_UNUSED: _ClassVar[CircuitStatus]
    CIRCUIT_OK: _ClassVar[CircuitStatus]
    CIRCUIT_RESERVATION_REFUSED: _ClassVar[CircuitStatus]
    CIRCUIT_RESOURCE_LIMIT_EXCEEDED: _ClassVar[CircuitStatus]
    CIRCUIT_PERMISSION_DENIED: _ClassVar[CircuitStatus]
    CIRCUIT_CONNECTION_FAILED: _ClassVar[CircuitStatus]
    CIRCUIT_NO_RESERVATION: _ClassVar[CircuitStatus]
    CIRCUIT_MALFORMED_MESSAGE: _ClassVar[CircuitStatus]
    CIRCUIT_UNEXPECTED_MESSAGE: _ClassVar[CircuitStatus]
CIRCUIT_UNUSED: CircuitStatus
CIRCUIT_OK: CircuitStatus
CIRCUIT_RESERVATION_REFUSED: CircuitStatus
CIRCUIT_RESOURCE_LIMIT_EXCEEDED: CircuitStatus
CIRCUIT_PERMISSION_DENIED: CircuitStatus
CIRCUIT_CONNECTION_FAILED: CircuitStatus
CIRCUIT_NO_RESERVATION: CircuitStatus
CIRCUIT_MALFORMED_MESSAGE: CircuitStatus
CIRCUIT_UNEXPECTED_MESSAGE: CircuitStatus

class HopMessage(_message.Message):
    __slots__ = ("type", "peer", "reservation", "limit", "status")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        RESERVE: _ClassVar[HopMessage.Type]
        CONNECT: _ClassVar[HopMessage.Type]
        STATUS: _ClassVar[HopMessage.Type]
    RESERVE: HopMessage.Type
    CONNECT: HopMessage.Type
    STATUS: HopMessage.Type
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    type: HopMessage.Type
    peer: CircuitPeer
    reservation: Reservation
    limit: CircuitLimit
    status: CircuitStatus
    def __init__(self, type: _Optional[_Union[HopMessage.Type, str]] = ..., peer: _Optional[_Union[CircuitPeer, _Mapping]] = ..., reservation: _Optional[_Union[Reservation, _Mapping]] = ..., limit: _Optional[_Union[CircuitLimit, _Mapping]] = ..., status: _Optional[_Union[CircuitStatus, str]] = ...) -> None: ...

class StopMessage(_message.Message):
    __slots__ = ("type", "peer", "limit", "status")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CONNECT: _ClassVar[StopMessage.Type]
        STATUS: _ClassVar[StopMessage.Type]
    CONNECT: StopMessage.Type
    STATUS: StopMessage.Type
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    type: StopMessage.Type
    peer: CircuitPeer
    limit: CircuitLimit
    status: CircuitStatus
    def __init__(self, type: _Optional[_Union[StopMessage.Type, str]] = ..., peer: _Optional[_Union[CircuitPeer, _Mapping]] = ..., limit: _Optional[_Union[CircuitLimit, _Mapping]] = ..., status: _Optional[_Union[CircuitStatus, str]] = ...) -> None: ...

class CircuitPeer(_message.Message):
    __slots__ = ("id", "addrs")
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDRS_FIELD_NUMBER: _ClassVar[int]
    id: bytes
    addrs: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, id: _Optional[bytes] = ..., addrs: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Reservation(_message.Message):
    __slots__ = ("expire", "addrs", "voucher")
    EXPIRE_FIELD_NUMBER: _ClassVar[int]
    ADDRS_FIELD_NUMBER: _ClassVar[int]
    VOUCHER_FIELD_NUMBER: _ClassVar[int]
    expire: int
    addrs: _containers.RepeatedScalarFieldContainer[bytes]
    voucher: bytes
    def __init__(self, expire: _Optional[int] = ..., addrs: _Optional[_Iterable[bytes]] = ..., voucher: _Optional[bytes] = ...) -> None: ...

class CircuitLimit(_message.Message):
    __slots__ = ("duration", "data")
    DURATION_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    duration: int
    data: int
    def __init__(self, duration: _Optional[int] = ..., data: _Optional[int] = ...) -> None: ...
