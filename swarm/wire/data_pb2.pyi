from swarm.wire import collective_pb2 as _collective_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReduceHello(_message.Message):
    __slots__ = ("branch", "round", "ballot")
    BRANCH_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    BALLOT_FIELD_NUMBER: _ClassVar[int]
    branch: bytes
    round: int
    ballot: _collective_pb2.Ballot
    def __init__(self, branch: _Optional[bytes] = ..., round: _Optional[int] = ..., ballot: _Optional[_Union[_collective_pb2.Ballot, _Mapping]] = ...) -> None: ...

class ReduceChunk(_message.Message):
    __slots__ = ("job", "data")
    JOB_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    job: int
    data: bytes
    def __init__(self, job: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class ReduceFrame(_message.Message):
    __slots__ = ("hello", "chunk", "failure", "end")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    hello: ReduceHello
    chunk: ReduceChunk
    failure: str
    end: bool
    def __init__(self, hello: _Optional[_Union[ReduceHello, _Mapping]] = ..., chunk: _Optional[_Union[ReduceChunk, _Mapping]] = ..., failure: _Optional[str] = ..., end: bool = ...) -> None: ...

class DownloadRequest(_message.Message):
    __slots__ = ("sha256", "offset")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    offset: int
    def __init__(self, sha256: _Optional[bytes] = ..., offset: _Optional[int] = ...) -> None: ...

class DownloadChunk(_message.Message):
    __slots__ = ("offset", "total_bytes", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    total_bytes: int
    data: bytes
    def __init__(self, offset: _Optional[int] = ..., total_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...
