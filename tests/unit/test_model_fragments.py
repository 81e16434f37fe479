"""Fragments: every parameter in exactly one, exact both ways, the same bits everywhere."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from swarm.hashing import bulk_hash
from swarm.model.config import ModelConfig
from swarm.model.fragment_io import read_fragment, write_fragment
from swarm.model.fragments import (
    FragmentLayout,
    fragment_hash,
    fragment_tensors,
    initial_fragment,
    state_root,
)
from swarm.model.initial import initial_tensor
from swarm.model.transformer import Transformer

CONFIG = ModelConfig(d_model=16, num_layers=3, num_heads=4, num_kv_heads=2, d_ff=24, num_experts=4)
LAYOUTS = [FragmentLayout.of(CONFIG, n, rows) for n in (1, 2, 3) for rows in ("trunk", "expert")]
each_layout = pytest.mark.parametrize("layout", LAYOUTS)


@each_layout
def test_every_parameter_is_in_exactly_one_fragment_and_offsets_are_dense(layout):
    names: Counter[str] = Counter()
    shapes = {}
    for fragment in layout.names:
        offset = 0
        for part in layout.tensors(fragment):
            assert part.offset == offset
            offset += part.numel
            names[part.name] += 1
            shapes[part.name] = part.shape
        assert layout.numel(fragment) == offset
    parameters = dict(Transformer(CONFIG).named_parameters())
    assert names == Counter(parameters.keys())
    assert shapes == {name: tuple(p.shape) for name, p in parameters.items()}


def test_trunk_is_cut_in_contiguous_layers_with_embedding_first_and_head_last():
    layout = FragmentLayout.of(CONFIG, 2, "expert")
    assert layout.names == ("trunk.0", "trunk.1", *(f"expert.{e}" for e in range(4)))
    assert layout.trunk_names == ("trunk.0", "trunk.1")
    first = [part.name for part in layout.tensors("trunk.0")]
    last = [part.name for part in layout.tensors("trunk.1")]
    assert first[0] == "model.embed_tokens.weight"
    assert last[-2:] == ["model.norm.weight", "lm_head.weight"]
    assert {name.split(".")[2] for name in first[1:]} == {"0", "1"}
    assert {name.split(".")[2] for name in last[:-2]} == {"2"}


@pytest.mark.parametrize(("rows", "home"), [("trunk", "trunk.0"), ("expert", "expert.3")])
def test_router_rows_lie_where_the_policy_says(rows, home):
    layout = FragmentLayout.of(CONFIG, 2, rows)
    row = "model.layers.0.mlp.gate.weight.3"
    assert [n for n in layout.names if row in {p.name for p in layout.tensors(n)}] == [home]


def test_expert_names_and_indices_are_inverse():
    assert FragmentLayout.expert_name(3) == "expert.3"
    assert FragmentLayout.expert_index("expert.3") == 3
    assert FragmentLayout.expert_index("trunk.3") is None


@pytest.mark.parametrize(("cuts", "rows"), [(0, "trunk"), (4, "trunk"), (1, "nowhere")])
def test_impossible_layout_is_refused(cuts, rows):
    with pytest.raises(ValueError):
        FragmentLayout.of(CONFIG, cuts, rows)


@each_layout
def test_fragments_carry_a_model_to_another_bit_for_bit(layout):
    source, target = Transformer(CONFIG, seed=1), Transformer(CONFIG, seed=2)
    with torch.no_grad():  # values that a careless conversion would change
        source.lm_head.weight.view(-1)[:4] = torch.tensor([-0.0, 1e-42, 3.4e38, float("nan")])
    for name in layout.names:
        values = np.full(layout.numel(name), 7.0, np.float32)
        read_fragment(source, layout, name, values)
        again = np.empty_like(values)
        write_fragment(target, layout, name, values)
        read_fragment(target, layout, name, again)
        assert fragment_hash(values) == fragment_hash(again)
    for (name, a), (_, b) in zip(source.named_parameters(), target.named_parameters(), strict=True):
        assert torch.equal(a.view(torch.int32), b.view(torch.int32)), name


def test_read_only_values_can_be_written_into_a_model():
    layout = LAYOUTS[0]
    values = initial_fragment(CONFIG, layout, "expert.1", seed=5)
    values.flags.writeable = False
    model = Transformer(CONFIG)
    write_fragment(model, layout, "expert.1", values)
    out = np.empty_like(values)
    read_fragment(model, layout, "expert.1", out)
    assert np.array_equal(out, values)


@pytest.mark.parametrize("values", [np.zeros(3, np.float32), np.zeros(1, np.float64)])
def test_wrong_buffer_is_refused_and_the_model_stays(values):
    model, layout = Transformer(CONFIG), LAYOUTS[0]
    before = model.lm_head.weight.clone()
    if values.dtype == np.float64:
        values = np.zeros(layout.numel("trunk.0"))
    for operation in (read_fragment, write_fragment):
        with pytest.raises(ValueError, match="float32"):
            operation(model, layout, "trunk.0", values)
    assert torch.equal(model.lm_head.weight, before)


def test_held_model_has_the_fragments_of_its_experts_and_no_others():
    layout = FragmentLayout.of(CONFIG, 2, "expert")
    model = Transformer(CONFIG, experts=[2], seed=3)
    values = np.empty(layout.numel("expert.2"), np.float32)
    read_fragment(model, layout, "expert.2", values)
    assert np.array_equal(values, initial_fragment(CONFIG, layout, "expert.2", seed=3))
    with pytest.raises(KeyError):
        read_fragment(model, layout, "expert.1", values)


def test_tensor_views_share_the_fragments_memory():
    layout = LAYOUTS[0]
    fragments = {name: initial_fragment(CONFIG, layout, name, 0) for name in layout.names}
    tensors = fragment_tensors(layout, fragments)
    assert tensors.keys() == dict(Transformer(CONFIG).named_parameters()).keys()
    tensors["lm_head.weight"][:] = 9.0
    assert fragments["trunk.0"][-1] == 9.0


def test_initial_bits_are_the_same_on_every_machine():
    layout = FragmentLayout.of(ModelConfig(), 2, "trunk")
    hashes = {
        name: fragment_hash(initial_fragment(ModelConfig(), layout, name, seed=0))
        for name in layout.names
    }
    assert (
        hashes["expert.3"].hex()
        == "871e9d65d6934bb37b2d30935aab122b3806d36b988a77f57afd51c179d372a4"
    )
    assert (
        state_root(hashes).hex()
        == "bc1dc04eb071d086cbe757b0cfbc06bd8593661964f6ad5c8695dcb134085650"
    )


def test_initial_values_do_not_depend_on_the_order_or_the_layout():
    def tensors(layout: FragmentLayout, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        made = {name: initial_fragment(CONFIG, layout, name, 11) for name in names}
        return fragment_tensors(layout, made)

    one = tensors(LAYOUTS[0], LAYOUTS[0].names)
    other = tensors(LAYOUTS[-1], LAYOUTS[-1].names[::-1])
    model = dict(Transformer(CONFIG, seed=11).named_parameters())
    for name, values in one.items():
        assert np.array_equal(values, other[name])
        assert np.array_equal(values, model[name].detach().numpy())


def test_initial_values_have_the_promised_distribution_and_differ_by_seed_and_tensor():
    config = ModelConfig(init_std=0.05)
    name = "model.layers.0.self_attn.q_proj.weight"
    values = initial_tensor(config, name, (400, 500), seed=0)
    assert values.dtype == np.float32
    assert abs(values.mean()) < 5e-4
    assert values.std() == pytest.approx(0.05, rel=0.01)
    assert np.abs(values).max() <= 0.05 * 3**0.5
    for other in (
        initial_tensor(config, name, (400, 500), seed=1),
        initial_tensor(config, name.replace("q", "k"), (400, 500), seed=0),
    ):
        assert abs(np.corrcoef(values.ravel(), other.ravel())[0, 1]) < 0.02
    assert np.all(initial_tensor(config, "model.norm.weight", (8,), seed=0) == 1)


def test_fragment_hash_is_over_little_endian_bytes_whatever_the_memory_layout():
    values = np.arange(6, dtype=np.float32)
    expected = bulk_hash(values.astype("<f4").tobytes())
    assert fragment_hash(values) == expected
    assert fragment_hash(values.astype(">f4")) == expected
    assert fragment_hash(np.repeat(values, 2)[::2]) == expected


def test_state_root_depends_on_names_and_hashes_but_not_on_order():
    one, two = bytes(32), bytes([1]) * 32
    root = state_root({"a": one, "b": two})
    assert root == state_root({"b": two, "a": one})
    assert len({root, state_root({"a": two, "b": one}), state_root({"a": one})}) == 3


def test_shared_experts_belong_to_the_trunk() -> None:
    config = replace(CONFIG, shared_experts=2)
    layout = FragmentLayout.of(config, 2)
    names = {part.name for name in layout.trunk_names for part in layout.tensors(name)}
    assert "model.layers.0.mlp.shared_expert.gate_proj.weight" in names
    model = Transformer(config, seed=4)
    assert model.moe_layers[0].shared_expert.gate_proj.weight.shape == (2 * config.d_ff, 16)
    copy = Transformer(config, seed=None)
    for name in layout.names:
        write_fragment(copy, layout, name, initial_fragment(config, layout, name, 4))
    same = zip(model.parameters(), copy.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
