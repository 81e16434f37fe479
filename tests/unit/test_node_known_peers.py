"""The file of known peers: bounded, forgiving, and never poorer for a start without peers."""

from __future__ import annotations

from pathlib import Path

from node.known_peers import load_addresses, save_addresses
from swarm.identity import Identity
from swarm.network.contacts import KEPT_PEERS


def addresses(count: int) -> list[str]:
    return [
        f"/ip4/11.7.0.{number + 1}/tcp/4001/p2p/{Identity.generate().peer_id}"
        for number in range(count)
    ]


def test_what_was_saved_is_there_at_the_next_start_in_its_order(tmp_path: Path) -> None:
    kept = addresses(3)
    assert load_addresses(tmp_path) == ()
    save_addresses(tmp_path, kept)
    assert load_addresses(tmp_path) == tuple(kept)


def test_a_node_that_met_nobody_this_time_keeps_the_peers_from_before(tmp_path: Path) -> None:
    before, after = addresses(3), addresses(1)
    save_addresses(tmp_path, before)
    save_addresses(tmp_path, [])
    assert load_addresses(tmp_path) == tuple(before)
    save_addresses(tmp_path, after)
    assert load_addresses(tmp_path) == (*after, *before)


def test_new_addresses_of_a_peer_replace_its_old_ones(tmp_path: Path) -> None:
    (old,) = addresses(1)
    new = old.replace("/tcp/4001/", "/tcp/4002/")
    save_addresses(tmp_path, [old])
    save_addresses(tmp_path, [new])
    assert load_addresses(tmp_path) == (new,)


def test_the_file_is_bounded_and_forgets_those_met_longest_ago(tmp_path: Path) -> None:
    first, second = addresses(KEPT_PEERS), addresses(10)
    save_addresses(tmp_path, first)
    save_addresses(tmp_path, second)
    assert load_addresses(tmp_path) == (*second, *first[: KEPT_PEERS - 10])


def test_a_damaged_file_costs_only_its_damaged_lines(tmp_path: Path) -> None:
    good = addresses(2)
    text = f"{good[0]}\n/ip4/1.2.3.4/tcp/1/p2p/12D3KooWtorn".encode() + b"\xff\n"
    (tmp_path / "peers.txt").write_bytes(text + f"{good[1]}\n".encode())
    assert load_addresses(tmp_path) == tuple(good)


def test_a_file_that_has_not_changed_is_not_written_again(tmp_path: Path) -> None:
    kept = addresses(2)
    save_addresses(tmp_path, kept)
    before = (tmp_path / "peers.txt").stat().st_ino
    save_addresses(tmp_path, kept)
    assert (tmp_path / "peers.txt").stat().st_ino == before
