"""The newest state of a run, asked and downloaded from its peers by a short-lived client.

    state = asyncio.run(fetch_newest(manifest, addresses, print))
    state.fragments["expert.3"]           # flat fp32, verified against the commit's hash

The client has a key of its own for the time of the download and is no member of the run.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from swarm.collective.consensus import better_history, commit_id, verify_commit
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.identity import verify
from swarm.model.fragments import FragmentLayout
from swarm.network.data_plane import DataPlane
from swarm.network.p2p import NetworkConfig, PeerNetwork
from swarm.network.records import RELAY, verify_record
from swarm.wire.collective_pb2 import GetCommit, GetCommitReply, RoundRecord
from swarm.wire.membership_pb2 import PeerRecord

ASK_LIMIT = timedelta(seconds=10)
DOWNLOAD_LIMIT = timedelta(seconds=120)
FIND_LIMIT = timedelta(seconds=20)
FIND_EVERY_S = 1.0

Report = Callable[[str], None]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RunState:
    """A commit and all its fragments."""

    record: RoundRecord
    commit_id: bytes
    fragments: dict[str, F32]


async def fetch_newest(manifest: RunManifest, addresses: Sequence[str], report: Report) -> RunState:
    """Ask the peers for the newest commit, check its votes, and download what it names.

    `addresses` are multiaddrs of peers, one of which must answer. Raises `BOOTSTRAP_UNREACHABLE`,
    `TOO_FEW_PEERS` (nobody has a commit), `COMMIT_INVALID` or `FRAGMENT_UNAVAILABLE`.
    """
    with tempfile.TemporaryDirectory(prefix="fetch-") as temporary:
        key_file = Path(temporary) / "identity.key"
        network = await PeerNetwork.start(
            key_file,
            manifest.run_id,
            NetworkConfig(initial_peers=tuple(addresses)),
            on_stage=lambda name, message: report(f"{name}: {message}"),
        )
        try:
            replies = await _ask_peers(network)
            record, identifier = newest_commit(replies, manifest.run_id)
            report(f"newest commit: round {record.round}, {identifier.hex()[:16]}")
            sources = _sources(replies, await network.records(), manifest.run_id)
            plane = DataPlane(network.identity, manifest.run_id)
            network.carry(plane)
            try:
                fragments = await asyncio.to_thread(
                    download_all, plane, manifest, record, sources, report
                )
            finally:
                plane.stop()
        finally:
            await network.shutdown()
    return RunState(record, identifier, fragments)


def newest_commit(
    replies: Mapping[str, GetCommitReply], run_id: bytes
) -> tuple[RoundRecord, bytes]:
    """The newest valid commit of the branch that most peers follow, and its id.

    Ties between branches end as they do among the peers. Replies with an invalid commit do not
    count. Raises `TOO_FEW_PEERS` when no peer has a commit, `COMMIT_INVALID` when all are invalid.
    """
    valid: list[tuple[RoundRecord, bytes]] = []
    refusals: list[str] = []
    for peer, reply in replies.items():
        if not reply.commit.record:
            continue
        try:
            record = verify_commit(reply.commit, run_id, verify)
        except SwarmError as error:
            refusals.append(f"{peer}: {error.message}")
        else:
            valid.append((record, commit_id(reply.commit.record)))
    if not valid:
        if refusals:
            raise SwarmError(Code.COMMIT_INVALID, "; ".join(refusals))
        raise SwarmError(
            Code.TOO_FEW_PEERS,
            f"none of {len(replies)} peers has a commit yet",
            "wait for the first round, then try again",
        )
    followers = Counter(record.branch for record, _ in valid)
    most = max(followers.values())
    best = None
    for candidate in valid:
        if followers[candidate[0].branch] == most:
            if best is None or better_history(candidate[0], best[0]):
                best = candidate
    assert best is not None
    return best


def download_all(
    plane: DataPlane,
    manifest: RunManifest,
    record: RoundRecord,
    sources: Sequence[PeerRecord],
    report: Report,
) -> dict[str, F32]:
    """Every fragment of the run's layout by the hashes of `record`; blocking.

    Each is tried from one peer after the other, holders of an expert first.
    Raises `COMMIT_INVALID` when the commit lacks a fragment, else `FRAGMENT_UNAVAILABLE`.
    """
    layout = FragmentLayout.of(
        manifest.model, manifest.sync.trunk_fragments, manifest.sync.router_rows
    )
    hashes = {f.state.fragment: f.state.theta_hash for f in record.fragments}
    fragments = {}
    for name in layout.names:
        if name not in hashes:
            raise SwarmError(Code.COMMIT_INVALID, f"the commit does not have {name}")
        expert = layout.expert_index(name)
        ordered = sorted(sources, key=lambda source: expert not in source.held_experts)
        fragments[name] = _download(plane, name, hashes[name], layout.numel(name), ordered)
        report(f"{name}: {layout.numel(name) * 4} bytes verified")
    return fragments


def _download(
    plane: DataPlane, name: str, blob_hash: bytes, numel: int, sources: Sequence[PeerRecord]
) -> F32:
    values: F32 = np.empty(numel, dtype="<f4")
    try:
        plane.download_blob(sources, blob_hash, values.data, DOWNLOAD_LIMIT)
    except SwarmError as error:
        raise SwarmError(
            Code.FRAGMENT_UNAVAILABLE,
            f"{name} from none of {len(sources)} peers: {error.message}",
            "wait until its holders are back, or name them with --peer",
        ) from error
    return values


async def _ask_peers(network: PeerNetwork) -> dict[str, GetCommitReply]:
    """Everybody's newest commit; looks for peers until one has answered or the time is over."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + FIND_LIMIT.total_seconds()
    while True:
        peers = [
            peer
            for peer, record in (await network.records()).items()
            if peer != network.peer_id and record.state != RELAY
        ]
        asked = [
            network.call(peer, GetCommit(latest=True), GetCommitReply, ASK_LIMIT) for peer in peers
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        replies: dict[str, GetCommitReply] = {}
        for peer, answer in zip(peers, answers, strict=True):
            if isinstance(answer, GetCommitReply):
                replies[peer] = answer
            elif not isinstance(answer, SwarmError):
                raise answer
        if replies or loop.time() > deadline:
            return replies
        await asyncio.sleep(FIND_EVERY_S)


def _sources(
    replies: Mapping[str, GetCommitReply], records: Mapping[str, PeerRecord], run_id: bytes
) -> list[PeerRecord]:
    """Everybody who may serve fragments: those in the DHT, and roster members they told of."""
    found = dict(records)
    for reply in replies.values():
        for member in reply.members:
            if member.peer not in found:
                try:
                    record = verify_record(member.record, run_id=run_id, now_ms=None)
                except SwarmError:
                    continue
                found[record.peer_id] = record
    return [record for record in found.values() if record.tls_certificate]
