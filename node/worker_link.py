"""The daemon's side of a worker: start it, give it rounds, notice when it dies.

    async with WorkerProcess.running(buffers.fd, log_path) as worker:
        ready = await worker.init(WorkerSettings(manifest, held=[0, 1], source="texts/", ...))
        result = await worker.train(round_number=1, steps=30, base=Committed(held=[0, 1], ...))

A worker that crashes, closes its socket or falls silent is `WORKER_CRASHED` for whoever waits for
it; start a new one, it restores its checkpoint by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import IO

import numpy as np

from node.worker_messages import Committed, RoundResult, WorkerReady, WorkerSettings
from node.worker_protocol import HEADER, Message, body_bytes, decode, encode
from swarm.aio import in_time
from swarm.errors import Code, SwarmError
from swarm.files import storage_error

LOG_TAIL_BYTES = 2000
SILENCE = timedelta(minutes=5)  # longest wait for the next message of a request
STOP_GRACE = timedelta(seconds=5)
OnMessage = Callable[[Message], None]


class WorkerProcess:
    """One worker process. Requests are answered one at a time."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        log: IO[bytes],
    ) -> None:
        self._process = process
        self._reader, self._writer = streams
        self._log = log
        self._log_start = os.fstat(log.fileno()).st_size
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self._pump = asyncio.create_task(self._receive(), name=f"worker {process.pid}")
        self._busy = asyncio.Lock()
        self._request_id = 0
        self._shape_LE = (1, 1)

    @classmethod
    async def start(cls, memory_fd: int, log_path: Path | None = None) -> WorkerProcess:
        """Start a worker with the shared memory `memory_fd`; its stderr goes to `log_path`.

        Raises `DISK_FULL` or `DIR_NOT_WRITABLE` when that can not be opened.
        """
        try:
            log = open(log_path, "a+b") if log_path else tempfile.TemporaryFile()
        except OSError as error:
            raise storage_error(log_path or Path(tempfile.gettempdir()), error) from error
        ours, theirs = socket.socketpair()
        try:
            root = str(Path(__file__).resolve().parent.parent)
            paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "node.worker"),
                *("--fd", str(theirs.fileno()), "--memory-fd", str(memory_fd)),
                pass_fds=(theirs.fileno(), memory_fd),
                stdin=asyncio.subprocess.DEVNULL,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,  # the terminal's Ctrl-C is for the daemon alone
            )
            streams = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()
            log.close()
            raise
        finally:
            theirs.close()
        return cls(process, streams, log)

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls, memory_fd: int, log_path: Path | None = None
    ) -> AsyncIterator[WorkerProcess]:
        """A worker that is stopped at the end of the block."""
        worker = await cls.start(memory_fd, log_path)
        try:
            yield worker
        finally:
            await worker.stop()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """False once the process has ended."""
        return self._process.returncode is None

    async def init(self, settings: WorkerSettings, on_data: OnMessage | None = None) -> WorkerReady:
        """Prepare data, model and optimizer; `on_data` gets `progress_data` messages.

        Raises what the worker found wrong (`DATA_MISSING`, `CONFIG_INVALID`, ...), or
        `WORKER_CRASHED`.
        """
        model = settings.manifest.model
        self._shape_LE = (model.num_layers, model.num_experts)
        answer = await self._request(settings.message(), "ready", on_data)
        names = [f.name for f in dataclasses.fields(WorkerReady)]
        return WorkerReady(**{name: answer[name] for name in names})

    async def train(
        self,
        *,
        round_number: int,
        steps: int,
        base: Committed | None = None,
        on_progress: OnMessage | None = None,
        silence: timedelta = SILENCE,
    ) -> RoundResult:
        """Train one round from `theta` in the shared memory; afterwards `delta` is there.

        `base` None: the commit that the round follows is not there yet. Training goes on from where
        the last round ended, and `arrive` tells of the commit; the round does not end before.
        Raises `WORKER_CRASHED`, also when no message came for `silence`, or `NON_FINITE`.
        Cancelling ends the round after the step that is being computed.
        """
        request = {"type": "train", "round": round_number, "steps": steps, "ahead": base is None}
        request |= base.fields() if base is not None else {}
        answer = await self._request(request, "round_done", on_progress, silence)
        routed_LE = np.asarray(answer["routed"], dtype=np.int64).reshape(self._shape_LE)
        names = ("round", "steps", "tokens", "loss", "seconds", "routing_divergence", "warnings")
        return RoundResult(**{name: answer[name] for name in names}, routed_LE=routed_LE)

    def arrive(self, round_number: int, base: Committed) -> None:
        """The commit that round `round_number` follows is in the shared memory's `theta`."""
        with contextlib.suppress(ConnectionError, RuntimeError):
            message = {"type": "arrive", "round": round_number, **base.fields()}
            self._writer.write(encode(message))

    def finish_round(self) -> None:
        """Let the round that is being trained end after its current step, and be reported."""
        with contextlib.suppress(ConnectionError, RuntimeError):
            self._writer.write(encode({"type": "finish", "id": self._request_id}))

    def adjust(self, threads: int, cpus: int, limit_bytes: int, vram_share: float) -> None:
        """What it may take from now on, 0 = no limit.

        `cpus` hold at once, `threads` and memory after the step that is being computed.
        """
        message: Message = {"type": "adjust", "threads": threads, "cpus": cpus}
        message |= {"limit_bytes": limit_bytes, "vram_share": vram_share}
        with contextlib.suppress(ConnectionError, RuntimeError):
            self._writer.write(encode(message))

    async def save(self) -> None:
        """Write the checkpoint. Raises `DISK_FULL`, `DIR_NOT_WRITABLE`, `WORKER_CRASHED`."""
        await self._request({"type": "save"}, "saved")

    async def stop(self, grace: timedelta = STOP_GRACE) -> None:
        """End the process: ask, then close the socket, then kill. Never fails."""
        try:
            with contextlib.suppress(OSError, RuntimeError, asyncio.TimeoutError):
                self._writer.write(encode({"type": "stop"}))
                await in_time(self._process.wait(), grace.total_seconds())
        finally:
            self._writer.close()
            if self.alive:
                self._kill()
            await self._process.wait()
            await self._pump
            self._log.close()

    async def _request(
        self,
        request: Message,
        expected: str,
        on_message: OnMessage | None = None,
        silence: timedelta = SILENCE,
    ) -> Message:
        async with self._busy:
            self._request_id += 1
            try:
                self._writer.write(encode({**request, "id": self._request_id}))
                await self._writer.drain()
                while True:
                    waiting = self._messages.get()
                    message = await in_time(waiting, silence.total_seconds())
                    if message is None:
                        raise ConnectionResetError
                    if message.get("id") != self._request_id:
                        continue  # of a request that was cancelled
                    if message["type"] == "error":
                        raise _error(message)
                    if message["type"] == expected:
                        return message
                    if on_message is not None:
                        on_message(message)
            except ConnectionError as error:
                self._messages.put_nowait(None)  # for later requests too
                raise await self._crashed() from error
            except asyncio.TimeoutError as error:
                raise await self._crashed(
                    f"was silent for {silence.total_seconds():.0f} s"
                ) from error
            except asyncio.CancelledError:
                self.finish_round()
                raise

    async def _receive(self) -> None:
        """Queue all messages, then None when the worker is gone or makes no sense."""
        try:
            while True:
                header = await self._reader.readexactly(HEADER.size)
                body = await self._reader.readexactly(body_bytes(header))
                self._messages.put_nowait(decode(body))
        except (OSError, EOFError, SwarmError):
            self._messages.put_nowait(None)

    async def _crashed(self, reason: str = "") -> SwarmError:
        """Make sure that it is dead and say how it died."""
        with contextlib.suppress(asyncio.TimeoutError):
            await in_time(self._process.wait(), 0.0 if reason else 1.0)
        if self.alive:
            self._kill()
            code = await self._process.wait()
        else:
            code = self._process.returncode or 0
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        message = f"the worker (pid {self.pid}) {reason or f'ended with {how}'}"
        hint = "the daemon starts a new one; the last round is trained again"
        if last_line := self._last_log_line():
            hint = f"{hint}; its last words: {last_line}"
        return SwarmError(Code.WORKER_CRASHED, message, hint)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _last_log_line(self) -> str:
        try:
            descriptor = self._log.fileno()
            size = os.fstat(descriptor).st_size
            start = max(self._log_start, size - LOG_TAIL_BYTES)
            tail = os.pread(descriptor, LOG_TAIL_BYTES, start)
        except (OSError, ValueError):
            return ""
        lines = tail.decode("utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


def _error(message: Message) -> SwarmError:
    known = {code.value for code in Code}
    code = Code(message["code"]) if message["code"] in known else Code.INTERNAL
    return SwarmError(code, str(message["message"]), str(message["hint"]))
