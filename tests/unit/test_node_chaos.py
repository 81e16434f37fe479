"""`node testnet --chaos`: what the spec means, whom it strikes, what ends the testnet."""

from __future__ import annotations

import types
from pathlib import Path

import pytest

from node import exit_codes
from node.chaos import Chaos, ChaosPlan, check_hashes, parse_chaos
from node.cli import run_command_line
from swarm.errors import Code, SwarmError
from swarm.wire.node_pb2 import RoundSummary


class FakeNode:
    """Keeps account of what is done to it."""

    def __init__(self, name: str) -> None:
        self.plan = types.SimpleNamespace(name=name)
        self.running, self.frozen, self.ended = True, False, False

    def kill(self) -> None:
        self.running = self.ended = False

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False

    def failure(self) -> SwarmError:
        return SwarmError(Code.PORT_IN_USE, "taken")


class FakeTestnet:
    def __init__(self, count: int) -> None:
        self.nodes = [FakeNode(f"peer-{n}") for n in range(count)]

    def restart(self, index: int) -> None:
        self.nodes[index].running = True


def disturbed(testnet: FakeTestnet, spec: str, seconds: int) -> tuple[Chaos, list[str], int]:
    """After so many seconds: the chaos, what it said, the fewest nodes that were unharmed."""
    said: list[str] = []
    chaos = Chaos(parse_chaos(spec), testnet, said.append)  # type: ignore[arg-type]
    fewest = len(testnet.nodes)
    for tenth in range(10 * seconds + 1):
        chaos.step(tenth / 10)
        fewest = min(fewest, sum(n.running and not n.frozen for n in testnet.nodes))
    return chaos, said, fewest


@pytest.mark.parametrize(
    ("spec", "plan"),
    [
        ("kill-every=2s,join-every=3s,partition=20s", ChaosPlan(2.0, 3.0, 20.0)),
        ("partition=1.5m", ChaosPlan(partition_s=90.0)),
        (" kill-every = 500ms , seed=7 ", ChaosPlan(kill_every_s=0.5, seed=7)),
    ],
)
def test_a_spec_says_what_is_done_how_often(spec: str, plan: ChaosPlan) -> None:
    assert parse_chaos(spec) == plan


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("", "known: kill-every, join-every, partition, seed"),
        ("kil-every=2s", "did you mean kill-every?"),
        ("kill-every", "kill-every has no value"),
        ("kill-every=", "kill-every has no value"),
        ("kill-every=2", "'2' is not a duration"),
        ("kill-every=-2s", "'-2s' is not a duration"),
        ("kill-every=0s", "'0s' is not a duration"),
        ("kill-every=1e9s", "'1e9s' is not a duration"),
        ("kill-every=2s,kill-every=3s", "given twice"),
        ("kill-every=2s,,", "known: kill-every"),
        ("seed=3", "nothing to do"),
        ("kill-every=2s,seed=x", "'x' is not a number"),
    ],
)
def test_nonsense_is_a_usage_error_before_anything_starts(
    spec: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(["testnet", "--chaos", spec]) == exit_codes.USAGE
    assert shown in capsys.readouterr().err


def test_a_testnet_that_can_spare_nobody_is_refused() -> None:
    with pytest.raises(SwarmError, match="leaves a majority alone"):
        disturbed(FakeTestnet(2), "kill-every=2s", 1)


def test_nodes_are_killed_and_started_again_and_a_majority_stays() -> None:
    testnet = FakeTestnet(5)
    chaos, said, fewest = disturbed(testnet, "kill-every=2s,join-every=3s", 60)
    assert fewest == 3
    assert chaos.counts.joined == 20 and chaos.counts.killed in (21, 22)
    assert len(said) == chaos.counts.killed + chaos.counts.joined


def test_without_joins_killing_ends_at_a_majority() -> None:
    testnet = FakeTestnet(4)
    chaos, _, fewest = disturbed(testnet, "kill-every=1s", 30)
    assert (chaos.counts.killed, fewest) == (1, 3)


def test_a_minority_is_cut_off_and_goes_on_in_turn() -> None:
    testnet = FakeTestnet(5)
    chaos, said, fewest = disturbed(testnet, "partition=20s", 30)
    assert (chaos.counts.frozen, fewest) == (2, 3)
    disturbed_again = [line for line in said if line.endswith("cut off (stopped)")]
    assert len(disturbed_again) == 2
    for tenth in range(301, 420):
        chaos.step(tenth / 10)
    assert not any(node.frozen for node in testnet.nodes)


def test_partitions_and_kills_together_leave_a_majority() -> None:
    testnet = FakeTestnet(7)
    chaos, _, fewest = disturbed(testnet, "kill-every=1s,join-every=2s,partition=5s", 100)
    assert fewest >= 4
    assert min(chaos.counts.killed, chaos.counts.joined, chaos.counts.frozen) > 5


def test_the_same_seed_strikes_the_same_nodes() -> None:
    stories = [disturbed(FakeTestnet(5), f"kill-every=1s,join-every=1s,seed={s}", 40)[1]
               for s in (3, 3, 4)]  # fmt: skip
    assert stories[0] == stories[1] != stories[2]


def test_a_node_that_ends_by_itself_is_told_of_and_started_again() -> None:
    testnet = FakeTestnet(3)
    testnet.nodes[1].running, testnet.nodes[1].ended = False, True
    _, said, _ = disturbed(testnet, "join-every=1s", 2)
    assert said == ["peer-1 ended by itself: PORT_IN_USE: taken", "peer-1 started again"]


def test_different_bits_after_one_commit_end_the_testnet() -> None:
    def told(commit: str, root: str) -> dict[int, RoundSummary]:
        return {4: RoundSummary(round=4, commit_id=commit, state_root=root)}

    check_hashes([told("c", "aa"), told("c", "aa"), told("other branch", "bb")])
    with pytest.raises(SwarmError) as caught:
        check_hashes([told("c", "aa"), told("c", "bb")])
    assert caught.value.code is Code.STATE_MISMATCH


def test_the_manual_names_every_key() -> None:
    golden = Path(__file__).parent / "golden" / "help" / "testnet.txt"
    text = golden.read_text(encoding="utf-8")
    for key in ("kill-every", "join-every", "partition", "seed"):
        assert f"{key}=" in text
