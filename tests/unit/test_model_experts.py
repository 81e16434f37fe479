"""Routing and experts: held and full forward, who gets gradients, what the statistics say."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from swarm.errors import Code, SwarmError
from swarm.model.config import ModelConfig
from swarm.model.experts import MixtureOfExperts
from swarm.model.transformer import Transformer

CONFIG = ModelConfig(
    d_model=16, num_layers=2, num_heads=2, num_kv_heads=2, d_ff=24, num_experts=6, init_std=0.3
)


def tokens(batch: int = 2, length: int = 20) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, CONFIG.vocab_size, (batch, length), generator=generator)


def loss(model: Transformer) -> torch.Tensor:
    logits_BTV = model(tokens()).logits_BTV
    return F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten())


def naive(moe: MixtureOfExperts, x_ND: torch.Tensor, allowed: list[int], top_k: int):
    """Token by token, expert by expert, with logits of -inf for all that is not allowed."""
    rows = torch.stack(list(moe.gate.weight.values()))
    logits = x_ND @ rows.t()
    mask = torch.full((len(rows),), float("-inf"))
    mask[allowed] = 0
    weights, chosen = (logits + mask).softmax(-1).topk(top_k, dim=-1)
    if moe.gate.normalize:
        weights = weights / weights.sum(-1, keepdim=True)
    out = []
    for token in range(len(x_ND)):
        total = torch.zeros(x_ND.shape[1])
        for weight, expert in zip(weights[token], chosen[token].tolist(), strict=True):
            gate, up, down = moe.experts[str(expert)].matrices
            hidden = F.silu(gate @ x_ND[token]) * (up @ x_ND[token])
            total = total + weight * (down @ hidden)
        out.append(total)
    return torch.stack(out)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("held", [[0, 1, 2, 3, 4, 5], [1, 4], [3], [0, 2, 5]])
def test_held_layer_equals_full_layer_with_other_logits_masked(held, normalize):
    config = ModelConfig(**{**vars(CONFIG), "norm_topk_prob": normalize})
    full, part = Transformer(config), Transformer(config, experts=held)
    x_BTD = torch.randn(2, 9, config.d_model, generator=torch.Generator().manual_seed(0))
    inputs = [x_BTD.clone().requires_grad_() for _ in range(2)]
    y_BTD, _ = part.model.layers[0].mlp(inputs[0])
    expected = naive(
        full.model.layers[0].mlp, inputs[1].view(-1, config.d_model), held, min(2, len(held))
    )
    torch.testing.assert_close(y_BTD.view_as(expected), expected, rtol=1e-5, atol=1e-5)
    for y in (y_BTD.square().sum(), expected.square().sum()):
        y.backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-4, atol=1e-5)
    names = [n for n, _ in part.model.layers[0].mlp.named_parameters()]
    ours = dict(part.model.layers[0].mlp.named_parameters())
    theirs = dict(full.model.layers[0].mlp.named_parameters())
    for name in names:
        if theirs[name].grad is None:
            assert ours[name].grad is None
        else:
            torch.testing.assert_close(ours[name].grad, theirs[name].grad, rtol=1e-4, atol=1e-5)


def test_held_model_has_no_other_experts_in_memory():
    model = Transformer(CONFIG, experts=[4, 1])
    assert model.held == (1, 4)
    mine = {name for name, _ in model.named_parameters()}
    everything = {name for name, _ in Transformer(CONFIG).named_parameters()}
    others = {
        n
        for n in everything - mine
        if any(f".experts.{e}." in n or n.endswith(f"gate.weight.{e}") for e in (0, 2, 3, 5))
    }
    assert mine | others == everything and mine < everything


@pytest.mark.parametrize("experts", [[], [-1], [6]])
def test_experts_that_do_not_exist_are_refused(experts):
    with pytest.raises(SwarmError) as caught:
        Transformer(CONFIG, experts=experts)
    assert caught.value.code is Code.CONFIG_INVALID


def avoid_expert(model: Transformer, expert: int) -> None:
    """Make the expert's logits the lowest for every token: its row is against all inputs."""
    with torch.no_grad():
        for layer in model.model.layers:
            rows = layer.mlp.gate.weight
            for number in rows:
                rows[number].mul_(0.01)
            # A large negative first feature of the row, and inputs that all have a positive one.
            rows[str(expert)].zero_()
            rows[str(expert)][0] = -1e3
        model.model.embed_tokens.weight[:, 0] = 5.0
        for layer in model.model.layers:
            layer.post_attention_layernorm.weight[0] = 0.0
            layer.post_feedforward_layernorm.weight[0] = 0.0


def test_expert_without_tokens_keeps_grad_none_and_the_others_get_one():
    model = Transformer(CONFIG)
    avoid_expert(model, 3)
    output = model(tokens())
    assert [int(stats.counts_E[3]) for stats in output.routing] == [0, 0]
    output.logits_BTV.square().sum().backward()
    for name, parameter in model.named_parameters():
        if ".experts.3." in name:
            assert parameter.grad is None, name
        elif ".experts." not in name:
            assert parameter.grad is not None, name
    assert any(".experts.2." in n and p.grad is not None for n, p in model.named_parameters())


def test_frozen_experts_get_no_grad_and_do_not_change_the_others_gradients():
    free, frozen = Transformer(CONFIG), Transformer(CONFIG)
    for name, parameter in frozen.named_parameters():
        held = any(f".experts.{e}." in name for e in (0, 1)) or ".experts." not in name
        parameter.requires_grad_(held)
    loss(free).backward()
    loss(frozen).backward()
    expected = dict(free.named_parameters())
    for name, parameter in frozen.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, name
        elif parameter.grad is not None:
            assert torch.equal(parameter.grad, expected[name].grad), name
    assert frozen.model.embed_tokens.weight.grad is not None


def test_all_frozen_experts_let_the_gradient_through_to_the_trunk():
    free, frozen = Transformer(CONFIG), Transformer(CONFIG)
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad_(".mlp." not in name)
    loss(free).backward()
    loss(frozen).backward()
    embedding = free.model.embed_tokens.weight.grad
    assert torch.equal(frozen.model.embed_tokens.weight.grad, embedding)


@pytest.mark.parametrize("held", [None, [1, 4]])
def test_router_statistics_describe_the_batch(held):
    model = Transformer(CONFIG, experts=held)
    stats = model(tokens()).routing
    assert len(stats) == CONFIG.num_layers
    for layer in stats:
        assert layer.counts_E.dtype == torch.int64
        assert int(layer.counts_E.sum()) == 40 * CONFIG.top_k
        assert float(layer.probs_mean_E.sum().detach()) == pytest.approx(1, abs=1e-5)
        if held:
            absent = [e for e in range(CONFIG.num_experts) if e not in held]
            assert not layer.counts_E[absent].any() and not layer.probs_mean_E[absent].any()
    model.zero_grad()
    (stats[0].probs_mean_E[1].log() + stats[0].z_loss).backward()
    rows = model.model.layers[0].mlp.gate.weight
    assert float(rows["1"].grad.abs().sum()) > 0
    assert model.lm_head.weight.grad is None


def test_z_loss_is_the_mean_squared_log_partition_of_the_router():
    model = Transformer(CONFIG)
    seen = []
    model.model.layers[0].mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    stats = model(tokens()).routing[0]
    rows = torch.stack(list(model.model.layers[0].mlp.gate.weight.values()))
    expected = (seen[0] @ rows.t()).logsumexp(-1).square().mean()
    torch.testing.assert_close(stats.z_loss, expected)


def test_bf16_autocast_stays_near_fp32_and_gives_fp32_gradients():
    model = Transformer(CONFIG)
    exact = loss(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = loss(model)
    rough.backward()
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.dtype == torch.float32, name


def test_sequence_longer_than_the_context_is_refused():
    with pytest.raises(SwarmError) as caught:
        Transformer(CONFIG)(torch.zeros(1, CONFIG.context_length + 1, dtype=torch.int64))
    assert caught.value.code is Code.USAGE


def test_two_runs_give_the_same_bits():
    results = []
    for _ in range(2):
        model = Transformer(CONFIG, seed=4)
        loss(model).backward()
        results.append(
            torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        )
    assert torch.equal(*results)


def test_a_shared_expert_adds_its_output_for_every_token_and_gets_gradients():
    config = ModelConfig(**{**vars(CONFIG), "shared_experts": 1})
    with_shared, without = Transformer(config), Transformer(CONFIG)
    x_BTD = torch.randn(2, 9, config.d_model, generator=torch.Generator().manual_seed(0))
    moe = with_shared.moe_layers[0]
    y_BTD, stats = moe(x_BTD)
    routed_BTD, routed_stats = without.moe_layers[0](x_BTD)
    torch.testing.assert_close(y_BTD, routed_BTD + moe.shared_expert(x_BTD))
    assert torch.equal(stats.counts_E, routed_stats.counts_E)
    loss(with_shared).backward()
    assert all(p.grad is not None for p in moe.shared_expert.parameters())


def test_finer_experts_can_do_what_coarse_ones_did():
    """An expert cut into halves that are always chosen together is the expert."""
    coarse = ModelConfig(**{**vars(CONFIG), "num_experts": 2, "top_k": 2, "norm_topk_prob": False})
    fine = coarse.finer(2)
    assert (fine.num_experts, fine.top_k, fine.d_ff) == (4, 4, 12)
    a, b = MixtureOfExperts(coarse, range(2)), MixtureOfExperts(fine, range(4))
    with torch.no_grad():
        for e in range(2):
            for half in range(2):
                cut = slice(12 * half, 12 * half + 12)
                gate, up, down = a.experts[str(e)].matrices
                part = b.experts[str(2 * e + half)]
                part.gate_proj.weight.copy_(gate[cut])
                part.up_proj.weight.copy_(up[cut])
                part.down_proj.weight.copy_(2 * down[:, cut])  # each half weighs half as much
    x_BTD = torch.randn(2, 9, coarse.d_model, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(a(x_BTD)[0], b(x_BTD)[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(SwarmError, match="d_ff"):
        coarse.finer(5)
