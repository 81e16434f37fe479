"""What a worker has from `init` on: the model, its text, and the inner loop over shared memory.

training = WorkerTraining(request, channel, memory_fd)    # of an `init`
channel.send(training.ready())
training.train(request)
training.save()
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch

from node.devices import available_devices
from node.memory import training_bytes
from node.shared_buffers import SharedBuffers
from node.worker_channel import Channel
from node.worker_memory import WorkerMemory
from node.worker_protocol import Message
from swarm.config import RunManifest
from swarm.data import Corpus, DataReport, Sampler, prepare_corpus
from swarm.errors import Code, SwarmError
from swarm.training.probe import RoutingProbe
from swarm.training.resuming import Resuming
from swarm.training.round_checkpoints import RoundCheckpoints
from swarm.training.rounds import LocalRounds
from swarm.training.trainer import Trainer

PROGRESS_EVERY_S = 0.5
PROBE_ROWS = 2  # sequences whose routing is compared before and after a commit is taken over
ARRIVAL_POLL_S = 0.05  # between looks whether the round was called off


class WorkerTraining:
    """See the module docstring; `request` has the fields of `WorkerSettings`.

    Raises what is wrong with the text, or `CONFIG_INVALID` for a device that is not there.
    """

    def __init__(self, request: Message, channel: Channel, memory_fd: int) -> None:
        torch.set_num_threads(request["threads"])
        manifest = RunManifest.from_dict(request["manifest"])
        config = manifest.training
        self._channel = channel
        self._corpus = prepare_corpus(
            request["source"], Path(request["data_dir"]), progress=self._tell_of_data
        )
        sampler = Sampler(self._corpus, config.batch_size, config.sequence_length, request["seed"])
        self._device = _device(request["device"])
        self._memory_bytes = training_bytes(
            self._device, request["limit_bytes"], request["vram_share"]
        )
        self._trainer = Trainer(manifest, sampler, request["held"], self._device)
        self._rounds = LocalRounds(self._trainer, _probe(self._corpus, config.sequence_length))
        self._buffers = SharedBuffers.attach(memory_fd, self._trainer.layout)
        self._resuming: Resuming | None = None
        if request["checkpoints"]:
            checkpoints = RoundCheckpoints(Path(request["checkpoints"]))
            self._resuming = Resuming(self._trainer, checkpoints, time.monotonic)
            self._resuming.restore_newest()
        self._notes: list[str] = []  # to be told with the next answer
        self._memory = WorkerMemory(self._trainer)
        self._memory.measure()
        self._fit(request)
        self._seconds_per_step = self._trainer.seconds_per_step(time.monotonic)

    def ready(self) -> Message:
        """The answer to `init`: the fields of `WorkerReady`."""
        counts = {
            "train_tokens": len(self._corpus.train),
            "valid_tokens": len(self._corpus.valid),
        }
        return {
            "type": "ready",
            "data_report": {**dataclasses.asdict(self._corpus.report), **counts},
            "parameters": sum(p.numel() for p in self._trainer.model.parameters()),
            "trainable": sum(p.numel() for p in self._trainer.optimizer.parameters),
            "device": self._device,
            "step": self._trainer.step,
            "seconds_per_step": self._seconds_per_step,
            "memory_bytes": self._memory_bytes,
            "least_bytes": self._memory.least_bytes,
            "peak_bytes": self._memory.peak_bytes,
            "rows_at_once": self._trainer.rows_at_once,
            "warnings": self._warnings(),
        }

    def train(self, request: Message) -> None:
        """Train a round, put what it changed into the shared memory, and answer."""
        if not request["ahead"]:
            self._take(request, 0)
        result = self._steps(request)
        if self._resuming is not None and result["steps"] == request["steps"]:
            self._resuming.done()
        if not self._channel.told_to_finish() or not request["ahead"]:
            self._rounds.give(request["round"], self._buffers.theta, self._buffers.delta)
        extra = {"round": request["round"], "routing_divergence": self._rounds.divergence}
        answer = {"type": "round_done", "warnings": self._warnings(), **extra}
        self._channel.send({**answer, **result})

    def save(self) -> None:
        """Write what the next start goes on from."""
        if self._resuming is not None:
            self._resuming.leave()

    def _tell_of_data(self, report: DataReport) -> None:
        counts = {"documents": report.documents, "bytes": report.bytes}
        self._channel.send({"type": "progress_data", **counts})

    def _warnings(self) -> list[str]:
        """What is to be told: of checkpoints that could not be used or kept, of the memory."""
        said, self._notes = self._notes, []
        if self._resuming is not None:
            said += self._resuming.warnings
            self._resuming.warnings = []
        return said

    # ---- memory and threads ---------------------------------------------------------------

    def _fit(self, request: Message) -> None:
        """Keep to the memory in an `init` or `adjust` message."""
        change = self._memory.fit(request["limit_bytes"], request["vram_share"])
        if change:
            self._notes.append(change)

    def _adjust(self) -> None:
        """Keep to what the daemon allows from now on, if that has changed."""
        message = self._channel.adjustment()
        if message is not None:
            torch.set_num_threads(message["threads"])
            self._fit(message)

    # ---- a round --------------------------------------------------------------------------

    def _take(self, message: Message, tokens: int) -> None:
        """Go on from a commit; `tokens` of the round that follows it are trained already."""
        self._trainer.set_held(message["held"])
        late = message["type"] == "arrive"
        if self._resuming is not None and late:
            self._resuming.follow(message["commit"])
        elif self._resuming is not None:
            self._resuming.begin(message["commit"], message["previous"])
        self._rounds.take(
            message["round"],
            self._buffers.theta,
            message["versions"],
            message["contributors"],
            late,
        )
        self._trainer.set_schedule(message["committed_tokens"], tokens, message["learning_rate"])
        self._trainer.set_global_load(message["load"] or None)
        self._trainer.set_selection_bias(message["selection_bias"] or None)

    def _arrived(self, round_number: int, tokens: int, wait_s: float) -> bool:
        """Take over the commit that the round follows, if it is there."""
        message = self._channel.arrival(round_number, wait_s)
        if message is not None:
            self._take(message, tokens)
        return message is not None

    def _steps(self, request: Message) -> Message:
        """Inner steps until the round is over; a round ahead ends when its commit has come."""
        round_number, ahead = request["round"], request["ahead"]
        delay = self._trainer.manifest.stream.delay_steps
        started = reported = time.monotonic()
        done, tokens, loss_sum = 0, 0, 0.0
        routed: Any = 0
        while done < max(1, request["steps"]) and not (done and self._channel.told_to_finish()):
            if ahead and done >= delay:
                ahead = not self._arrived(round_number, tokens, 0)
            self._adjust()
            stats = self._trainer.train_step()
            done += 1
            tokens += stats.tokens
            loss_sum += stats.loss * stats.tokens
            routed = routed + stats.routed_LE
            now = time.monotonic()
            if now - reported >= PROGRESS_EVERY_S:
                reported = now
                self._tell_of_steps(request, done, tokens, loss_sum / tokens, now - started)
        seconds = time.monotonic() - started
        while ahead and not self._channel.told_to_finish():
            ahead = not self._arrived(round_number, tokens, ARRIVAL_POLL_S)
        return {
            "steps": done,
            "tokens": tokens,
            "loss": loss_sum / tokens,
            "routed": routed.reshape(-1).tolist(),
            "seconds": seconds,
        }

    def _tell_of_steps(
        self, request: Message, done: int, tokens: int, loss: float, seconds: float
    ) -> None:
        self._channel.send(
            {
                "type": "progress",
                "round": request["round"],
                "step": done,
                "steps": request["steps"],
                "loss": loss,
                "tokens": tokens,
                "tokens_per_second": tokens / seconds,
            }
        )


def _probe(corpus: Corpus, length: int) -> RoutingProbe | None:
    """The first held-out tokens; None when there are too few."""
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
