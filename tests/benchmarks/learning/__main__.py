"""How well a swarm learns, against central training on the same text with equal tokens.

    python -m tests.benchmarks.learning run --data ../shared/data      # hours on one core
    python -m tests.benchmarks.learning run --arms A E --seeds 0
    python -m tests.benchmarks.learning memory --data ../shared/data
    python -m tests.benchmarks.learning processes --arms F1 --data ../shared/data
    python -m tests.benchmarks.learning report                         # docs/results.md, the plot

`run` adds one line of JSON to the results for each arm and seed, and skips those that are there,
so it can be stopped at any time. A line has

    arm, seed, tokens        tokens of all peers together
    bpb, mean_bpb            bits per byte by domain on held-out text; of solo models their mean
    own_bpb                  solo and held-only: each domain by what its own peer has
    mixture_bpb              the same parts mixed by how well they predict; no label of the domain
    calibrated_bpb           held-only: the whole model, after its routers saw `calibration_tokens`
                             of all domains
    bytes_sent_per_peer, bytes_received_per_peer, peak_train_bytes_per_peer
    seconds                  processor time of training, of all peers together
    curve                    [tokens, mean_bpb] on the way
    routing                  entropy and largest load of the routers on the held-out text

`memory` measures a training step of some arms, also with a larger model; `processes` trains an arm
with real nodes and in one process, and compares the bits. Their lines have a `part`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from swarm.data import Corpus
from tests.benchmarks.learning import report
from tests.benchmarks.learning.measure import run_arm
from tests.benchmarks.learning.memory import measure_memory
from tests.benchmarks.learning.processes import compare
from tests.benchmarks.learning.results import append_line, read_lines
from tests.benchmarks.learning.settings import Experiment
from tests.benchmarks.learning.texts import load_domains

HERE = Path(__file__).parent


def main() -> None:
    """Run what is asked for."""
    args = _arguments()
    experiment = Experiment.load(args.config)
    torch.set_num_threads(1)
    if args.what == "report":
        report.write(experiment, read_lines(args.results), args.docs)
    elif args.what == "processes":
        for arm in experiment.arms:
            if arm.name in args.arms:
                append_line(args.results, compare(experiment, arm, args.rounds, args.data))
    else:
        with tempfile.TemporaryDirectory(prefix="learning-") as cache:
            corpora = load_domains(args.data, experiment.domains, Path(cache))
            if args.what == "run":
                _run(experiment, args, corpora)
                return
            for line in measure_memory(experiment, next(iter(corpora.values()))):
                append_line(args.results, line)


def _run(experiment: Experiment, args: argparse.Namespace, corpora: Mapping[str, Corpus]) -> None:
    # Seed by seed, so that what is there after an interruption can be compared.
    for seed in args.seeds or experiment.seeds:
        for arm in experiment.arms:
            lines = [line for line in read_lines(args.results) if "part" not in line]
            done = {(line["arm"], line["seed"]) for line in lines}
            if (arm.name, seed) in done or (args.arms and arm.name not in args.arms):
                continue
            line = run_arm(experiment, arm, seed, corpora)
            append_line(args.results, line)
            print(f"{arm.name}, seed {seed}: {line['mean_bpb']:.3f} bits per byte", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("run", "memory", "processes", "report"))
    parser.add_argument("--config", type=Path, default=HERE / "experiment.toml")
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--data", type=Path, help="folder of <domain>.train.jsonl, .valid.jsonl")
    parser.add_argument("--arms", nargs="+", help="only these (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: those of the config")
    parser.add_argument("--rounds", type=int, default=6, help="of processes (default: %(default)s)")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    args = parser.parse_args()
    if args.what != "report" and args.data is None:
        parser.error(f"{args.what} needs --data")
    if args.what == "processes" and not args.arms:
        parser.error("processes needs --arms")
    return args


if __name__ == "__main__":
    main()
