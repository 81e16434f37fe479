"""Isolated experts beside their baselines, on six domains of real text.

    python -m tests.benchmarks.assembly                    what is missing of three seeds
    python -m tests.benchmarks.assembly --seeds 1 --arms base assembly
    python -m tests.benchmarks.assembly --skip 16385 --lines choice.jsonl --arms assembly
    python -m tests.benchmarks.assembly --tables           write the tables from the lines so far

One JSON line for each arm and seed goes to `--lines`; what is there already is not done again, and
trained parts are kept in `--work`. One thread. The tables replace the part of docs/results.md
between its marks.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from tests.benchmarks.assembly.arms import arms
from tests.benchmarks.assembly.tables import write_tables
from tests.benchmarks.assembly.texts import read_texts
from tests.benchmarks.assembly.workshop import Scale, Workshop

ROOT = Path(__file__).resolve().parents[3]


def main() -> None:
    args = parse_arguments()
    if args.tables:
        write_tables(read_lines(args.lines), ROOT / "docs")
        return
    torch.set_num_threads(1)
    scale = Scale(args.base_steps, args.owner_steps)
    texts = read_texts(args.data, args.measured, args.skip)
    for seed in range(args.seeds):
        workshop = Workshop(args.work / f"seed{seed}", texts, scale, seed)
        for arm in arms():
            done = {(line["arm"], line["seed"]) for line in read_lines(args.lines)}
            if (arm.name, seed) in done or (args.arms and arm.name not in args.arms):
                continue
            started = time.process_time()
            line = arm.line(workshop)
            line["cpu_seconds"] = round(time.process_time() - started, 1)
            with args.lines.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--lines", type=Path, default=ROOT / "docs" / "assembly.jsonl")
    parser.add_argument("--work", type=Path, default=Path("/tmp/expertswarm-assembly"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="*", default=[], metavar="ARM")
    parser.add_argument("--base-steps", type=int, default=Scale.base_steps)
    parser.add_argument("--owner-steps", type=int, default=Scale.owner_steps)
    parser.add_argument("--measured", type=int, default=16_384, help="tokens of each domain")
    parser.add_argument(
        "--skip", type=int, default=0, metavar="N",
        help="held-out tokens of each domain to pass over: choices are made on other text",
    )  # fmt: skip
    parser.add_argument("--tables", action="store_true")
    return parser.parse_args()


def read_lines(path: Path) -> list[dict]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    main()
