"""The files beside an expert: its owner's key, notices, and where training keeps its state."""

from __future__ import annotations

from pathlib import Path

from swarm.errors import Code, SwarmError
from swarm.experts.artifact import CARD_FILE, load_card
from swarm.experts.cards import SignedCard
from swarm.experts.safe_files import read_bounded
from swarm.experts.withdrawals import MAX_NOTICE_BYTES, Notice, Notices, sign_notice
from swarm.files import write_atomic
from swarm.identity import Identity

NOTICE_FILE = "notice.json"


def key_path(directory: Path) -> Path:
    """The owner's key, beside the directory and not in it, as the directory is given away."""
    return directory.absolute().with_name(f"{directory.absolute().name}.key")


def training_path(directory: Path) -> Path:
    """Where training keeps the text's tokens and its state."""
    return directory.absolute().with_name(f"{directory.absolute().name}.training")


def load_notice(directory: Path, signed: SignedCard) -> Notice | None:
    """The notice in an expert's directory. Raises as `Notice.parse` and `Notices.accept`.

    A notice on an earlier version of the expert says nothing about this one.
    """
    path = directory / NOTICE_FILE
    if not path.exists():
        return None
    data = read_bounded(path, MAX_NOTICE_BYTES, Code.NOTICE_INVALID)
    notice = Notice.parse(data, str(path))
    if notice.expert != signed.id:
        return None
    Notices().accept(notice, signed.card.owner)
    return notice


def add_notice(
    directory: Path,
    signed: SignedCard,
    key: Path | None,
    *,
    withdrawn: bool,
    reason: str,
    now_ms: int,
) -> Notice:
    """Sign and write the notice that follows the present one.

    Raises `SIGNATURE_INVALID` when the key is not the owner's.
    """
    path = key or key_path(directory)
    if not path.exists():
        hint = "name the owner's key with --key"
        raise SwarmError(Code.SIGNATURE_INVALID, f"there is no key {path}", hint)
    identity = Identity.load_or_create(path)
    if identity.peer_id != signed.card.owner:
        raise SwarmError(
            Code.SIGNATURE_INVALID,
            f"{path} is the key of {identity.peer_id}, the expert belongs to {signed.card.owner}",
            "only its owner can withdraw an expert; name the key with --key",
        )
    earlier = load_notice(directory, signed)
    notice = sign_notice(
        identity,
        signed.id,
        sequence=1 if earlier is None else earlier.sequence + 1,
        withdrawn=withdrawn,
        at_ms=now_ms,
        reason=reason,
    )
    write_notice(directory, notice)
    return notice


def learn_notice(directory: Path, signed: SignedCard, heard: Notices) -> None:
    """Of the notices in an expert's directory and in `heard`, let the later one hold in both.

    So an old one that is played back to whoever fetches an expert again changes nothing. A
    directory of another expert is left alone. Raises as `load_card` and `load_notice`.
    """
    if not (directory / CARD_FILE).exists() or load_card(directory).id != signed.id:
        return
    known, newest = load_notice(directory, signed), heard.of(signed.id)
    if known is not None and (newest is None or newest.sequence < known.sequence):
        heard.accept(known, signed.card.owner)
    elif newest is not None:
        write_notice(directory, newest)


def write_notice(directory: Path, notice: Notice) -> None:
    """Put a checked notice into an expert's directory. Raises `DISK_FULL`, `DIR_NOT_WRITABLE`."""
    write_atomic(directory / NOTICE_FILE, notice.to_json())
