"""Generate the Python stubs in swarm/wire from proto/swarm/v1.

    python proto/generate.py            # writes swarm/wire/*_pb2*.py
    python proto/generate.py OUT_DIR    # writes there instead (used by the freshness test)

Needs the pinned grpcio-tools: its protoc is old on purpose, since generated code must not be newer
than the protobuf runtime that a user has.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("node", "volunteer")  # files that define gRPC services


def generate(out_dir: Path) -> None:
    """Write the stubs of every .proto file into `out_dir`, importable as `swarm.wire`."""
    sources = sorted((ROOT / "proto" / "swarm" / "v1").glob("*.proto"))
    include = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as temporary:
        command = ["protoc", f"-I{ROOT / 'proto'}", f"-I{include}"]
        command += [f"--python_out={temporary}", f"--pyi_out={temporary}"]
        if protoc.main([*command, *map(str, sources)]):
            raise SystemExit("protoc failed")
        services = [str(path) for path in sources if path.stem in SERVICES]
        if protoc.main([*command, f"--grpc_python_out={temporary}", *services]):
            raise SystemExit("protoc failed")
        out_dir.mkdir(parents=True, exist_ok=True)
        for made in sorted((Path(temporary) / "swarm" / "v1").iterdir()):
            text = made.read_text(encoding="utf-8")
            text = re.sub(r"\bfrom swarm\.v1 import", "from swarm.wire import", text)
            (out_dir / made.name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "swarm" / "wire")
