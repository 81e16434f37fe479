"""`node export DIR`: write a model for other programs."""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from node.exit_codes import OK
from node.parser import Verbs, add_command

if TYPE_CHECKING:
    from swarm.model.transformer import Transformer

EXAMPLES = """\
  node export model --out hf                  a run's model, an assembly of experts, or a base
  node export model --format hf --out hf --json
Hugging Face transformers loads the directory: AutoModelForCausalLM.from_pretrained("hf").
A router bias, which its format lacks, becomes part of the weights, and nothing is lost: the
stream gets a little wider. With transformers installed (pip install 'expertswarm[hf]') its logits
are compared with the model's, and a difference above 0.0001 is an error."""


def register(verbs: Verbs) -> None:
    """Add `node export`."""
    parser = add_command(verbs, "export", "write a model for other programs", EXAMPLES, run)
    parser.add_argument("model", type=Path, metavar="DIR", help="directory of the model")
    parser.add_argument(
        "--format", choices=("hf",), default="hf", metavar="NAME",
        help="hf: a Hugging Face directory (default: hf)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory to write")


def run(args: argparse.Namespace) -> int:
    """Write the model, compare, and say what became of the router bias."""
    from swarm.assembly import load_model
    from swarm.assembly.exchange import TOLERANCE, export_hf
    from swarm.errors import Code, SwarmError

    model, _ = load_model(args.model)
    difference = None
    if importlib.util.find_spec("transformers") is not None:
        difference = _measured(model)
        if difference > TOLERANCE:
            raise SwarmError(
                Code.EXPORT_LOSSY,
                f"logits would differ by {difference:.2g}, more than {TOLERANCE:g}",
                "nothing was written; report it with the model's config.json",
            )
    exported = export_hf(model, args.out, args.model)
    facts = {
        "model_type": exported.model_type,
        "hidden_size": exported.width,
        "folded_bias": exported.folded_bias,
        "largest_logit_difference": difference,
    }
    if args.json:
        print(json.dumps(facts))
        return OK
    print(f"wrote a {exported.model_type} to {args.out}")
    if exported.folded_bias:
        widths = f"from {model.config.d_model} to {exported.width}"
        print(f"router bias: folded into the weights, the stream widened {widths}")
    if difference is None:
        print("not compared: transformers is not installed")
    else:
        print(f"largest difference of a logit in transformers: {difference:.1e}")
    return OK


def _measured(model: Transformer) -> float:
    """Largest difference on arbitrary tokens, of a copy that is thrown away."""
    import numpy as np

    from swarm.assembly.exchange import disagreement, export_hf

    shape = (4, min(128, model.config.context_length))
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, shape)
    with tempfile.TemporaryDirectory(prefix="export-") as temporary:
        directory = Path(temporary) / "hf"
        export_hf(model, directory)
        return disagreement(model, directory, tokens)
