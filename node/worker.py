"""The worker process: owns the model, the device and the inner loop; serves its daemon.

    python -m node.worker --fd SOCKET --memory-fd MEMORY      # started by `worker_link`

It ends at once when the socket closes, even in the middle of a step, so that it never outlives its
daemon. It ignores SIGINT: on Ctrl-C the daemon decides how to stop. Library imports that load
torch come after the thread that watches the socket has started, as they take seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import os
import signal
import socket
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from node.devices import available_devices
from node.memory import training_bytes
from node.paths import PRIVATE_MASK
from node.worker_channel import Channel
from node.worker_protocol import Message
from swarm.errors import Code, SwarmError

if TYPE_CHECKING:
    from node.shared_buffers import SharedBuffers
    from node.worker_memory import WorkerMemory
    from swarm.data import Corpus, DataReport
    from swarm.training.probe import RoutingProbe
    from swarm.training.resuming import Resuming
    from swarm.training.rounds import LocalRounds
    from swarm.training.trainer import Trainer

PROGRESS_EVERY_S = 0.5
PROBE_ROWS = 2  # sequences whose routing is compared before and after a commit is taken over
ARRIVAL_POLL_S = 0.05  # between looks whether the round was called off
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of malloc.h; arguments are bytes
T = TypeVar("T")


class Worker:
    """Answers requests one by one; a failed request is answered by an error, the worker lives."""

    def __init__(self, channel: Channel, memory_fd: int) -> None:
        self.channel = channel
        self.memory_fd = memory_fd
        self.trainer: Trainer | None = None
        self.rounds: LocalRounds | None = None
        self.buffers: SharedBuffers | None = None
        self.resuming: Resuming | None = None
        self.memory: WorkerMemory | None = None
        self.notes: list[str] = []  # to be told with the next answer

    def run(self) -> None:
        """Serve until `stop`."""
        handlers = {"init": self._init, "train": self._train, "save": self._save}
        while (request := self.channel.next_request())["type"] != "stop":
            try:
                handlers[request["type"]](request)
            except SwarmError as error:
                self._send_error(error.code, error.message, error.hint)
            except Exception as error:
                # A defect or an exhausted machine: tell the daemon, keep the trace in the log.
                with contextlib.suppress(OSError):  # the disk may be what is exhausted
                    traceback.print_exc()
                self._send_error(
                    Code.INTERNAL, f"{type(error).__name__}: {error}", "see worker.log"
                )

    def _send_error(self, code: Code, message: str, hint: str) -> None:
        self.channel.send({"type": "error", "code": code.value, "message": message, "hint": hint})

    def _init(self, request: Message) -> None:
        import torch

        from node.shared_buffers import SharedBuffers
        from node.worker_memory import WorkerMemory
        from swarm.config import RunManifest
        from swarm.data import Sampler
        from swarm.training.resuming import Resuming
        from swarm.training.round_checkpoints import RoundCheckpoints
        from swarm.training.rounds import LocalRounds
        from swarm.training.trainer import Trainer

        torch.set_num_threads(request["threads"])
        manifest = RunManifest.from_dict(request["manifest"])
        corpus = self._corpus(request)
        training = manifest.training
        sampler = Sampler(
            corpus, training.batch_size, training.sequence_length, int(request.get("seed", 0))
        )
        device = _device(request.get("device") or "cpu")
        memory_bytes = training_bytes(device, request["limit_bytes"], request["vram_share"])
        self.trainer = Trainer(manifest, sampler, request["held"], device)
        self.rounds = LocalRounds(self.trainer, _probe(corpus, training.sequence_length))
        self.buffers = SharedBuffers.attach(self.memory_fd, self.trainer.layout)
        self.resuming = None
        if request.get("checkpoints"):
            checkpoints = RoundCheckpoints(Path(request["checkpoints"]))
            self.resuming = Resuming(self.trainer, checkpoints, time.monotonic)
            self.resuming.restore_newest()
        self.memory = WorkerMemory(self.trainer)
        self.memory.measure()
        self._fit(request)
        seconds_per_step = self.trainer.seconds_per_step(time.monotonic)
        parameters = self.trainer.model.parameters()
        self.channel.send(
            {
                "type": "ready",
                "data_report": _report(corpus),
                "parameters": sum(p.numel() for p in parameters),
                "trainable": sum(p.numel() for p in self.trainer.optimizer.parameters),
                "device": device,
                "step": self.trainer.step,
                "seconds_per_step": seconds_per_step,
                "memory_bytes": memory_bytes,
                "least_bytes": self.memory.least_bytes,
                "peak_bytes": self.memory.peak_bytes,
                "rows_at_once": self.trainer.rows_at_once,
                "warnings": self._warnings(),
            }
        )

    def _corpus(self, request: Message) -> Corpus:
        from swarm.data import prepare_corpus

        def progress(report: DataReport) -> None:
            counts = {"documents": report.documents, "bytes": report.bytes}
            self.channel.send({"type": "progress_data", **counts})

        return prepare_corpus(
            request["source"],
            Path(request["data_dir"]),
            max_bytes=request.get("max_bytes"),
            progress=progress,
        )

    def _warnings(self) -> list[str]:
        """What is to be told: of checkpoints that could not be used or kept, of the memory."""
        said, self.notes = self.notes, []
        if self.resuming is not None:
            said += self.resuming.warnings
            self.resuming.warnings = []
        return said

    def _fit(self, request: Message) -> None:
        """Keep to the memory in an `init` or `adjust` message."""
        change = _required(self.memory).fit(request["limit_bytes"], request["vram_share"])
        if change:
            self.notes.append(change)

    def _adjust(self) -> None:
        """Keep to what the daemon allows from now on, if that has changed."""
        message = self.channel.adjustment()
        if message is not None:
            import torch

            torch.set_num_threads(message["threads"])
            self._fit(message)

    def _train(self, request: Message) -> None:
        rounds, buffers = _required(self.rounds), _required(self.buffers)
        if not request["ahead"]:
            self._take(request, 0)
        result = self._steps(request)
        if self.resuming is not None and result["steps"] == request["steps"]:
            self.resuming.done()
        if not self.channel.told_to_finish() or not request["ahead"]:
            rounds.give(request["round"], buffers.theta, buffers.delta)
        extra = {"round": request["round"], "routing_divergence": rounds.divergence}
        answer = {"type": "round_done", "warnings": self._warnings(), **extra}
        self.channel.send({**answer, **result})

    def _take(self, message: Message, tokens: int) -> None:
        """Go on from a commit; `tokens` of the round that follows it are trained already."""
        rounds, buffers = _required(self.rounds), _required(self.buffers)
        trainer = rounds.trainer
        trainer.set_held(message["held"])
        late = message["type"] == "arrive"
        if self.resuming is not None and late:
            self.resuming.follow(message["commit"])
        elif self.resuming is not None:
            self.resuming.begin(message["commit"], message["previous"])
        rounds.take(
            message["round"], buffers.theta, message["versions"], message["contributors"], late
        )
        trainer.set_schedule(message["committed_tokens"], tokens, message["learning_rate"])
        trainer.set_global_load(message["load"] or None)
        trainer.set_selection_bias(message["selection_bias"] or None)

    def _arrived(self, round_number: int, tokens: int, wait_s: float) -> bool:
        """Take over the commit that the round follows, if it is there."""
        message = self.channel.arrival(round_number, wait_s)
        if message is not None:
            self._take(message, tokens)
        return message is not None

    def _steps(self, request: Message) -> Message:
        trainer = _required(self.trainer)
        round_number, steps, ahead = request["round"], request["steps"], request["ahead"]
        delay = trainer.manifest.stream.delay_steps
        started = reported = time.monotonic()
        done, tokens, loss_sum = 0, 0, 0.0
        routed: Any = 0
        while done < max(1, steps) and not (done and self.channel.told_to_finish()):
            if ahead and done >= delay:
                ahead = not self._arrived(round_number, tokens, 0)
            self._adjust()
            stats = trainer.train_step()
            done += 1
            tokens += stats.tokens
            loss_sum += stats.loss * stats.tokens
            routed = routed + stats.routed_LE
            now = time.monotonic()
            if now - reported >= PROGRESS_EVERY_S:
                reported = now
                self.channel.send(
                    {
                        "type": "progress",
                        "round": round_number,
                        "step": done,
                        "steps": steps,
                        "loss": loss_sum / tokens,
                        "tokens": tokens,
                        "tokens_per_second": tokens / (now - started),
                    }
                )
        seconds = time.monotonic() - started
        while ahead and not self.channel.told_to_finish():
            ahead = not self._arrived(round_number, tokens, ARRIVAL_POLL_S)
        return {
            "steps": done,
            "tokens": tokens,
            "loss": loss_sum / tokens,
            "routed": routed.reshape(-1).tolist(),
            "seconds": seconds,
        }

    def _save(self, request: Message) -> None:
        if self.resuming is not None:
            self.resuming.leave()
        self.channel.send({"type": "saved"})


def _required(value: T | None) -> T:
    if value is None:
        raise SwarmError(Code.INTERNAL, "the worker was asked to work before init")
    return value


def _probe(corpus: Corpus, length: int) -> RoutingProbe | None:
    """The first held-out tokens; None when there are too few."""
    import torch

    from swarm.training.probe import RoutingProbe

    rows = min(PROBE_ROWS, len(corpus.valid) // length)
    tokens = torch.from_numpy(corpus.valid[: rows * length].astype("int64")).view(rows, length)
    return RoutingProbe(tokens) if rows else None


def _device(wanted: str) -> str:
    """`auto` is the best device there is; a named one must exist."""
    available = available_devices()
    if wanted == "auto":
        return available[0]
    if wanted.split(":")[0] not in available:
        raise SwarmError(
            Code.CONFIG_INVALID,
            f"device {wanted!r} is not available",
            f"available: auto, {', '.join(available)}",
        )
    return wanted


def _report(corpus: Corpus) -> Message:
    counts = {"train_tokens": len(corpus.train), "valid_tokens": len(corpus.valid)}
    return {**dataclasses.asdict(corpus.report), **counts}


def _volunteer_for_the_oom_killer() -> None:
    """When memory runs out, losing the worker costs a restart; losing the daemon, the peer."""
    try:
        Path("/proc/self/oom_score_adj").write_text("300")
    except OSError:
        pass


def keep_freed_memory() -> None:
    """Let malloc reuse the memory that it has, instead of asking the system for it in each step.

    glibc gives large tensors back to the system when they are freed and faults them in again page
    by page in the next step; with these limits a step has next to no page faults and is 3 to 7 %
    faster (measured on CPU). It must come before torch allocates; other C libraries are left alone.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 25)
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)
        libc.mallopt(M_TOP_PAD, 1 << 28)


def main(arguments: list[str] | None = None) -> int:
    """Serve the daemon at the other end of `--fd` until it says stop or is gone."""
    parser = argparse.ArgumentParser(prog="node.worker", description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="inherited socket of the daemon")
    parser.add_argument("--memory-fd", type=int, required=True, help="inherited shared memory")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(PRIVATE_MASK)
    keep_freed_memory()
    _volunteer_for_the_oom_killer()
    Worker(Channel(socket.socket(fileno=options.fd)), options.memory_fd).run()
    return 0


if __name__ == "__main__":
    code = main()
    # All is saved that is to be saved, and taking down torch's modules takes most of a second.
    os._exit(code)
