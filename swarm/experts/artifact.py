"""The expert artifact: a directory with a signed card and the expert's tensors, and its checks.

    save_expert(directory, signed_card, tensors.pack())
    expert = load_expert(directory, base)        # checked: see `check_expert`
    expert.tensors.matrices(base, layer=0)       # gate [F, D], up [F, D], down [D, F]

`expert.safetensors` holds fp32, for each layer: the router row `layers.0.row` [D], its bias
`layers.0.bias` [], and each of the three matrices whole (`layers.0.gate_proj.weight`) or as the
factors `.b` [out, R] and `.a` [R, in] of its difference from the base (FlexMoRE, arXiv 2602.08818).
Nothing else may be in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from swarm.errors import Code, SwarmError
from swarm.experts.base import Base
from swarm.experts.cards import MAX_CARD_BYTES, SignedCard
from swarm.experts.safe_files import MAX_HEADER_BYTES, parse_tensors, read_bounded
from swarm.files import write_atomic
from swarm.hashing import bulk_hash

CARD_FILE = "card.json"
WEIGHTS_FILE = "expert.safetensors"
MATRICES = ("gate_proj", "up_proj", "down_proj")
F32 = npt.NDArray[np.float32]

# An expert that training can reach stays well inside these; one made to take over an assembly
# (every token routed to it, or its output drowning the others) does not.
MAX_GROWTH = 30.0  # root mean square of a matrix, in those of the base's
MAX_ROW = 1000.0
MIN_BIAS = -1000.0
_OWN = re.compile(r"layers\.(\d{1,6})\.(row|bias|(?:gate|up|down)_proj\.(?:weight|a|b))")


@dataclass(frozen=True)
class ExpertTensors:
    """An expert's own numbers: `arrays` by the names in the file, `origins` as on the card."""

    arrays: Mapping[str, F32]
    origins: tuple[int, ...]

    def row(self, layer: int) -> F32:
        """Router row [D]."""
        return self.arrays[f"layers.{layer}.row"]

    def bias(self, layer: int) -> float:
        """Router bias, not positive."""
        return float(self.arrays[f"layers.{layer}.bias"])

    def matrices(self, base: Base, layer: int) -> tuple[F32, F32, F32]:
        """Gate [F, D], up [F, D], down [D, F], rebuilt from factors where they are stored so."""
        gate, up, down = (self._matrix(base, layer, kind) for kind in MATRICES)
        return gate, up, down

    def pack(self) -> bytes:
        """Content of `expert.safetensors`; equal tensors, equal bytes."""
        arrays = {n: np.array(values, np.float32, order="C") for n, values in self.arrays.items()}
        packed: bytes = safetensors.numpy.save(arrays)
        return packed

    @property
    def ranks(self) -> tuple[int, ...]:
        """Largest rank in each layer; empty when the matrices are stored whole."""
        found = {
            name: values.shape[0] for name, values in self.arrays.items() if name.endswith(".a")
        }
        by_layer = (
            max((found.get(f"layers.{layer}.{kind}.a", 0) for kind in MATRICES), default=0)
            for layer in range(len(self.origins))
        )
        return tuple(by_layer) if found else ()

    def _matrix(self, base: Base, layer: int, kind: str) -> F32:
        prefix = f"layers.{layer}.{kind}"
        if f"{prefix}.weight" in self.arrays:
            return self.arrays[f"{prefix}.weight"]
        difference = self.arrays[f"{prefix}.b"] @ self.arrays[f"{prefix}.a"]
        return origin_matrix(base, layer, self.origins[layer], kind) + difference


@dataclass(frozen=True)
class Expert:
    """One expert to put into an assembly. `id` is that of its card."""

    id: str
    domain: str
    tensors: ExpertTensors
    owner: str = ""


def origin_matrix(base: Base, layer: int, origin: int, kind: str) -> F32:
    """The matrix of the base's expert `origin` that a difference is taken from."""
    expert = base.model.moe_layers[layer].experts[str(origin)]
    values: F32 = getattr(expert, kind).weight.detach().cpu().numpy()
    return values


def save_expert(directory: Path, signed: SignedCard, weights: bytes) -> None:
    """Write both files, the card last. Raises `DISK_FULL` or `DIR_NOT_WRITABLE`."""
    write_atomic(directory / WEIGHTS_FILE, weights)
    write_atomic(directory / CARD_FILE, signed.to_json())


def load_card(directory: Path) -> SignedCard:
    """The card of an expert directory, signature checked. Raises as `SignedCard.parse`."""
    path = directory / CARD_FILE
    if not path.exists():
        hint = "name a directory of node expert train or node expert fetch"
        raise SwarmError(Code.CARD_INVALID, f"{directory} has no {CARD_FILE}", hint)
    return SignedCard.parse(read_bounded(path, MAX_CARD_BYTES, Code.CARD_INVALID), str(path))


def load_expert(directory: Path, base: Base) -> Expert:
    """Read and check an expert directory. Raises as `load_card` and `check_expert`."""
    signed = load_card(directory)
    path = directory / WEIGHTS_FILE
    try:
        if path.stat().st_size != signed.card.weights_bytes:  # before it is read
            raise corrupt(f"{path} has {path.stat().st_size} bytes, its card says otherwise")
        data = path.read_bytes()
    except OSError as error:
        raise corrupt(f"{path}: {error.strerror}") from error
    return check_expert(signed, data, base)


def check_expert(signed: SignedCard, data: bytes, base: Base) -> Expert:
    """An expert from its signed card and the bytes of its tensors, or the reason to refuse it.

    Raises `BASE_MISMATCH` (made beside another base), `ARTIFACT_OVERSIZED` and `EXPERT_CORRUPT`
    (not what the card names, or malformed), `EXPERT_FOREIGN` (has a tensor that is not its own),
    `NON_FINITE`, or `EXPERT_ABSURD` (values that no training gives).
    """
    check_card(signed, base)
    card = signed.card
    arrays = parse_tensors(data, f"the expert {card.domain}")
    if bulk_hash(data).hex() != card.weights:
        raise corrupt(f"the tensors of {card.domain} are not those that its card names")
    tensors = ExpertTensors(arrays, card.origins)
    check_tensors(tensors, base)
    if tensors.ranks != card.ranks:
        raise corrupt(f"the ranks of {card.domain} are {tensors.ranks}, its card says {card.ranks}")
    return Expert(signed.id, card.domain, tensors, card.owner)


def check_card(signed: SignedCard, base: Base) -> None:
    """What a card alone tells. Raises `BASE_MISMATCH`, `ARTIFACT_OVERSIZED`."""
    card, config = signed.card, base.model.config
    if card.base != base.id:
        raise SwarmError(
            Code.BASE_MISMATCH,
            f"the expert {card.domain} belongs to the base {card.base[:16]}, not {base.id[:16]}",
            "assemble it with the base that it was trained beside",
        )
    whole = 4 * config.num_layers * (3 * config.d_ff * config.d_model + config.d_model + 1)
    if card.weights_bytes > whole + MAX_HEADER_BYTES:
        raise SwarmError(
            Code.ARTIFACT_OVERSIZED,
            f"the expert {card.domain} has {card.weights_bytes} bytes, a whole one {whole}",
            "do not use it; ask its owner",
        )


def check_tensors(tensors: ExpertTensors, base: Base) -> None:
    """Names, shapes and values; raises as `check_expert`."""
    layers = base.model.config.num_layers
    if len(tensors.origins) != layers or any(o >= base.size for o in tensors.origins):
        raise corrupt(f"origins {tensors.origins} do not fit the base")
    for name, values in tensors.arrays.items():
        match = _OWN.fullmatch(name)
        if match is None or int(match[1]) >= layers or name != f"layers.{int(match[1])}.{match[2]}":
            raise SwarmError(
                Code.EXPERT_FOREIGN,
                f"it has the tensor {name[:200]!r}, which is not an expert's own",
                "an expert may hold its matrices, router rows and biases, nothing of the base",
            )
        if not np.isfinite(values).all():
            raise SwarmError(Code.NON_FINITE, f"{name} has values that are not finite")
    for layer in range(layers):
        _check_layer(tensors, base, layer)


def _check_layer(tensors: ExpertTensors, base: Base, layer: int) -> None:
    prefix, config = f"layers.{layer}", base.model.config
    _require_shape(tensors, f"{prefix}.row", (config.d_model,))
    _require_shape(tensors, f"{prefix}.bias", ())
    for kind in MATRICES:
        out, width = origin_matrix(base, layer, tensors.origins[layer], kind).shape
        parts = ("weight", "a", "b")
        stored = {part for part in parts if f"{prefix}.{kind}.{part}" in tensors.arrays}
        if stored == {"weight"}:
            _require_shape(tensors, f"{prefix}.{kind}.weight", (out, width))
        elif stored == {"a", "b"}:
            rank = (tensors.arrays[f"{prefix}.{kind}.a"].shape or (0,))[0]
            _require_shape(tensors, f"{prefix}.{kind}.a", (rank, width))
            _require_shape(tensors, f"{prefix}.{kind}.b", (out, rank))
        else:
            raise corrupt(f"{prefix}.{kind} is neither one matrix nor two factors")
    _require_sane(tensors, base, layer)


def _require_shape(tensors: ExpertTensors, name: str, shape: tuple[int, ...]) -> None:
    if name not in tensors.arrays:
        raise corrupt(f"the tensor {name} is missing")
    if tensors.arrays[name].shape != shape:
        raise corrupt(f"{name} has the shape {tensors.arrays[name].shape}, not {shape}")


def _require_sane(tensors: ExpertTensors, base: Base, layer: int) -> None:
    if not MIN_BIAS <= tensors.bias(layer) <= 0:
        raise _absurd(f"the router bias of layer {layer} is {tensors.bias(layer):g}")
    if (largest := float(np.abs(tensors.row(layer)).max())) > MAX_ROW:
        raise _absurd(f"the router row of layer {layer} has a value of {largest:g}")
    with np.errstate(over="ignore", invalid="ignore"):  # factors may overflow; seen below
        matrices = tensors.matrices(base, layer)
    for kind, values in zip(MATRICES, matrices, strict=True):
        allowed = MAX_GROWTH * _rms(origin_matrix(base, layer, tensors.origins[layer], kind))
        if not _rms(values) <= allowed:  # also for NaN
            raise _absurd(f"{kind} of layer {layer} is {_rms(values):g} in size, over {allowed:g}")


def _rms(values: F32) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def corrupt(problem: str) -> SwarmError:
    """`EXPERT_CORRUPT`, saying what to do."""
    return SwarmError(Code.EXPERT_CORRUPT, problem, "get the expert again from its owner")


def _absurd(problem: str) -> SwarmError:
    return SwarmError(Code.EXPERT_ABSURD, problem, "no training gives such values; do not use it")
