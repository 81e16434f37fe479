"""Who reduces how much: parts of the fragments by measured bandwidth. Pure functions.

`make_plan` calls `share_parts` for the parts, `chunk_elements` for the size of a chunk, and derives
the attempt's time limit from `predicted_seconds` by `attempt_timeout`.

The model (issue 3): a fragment of B bytes on the wire, contributors C, receivers R, share s_i of
reducer i. Peer i sends its contribution to the other reducers and the means of its part to the
other receivers, B (1 - s_i) + B s_i (R - 1); it receives B s_i (C - 1) + B (1 - s_i). The time of
an attempt is the largest of all bytes / rate. It is linear in the shares: a linear program, which
`_best_shares` has solved for the sums over the fragments with the same C and R. Then `_round` and
`_cut` make edges of the shares.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from statistics import median

import numpy as np

from swarm.collective.codecs import ALIGNMENT, get_codec
from swarm.collective.minimax import minimize_largest
from swarm.config import TimeoutPolicy
from swarm.wire import collective_pb2 as pb

Group = tuple[tuple[str, ...], tuple[str, ...]]  # contributors, receivers

LARGEST_CHUNK_BYTES = 1 << 20  # on the wire: where no link is slow
UNKNOWN_CHUNK_BYTES = 3 << 18  # where it is not known; room for scales: 512 KiB of fp32 or int8
LARGEST_CHUNK_ELEMENTS = 1 << 20  # a reducer holds a chunk of each contributor decoded
LEAST_ELEMENTS = 1 << 14  # of a chunk or a part; smaller ones cost more in messages than they save
CHUNK_TIME = timedelta(milliseconds=25)  # of one chunk on the slowest link: the pipeline's fill
RATE_SPREAD = 1e4  # rates count between 1/RATE_SPREAD and RATE_SPREAD times their median
LEAST_TIMEOUT = timedelta(seconds=20)  # room for what is not transfer: connecting, the outer step
# Rates are measured to about 15 % either way (four links of 100 Mbit/s: 95 to 130). Shares that
# follow such differences make links of one speed 15 % slower than equal ones do.
WORTHWHILE = 1.25
# Of a byte through a relay before anything is measured. The relay's link carries it in and out, for
# several pairs at once. It has to be more than `WORTHWHILE`, and no more than a guess may be.
RELAY_COST = 4.0
MAX_STRIPES = 256  # parts of a plan's striped fragments together; each is 70 bytes in it
UNITS = 1 << 24  # shares are rounded to 1/UNITS; from there on all arithmetic is exact


@dataclass(frozen=True)
class Rates:
    """Measured bits per second of each peer's link; what is missing or not positive is unknown.

    `relayed`: the part of the others to whom a peer has only a relay, 0 to 1. It counts as long as
    the peer's rates are unknown; measured ones have it in them.
    """

    upload_bps: Mapping[str, float]
    download_bps: Mapping[str, float]
    relayed: Mapping[str, float] = field(default_factory=dict)

    def known(self, peers: Iterable[str]) -> list[float]:
        """Every measured rate of `peers`, both directions."""
        values = [d.get(p, 0.0) for p in peers for d in (self.upload_bps, self.download_bps)]
        return [v for v in values if _measured(v)]

    def filled(self, peers: Sequence[str]) -> tuple[dict[str, float], dict[str, float]]:
        """Upload and download rates of all `peers`: an unknown one is the mean of the known, or
        less, by what of it goes through relays.

        Where nothing is known of a direction, the other stands for it; where nothing is known at
        all, every rate is 1. Rates beyond `RATE_SPREAD` are clipped: a peer may claim anything.
        """
        known = self.known(peers)
        middle = median(known) if known else 1.0
        tables = []
        for table in (self.upload_bps, self.download_bps):
            told = {p: table[p] for p in peers if _measured(table.get(p, 0.0))}
            clip = {
                p: min(max(v, middle / RATE_SPREAD), middle * RATE_SPREAD) for p, v in told.items()
            }
            tables.append(clip)
        upload, download = tables[0] or tables[1], tables[1] or tables[0]
        return self._with_mean(upload, peers), self._with_mean(download, peers)

    def _with_mean(self, table: Mapping[str, float], peers: Sequence[str]) -> dict[str, float]:
        mean = math.fsum(table.values()) / len(table) if table else 1.0
        return {p: table.get(p, mean / self._cost(p)) for p in peers}

    def _cost(self, peer: str) -> float:
        """Of a byte of a peer of which nothing is known but its paths; 1 where all are direct."""
        return 1 + (RELAY_COST - 1) * min(1.0, max(0.0, self.relayed.get(peer, 0.0)))


def _measured(rate: float) -> bool:
    return rate > 0 and math.isfinite(rate)


def chunk_elements(rates: Rates, peers: Iterable[str], codecs: Iterable[str]) -> int:
    """Elements of a chunk, a power of two: at most `CHUNK_TIME` on the slowest known link."""
    known = rates.known(peers)
    bytes_each = max((_bytes(c, ALIGNMENT) / ALIGNMENT for c in codecs), default=4.0)
    size = CHUNK_TIME.total_seconds() * min(known) / 8 if known else UNKNOWN_CHUNK_BYTES
    elements = int(min(size, LARGEST_CHUNK_BYTES) / bytes_each)
    wanted = max(LEAST_ELEMENTS, 1 << max(0, elements.bit_length() - 1))
    return min(wanted, LARGEST_CHUNK_ELEMENTS)


def predicted_seconds(plan: pb.Plan, rates: Rates) -> float:
    """Time in which the links of all peers can carry what the plan's parts make them send.

    Without headers and latency. Infinite when the rate of a member is not known, or when a fragment
    has no parts: what AGREE moves is not planned.
    """
    members = [m.peer for m in plan.members]
    if len(rates.known(members)) < 2 * len(members) or not all(f.parts for f in plan.fragments):
        return math.inf
    upload, download = rates.filled(members)
    parts = [list(f.parts) for f in plan.fragments]
    return _seconds(plan.fragments, parts, upload, download)


def attempt_timeout(predicted_s: float, policy: TimeoutPolicy) -> timedelta:
    """Time limit of an attempt whose transfer should take `predicted_s`, at most `attempt_s`."""
    wanted_s = max(LEAST_TIMEOUT.total_seconds(), 4 * predicted_s + 2 * policy.heartbeat_s)
    return timedelta(seconds=min(wanted_s, policy.attempt_s))


def share_parts(
    fragments: Sequence[pb.FragmentPlan],
    orders: Sequence[Sequence[str]],
    rates: Rates,
    chunk: int,
) -> list[list[pb.Part]]:
    """The parts of each fragment, so that the predicted time of them all together is smallest.

    `orders[i]` are the contributors of fragment i in rendezvous order: its reducers are in this
    order and ties go to the first. Edges are multiples of `ALIGNMENT`; a part is no smaller than a
    chunk of `chunk` elements, unless the whole round is small. Parts as for links of one speed,
    unless others are faster by `WORTHWHILE`.
    """
    peers = sorted({p for f in fragments for p in (*f.contributors, *f.receivers)})
    upload, download = rates.filled(peers)
    groups: dict[Group, float] = defaultdict(float)
    for fragment in sorted(fragments, key=lambda f: f.fragment):
        groups[_group(fragment)] += _bytes(fragment.codec, fragment.numel)
    groups = dict(sorted(groups.items()))
    equal = {g: {p: UNITS // len(g[0]) for p in g[0]} for g in groups}
    best = _best_shares(groups, upload, download)
    room = sum(f.numel for f in fragments) // (4 * max(1, len(peers)))
    least = min(chunk, max(LEAST_ELEMENTS, room))
    one_speed = dict.fromkeys(peers, 1.0)
    alike = _best_shares(groups, one_speed, one_speed)
    cuts = [_round(fragments, orders, shares, least) for shares in (equal, alike, best)]
    times = [_seconds(fragments, cut, upload, download) for cut in cuts]
    steady = 0 if times[0] <= times[1] else 1
    return cuts[2] if times[steady] > times[2] * WORTHWHILE else cuts[steady]


def striped(parts: Sequence[pb.Part], chunk: int, most: int) -> list[pb.Part]:
    """The same shares in turns, so that all reducers work through the fragment side by side.

    In stripes of whole chunks, up to `most` of them; fewer than twice as many as `parts` are not
    worth it. So what a peer has of the result grows from its beginning (`RunningDigest`).
    """
    chunks = sum(-(-(p.end - p.begin) // chunk) for p in parts)
    step = chunk * -(-chunks // max(1, most))
    turns: list[tuple[float, int, int]] = []  # how far through its part, which part, elements
    for place, part in enumerate(parts):
        edges = [*range(part.begin, part.end, step), part.end]
        sizes = [end - begin for begin, end in itertools.pairwise(edges)]
        turns += [((n + 1) / len(sizes), place, size) for n, size in enumerate(sizes)]
    if len(turns) < 2 * len(parts):
        return list(parts)
    stripes, begin = [], 0
    for _, place, size in sorted(turns):  # the last one, of odd size, stays the last
        stripes.append(pb.Part(begin=begin, end=begin + size, reducer=parts[place].reducer))
        begin += size
    return stripes


def _group(fragment: pb.FragmentPlan) -> Group:
    return tuple(fragment.contributors), tuple(fragment.receivers)


def _bytes(codec: str, elements: int) -> int:
    return get_codec(codec).encoded_bytes(elements)


def _seconds(
    fragments: Iterable[pb.FragmentPlan],
    parts: Iterable[Sequence[pb.Part]],
    upload: Mapping[str, float],
    download: Mapping[str, float],
) -> float:
    """Largest of all bytes / rate."""
    sent = dict.fromkeys(upload, 0)
    received = dict.fromkeys(upload, 0)
    for fragment, cut in zip(fragments, parts, strict=True):
        sizes = [(p.reducer, _bytes(fragment.codec, p.end - p.begin)) for p in cut]
        total = sum(size for _, size in sizes)
        for peer in fragment.contributors:
            sent[peer] += total
        for peer in fragment.receivers:
            received[peer] += total
        for reducer, size in sizes:
            sent[reducer] += size * (len(fragment.receivers) - 2)
            received[reducer] += size * (len(fragment.contributors) - 2)
    times = [8 * sent[p] / upload[p] for p in upload]
    return max(times + [8 * received[p] / download[p] for p in upload], default=0.0)


# ---- the best shares ----------------------------------------------------------------------


def _best_shares(
    groups: Mapping[Group, float], upload: Mapping[str, float], download: Mapping[str, float]
) -> dict[Group, dict[str, int]]:
    """Shares in `UNITS` of each contributor, by group; `groups` are their bytes, in sorted order.

    A share of nearly nothing becomes nothing. Solved once: most rounds are like the one before.
    """
    return _solved(tuple(groups.items()), tuple(upload.items()), tuple(download.items()))


@functools.lru_cache(16)
def _solved(
    sizes: tuple[tuple[Group, float], ...],
    uploads: tuple[tuple[str, float], ...],
    downloads: tuple[tuple[str, float], ...],
) -> dict[Group, dict[str, int]]:
    groups, upload, download = dict(sizes), dict(uploads), dict(downloads)
    peers = list(upload)
    top = max((*upload.values(), *download.values()), default=1.0)
    # Six digits are more than anybody measures; they make the result independent of the unit.
    speed = np.array([float(f"{t[p] / top:.6g}") for t in (upload, download) for p in peers])
    up = {p: i for i, p in enumerate(peers)}
    down = {p: len(peers) + i for i, p in enumerate(peers)}
    owners = [(g, p) for g in groups for p in g[0] if len(g[0]) > 1]
    fixed, loads = np.zeros(2 * len(peers)), np.zeros((2 * len(peers), len(owners)))
    for (contributors, receivers), size in groups.items():
        fixed[[up[p] for p in contributors]] += size
        fixed[[down[p] for p in receivers]] += size
        if len(contributors) == 1:  # reduces what is its own: nothing to choose
            fixed[up[contributors[0]]] += size * (len(receivers) - 2)
            fixed[down[contributors[0]]] -= size
    for column, (group, peer) in enumerate(owners):
        contributors, receivers = group
        loads[up[peer], column] = groups[group] * (len(receivers) - 2)
        loads[down[peer], column] = groups[group] * (len(contributors) - 2)
    index = {g: i for i, g in enumerate(dict.fromkeys(g for g, _ in owners))}
    group_of = np.array([index[g] for g, _ in owners], dtype=np.intp)
    shares = minimize_largest(fixed / speed, loads / speed[:, None], group_of)
    result = {g: dict.fromkeys(g[0], UNITS) for g in groups}
    for (group, peer), share in zip(owners, shares.tolist(), strict=True):
        result[group][peer] = round(share * UNITS) if share * len(group[0]) * 128 >= 1 else 0
    return result


# ---- from shares to edges -----------------------------------------------------------------


def _round(
    fragments: Sequence[pb.FragmentPlan],
    orders: Sequence[Sequence[str]],
    shares: Mapping[Group, Mapping[str, int]],
    least: int,
) -> list[list[pb.Part]]:
    """Parts near the shares. What a peer gets too little of one fragment it is owed in the next."""
    owed: dict[str, int] = defaultdict(int)
    parts: list[list[pb.Part]] = [[] for _ in fragments]
    # Large ones first: the small ones even out what is left.
    work = sorted(range(len(fragments)), key=lambda i: (-fragments[i].numel, fragments[i].fragment))
    for i in work:
        fragment, fair = fragments[i], shares[_group(fragments[i])]
        size = _bytes(fragment.codec, fragment.numel) * max(1, len(fragment.receivers) - 2)
        wanted = {p: max(0, fair[p] * size + owed[p]) for p in orders[i]}
        parts[i] = _cut(fragment.numel, wanted if any(wanted.values()) else fair, orders[i], least)
        for peer in orders[i]:
            owed[peer] += fair[peer] * size
        for part in parts[i]:
            owed[part.reducer] -= UNITS * size * (part.end - part.begin) // fragment.numel
    return parts


def _cut(numel: int, wanted: Mapping[str, int], order: Sequence[str], least: int) -> list[pb.Part]:
    """Contiguous parts of `numel` elements in proportion to `wanted`, none smaller than `least`."""
    kept = [p for p in order if wanted[p] > 0]
    while len(kept) > 1:
        smallest = min(reversed(kept), key=lambda p: wanted[p])
        if wanted[smallest] * numel >= least * sum(wanted[p] for p in kept):
            break
        kept.remove(smallest)
    total = sum(wanted[p] for p in kept)
    blocks = -(-numel // ALIGNMENT)
    edges, running = [0], 0
    for peer in kept:
        running += wanted[peer]
        edges.append(min(numel, (2 * blocks * running + total) // (2 * total) * ALIGNMENT))
    return [
        pb.Part(begin=begin, end=end, reducer=peer)
        for peer, begin, end in zip(kept, edges, edges[1:], strict=False)
        if end > begin
    ]
