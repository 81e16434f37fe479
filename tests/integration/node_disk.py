"""What a node has on its disk, read by a test while it runs or after its end."""

from __future__ import annotations

from pathlib import Path

from swarm.collective.consensus import parse_record
from swarm.wire import collective_pb2 as pb

Committed = tuple[float, int, tuple[bytes, ...], tuple[str, ...]]


def newest_record(directory: Path) -> pb.RoundRecord:
    return parse_record(pb.Commit.FromString((directory / "commit.bin").read_bytes()).record)


def is_on_disk(directory: Path, record: pb.RoundRecord) -> bool:
    """Whether every fragment of a record is there."""
    states = [outcome.state for outcome in record.fragments]
    hashes = [h for s in states for h in (s.theta_hash, s.momentum_hash)]
    return all((directory / "fragments" / f"{h.hex()}.f32").exists() for h in hashes)


def committed(directory: Path) -> dict[int, Committed]:
    """What each round committed: its loss, the tokens so far, hashes, and who was missing."""
    found = {}
    for path in (directory / "commits").glob("*.bin"):
        record = parse_record(pb.Commit.FromString(path.read_bytes()).record)
        hashes = tuple(o.state.theta_hash + o.state.momentum_hash for o in record.fragments)
        missing = tuple(m.peer for m in record.missing)
        found[int(record.round)] = (record.loss, record.committed_tokens, hashes, missing)
    return found
