"""The run's changes at one node: the newest that it knows, and what is in effect.

Only whoever has the run's key can make one; which node it is handed to does not matter.
"""

from __future__ import annotations

from collections.abc import Callable

from swarm.collective.changes import in_effect, read_change
from swarm.config import RunManifest
from swarm.errors import Code, SwarmError
from swarm.network.admission import Admission
from swarm.wire import collective_pb2 as pb
from swarm.wire import node_pb2


class RunChanges:
    """`newest` goes along with this node's Ready until a commit has it.

    Attributes:
        effect: the change that the newest commit put into effect; number 0 for none.
    """

    def __init__(
        self, manifest: RunManifest, admission: Admission, report: Callable[[str], None]
    ) -> None:
        self.effect = pb.RunChange()
        self._report = report
        self._manifest = manifest
        self._admission = admission
        self._newest = pb.SignedChange()
        self._number = 0

    def newest(self) -> pb.SignedChange:
        """The change with the highest number that is known here; empty for none."""
        return self._newest

    @property
    def waiting(self) -> bool:
        """True when a change is known that is not in effect."""
        return self._number > self.effect.number

    @property
    def halted(self) -> bool:
        """True when nobody is to train."""
        return self.effect.paused or self.effect.ended

    def submit(self, data: bytes) -> int:
        """Take a serialized change from the user; returns its number.

        Raises as `read_change`, or `USAGE` when a newer one is known.
        """
        signed = pb.SignedChange.FromString(data)
        number = int(read_change(signed, self._manifest).number)
        if number <= self._number:
            raise SwarmError(
                Code.USAGE,
                f"change {number} is not newer than change {self._number}",
                "somebody else has changed the run; look at `node status` and do it again",
            )
        self._newest, self._number = signed, number
        return number

    def follow(self, record: pb.RoundRecord | None) -> None:
        """Take what a commit says; what has just come into effect is reported."""
        effect = in_effect(record)
        if record is None or effect == self.effect:
            return
        if effect.number > self._number:
            self._newest, self._number = record.change, int(effect.number)
        self.effect = effect
        self._admission.revoke(effect.revoked)
        self._report(f"round {record.round + 1} begins with {describe(effect)}")

    def add_to(self, reply: node_pb2.StatusReply) -> None:
        """Fill in what a status says of it."""
        effect = self.effect
        reply.change_number = effect.number
        reply.changed.extend(settings_of(effect))
        reply.run_paused, reply.run_ended = effect.paused, effect.ended
        reply.revoked.extend(effect.revoked)
        if self._newest.payload:
            reply.newest_change = self._newest.SerializeToString()


def settings_of(change: pb.RunChange) -> list[str]:
    """`training.learning_rate = 0.001`, sorted."""
    return [f"{name} = {change.settings[name]:g}" for name in sorted(change.settings)]


def describe(change: pb.RunChange) -> str:
    """What a change says, in one line."""
    parts = settings_of(change)
    parts += ["ended"] * change.ended + ["paused"] * change.paused
    parts += [f"revoked {name}" for name in change.revoked]
    return f"change {change.number} of the run: {', '.join(parts) or 'as its manifest says'}"
