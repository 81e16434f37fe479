"""Plans whose chunks no peer would have to take."""

import pytest

from swarm.collective.validate import check_plan
from swarm.errors import Code, SwarmError

from reduce_peers import make_plan  # isort: skip

MIB = 1 << 20


def checked(codec, chunk, numel=8 * MIB):
    plan = make_plan({"f": numel}, "abc", codec=codec, chunk=chunk)
    plan.electorate.extend("abc")
    check_plan(plan, {"f": numel}, promised_attempt=1, attempt_timeout_ms=60_000)


@pytest.mark.parametrize(
    ("codec", "largest"),
    [("fp32", MIB // 4), ("bf16", MIB // 2), ("int8", MIB // 2), ("int4", MIB)],
)
def test_a_chunk_is_at_most_one_mebibyte_on_the_wire_and_a_million_values(codec, largest):
    checked(codec, largest)
    with pytest.raises(SwarmError, match="chunk") as caught:
        checked(codec, 2 * largest)
    assert caught.value.code is Code.MESSAGE_MALFORMED


@pytest.mark.parametrize("chunk", [0, 1, 1024, 4096 + 1, 2 * MIB, 2**31])
def test_impossible_chunk_sizes_are_refused(chunk):
    with pytest.raises(SwarmError, match="chunk"):
        checked("int4", chunk)


def test_a_small_part_may_be_under_a_large_chunk_size():
    """One size serves all fragments, and the largest of them decides."""
    checked("fp32", MIB, numel=30_000)
