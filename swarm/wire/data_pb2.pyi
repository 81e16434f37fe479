from swarm.wire import collective_pb2 as _collective_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Protection(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEALED: _ClassVar[Protection]
    PLAIN: _ClassVar[Protection]
SEALED: Protection
PLAIN: Protection

class LaneHello(_message.Message):
    __slots__ = ("token", "secret", "protection")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    PROTECTION_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    secret: bytes
    protection: Protection
    def __init__(self, token: _Optional[bytes] = ..., secret: _Optional[bytes] = ..., protection: _Optional[_Union[Protection, str]] = ...) -> None: ...

class LaneWelcome(_message.Message):
    __slots__ = ("secret", "code", "message", "protection", "seen")
    SECRET_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PROTECTION_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    secret: bytes
    code: str
    message: str
    protection: Protection
    seen: str
    def __init__(self, secret: _Optional[bytes] = ..., code: _Optional[str] = ..., message: _Optional[str] = ..., protection: _Optional[_Union[Protection, str]] = ..., seen: _Optional[str] = ...) -> None: ...

class Call(_message.Message):
    __slots__ = ("reduce", "download")
    REDUCE_FIELD_NUMBER: _ClassVar[int]
    DOWNLOAD_FIELD_NUMBER: _ClassVar[int]
    reduce: ReduceHello
    download: DownloadRequest
    def __init__(self, reduce: _Optional[_Union[ReduceHello, _Mapping]] = ..., download: _Optional[_Union[DownloadRequest, _Mapping]] = ...) -> None: ...

class ReduceHello(_message.Message):
    __slots__ = ("branch", "round", "ballot", "lane", "lanes")
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    branch: bytes
    round: int
    ballot: _collective_pb2.Ballot
    lane: int
    lanes: int
    def __init__(self, branch: _Optional[bytes] = ..., round: _Optional[int] = ..., ballot: _Optional[_Union[_collective_pb2.Ballot, _Mapping]] = ..., lane: _Optional[int] = ..., lanes: _Optional[int] = ...) -> None: ...

class DownloadRequest(_message.Message):
    __slots__ = ("blob_hash", "offset", "length")
    BLOB_HASH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    blob_hash: bytes
    offset: int
    length: int
    def __init__(self, blob_hash: _Optional[bytes] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...
