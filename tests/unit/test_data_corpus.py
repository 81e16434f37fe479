"""Corpora: which documents get in, how they are split, what survives crashes and damage."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from swarm.data import DEMO_DOMAINS, ByteTokenizer, Corpus, DataReport, documents, prepare_corpus
from swarm.data import shards as shards_module
from swarm.errors import Code, SwarmError

ROOT = Path(__file__).resolve().parents[2]
BOS, EOS = ByteTokenizer.BOS, ByteTokenizer.EOS


def split_documents(tokens: np.ndarray) -> list[bytes]:
    """The documents of a shard; fails unless each is framed by BOS and EOS."""
    found, rest = [], tokens.tolist()
    while rest:
        end = rest.index(EOS)
        assert rest[0] == BOS
        found.append(bytes(rest[1:end]))
        rest = rest[end + 1 :]
    return found


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:03}.txt").write_text(f"document {number}")
    return folder


def test_tokenizer_round_trips_text_and_drops_specials() -> None:
    tokenizer = ByteTokenizer()
    text = "naïve 漢字 \n\t\0 🦔"
    ids = tokenizer.encode(text)
    assert ids.dtype == np.uint16 and len(ids) == len(text.encode())
    assert tokenizer.decode([BOS, *ids, EOS, tokenizer.PAD]) == text
    assert tokenizer.decode([0xFF, 0x41]) == "\ufffdA"
    assert tokenizer.encode("\ud800").tolist() == [ord("?")]


def test_documents_are_split_by_hash_and_framed(texts: Path, tmp_path: Path) -> None:
    corpus = prepare_corpus(str(texts), tmp_path / "out")
    train, valid = split_documents(corpus.train), split_documents(corpus.valid)
    assert len(train) + len(valid) == 60 == corpus.report.documents
    expected = [f"document {n}".encode() for n in range(60)]
    in_valid = [int.from_bytes(hashlib.sha256(d).digest(), "big") % 20 == 0 for d in expected]
    assert valid == [d for d, v in zip(expected, in_valid, strict=True) if v]
    assert train == [d for d, v in zip(expected, in_valid, strict=True) if not v]


def test_both_splits_have_text_however_few_documents(tmp_path: Path) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    (folder / "a.txt").write_text("first")
    (folder / "b.txt").write_text("second")
    pair = prepare_corpus(str(folder), tmp_path / "out2")
    found = split_documents(pair.train) + split_documents(pair.valid)
    assert sorted(found) == [b"first", b"second"]
    assert len(pair.valid) and len(pair.train)

    single = tmp_path / "single.txt"
    single.write_text("ä" * 100)
    corpus = prepare_corpus(str(single), tmp_path / "out1")
    (train,), (valid,) = split_documents(corpus.train), split_documents(corpus.valid)
    assert (train + valid).decode() == "ä" * 100
    assert 0 < len(valid) <= 12 and valid.decode()  # cut between characters


def test_shards_are_made_once_and_again_when_a_file_changes(texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = prepare_corpus(str(texts), out)
    stamp = (out / "index.json").stat().st_mtime_ns
    again = prepare_corpus(str(texts), out)
    assert (out / "index.json").stat().st_mtime_ns == stamp
    assert again.sha256 == first.sha256
    (texts / "new.txt").write_text("one more document")
    (out / "train-0.tokens.0.tmp").write_bytes(b"left by a crash")
    changed = prepare_corpus(str(texts), out)
    assert changed.sha256 != first.sha256 and changed.report.documents == 61
    assert len(list(out.glob("*.tokens*"))) == 2  # the old shards and the rubbish are gone
    assert bytes(first.train[1:9].astype(np.uint8)) == b"document"  # but still mapped here


def test_what_can_not_be_used_is_skipped_counted_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "good.txt").write_text("good")
    (folder / "bom.txt").write_bytes(b"\xef\xbb\xbfmarked")
    (folder / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    (folder / "binary.bin").write_bytes(b"\x7fELF\0\0")
    (folder / "empty.txt").write_text(" \n")
    (folder / "broken.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\n')[:20])
    lines = ['{"text": "from json"}', "", "{not json", "[1]", '{"text": 3}', '{"other": "x"}']
    (folder / "some.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / ".hidden").write_text("hidden")
    corpus = prepare_corpus(str(folder), tmp_path / "out")
    found = split_documents(corpus.train) + split_documents(corpus.valid)
    assert sorted(found) == [b"from json", b"good", b"marked"]
    report = corpus.report
    assert (report.skipped_not_utf8, report.skipped_binary, report.skipped_empty) == (1, 1, 1)
    assert (report.malformed_lines, report.unreadable_files) == (4, 1)
    assert any("latin.txt: not UTF-8 at byte 2" in example for example in report.examples)


def test_gzipped_json_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl.gz"
    rows = [{"text": f"line {n}", "more": 1} for n in range(40)]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    corpus = prepare_corpus(str(path), tmp_path / "out")
    assert corpus.report.documents == 40


def test_loops_pipes_and_the_shards_themselves_are_not_read(texts: Path) -> None:
    (texts / "loop").symlink_to(texts)
    (texts / "twice.txt").symlink_to(texts / "000.txt")
    (texts / "dangling").symlink_to(texts / "nowhere")
    os.mkfifo(texts / "pipe")  # opening it would block for ever
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(texts / "socket"))
        corpus = prepare_corpus(str(texts), texts / "shards")
        again = prepare_corpus(str(texts), texts / "shards")
    assert corpus.report.documents == again.report.documents == 60
    assert corpus.sha256 == again.sha256


def test_huge_files_and_lines_are_taken_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 50)
    folder = tmp_path / "huge"
    folder.mkdir()
    text = "".join(f"line {n}\n" for n in range(60)) + "é" * 200
    (folder / "long.txt").write_text(text)
    (folder / "noise.txt").write_bytes(b"\x80" * 175)
    long_line = json.dumps({"text": "y" * 120})
    (folder / "long.jsonl").write_text(long_line + '\n{"text": "short"}\n' + long_line)
    corpus = prepare_corpus(str(folder), tmp_path / "out")
    found = split_documents(corpus.train) + split_documents(corpus.valid)
    assert max(map(len, found)) <= 50
    assert sorted(b"".join(found)) == sorted((text + "short").encode())
    assert all(document.decode() for document in found)
    assert corpus.report.malformed_lines == 2 and corpus.report.skipped_not_utf8 >= 3


def test_a_size_limit_takes_the_same_spread_of_files_every_time(
    texts: Path, tmp_path: Path
) -> None:
    corpus = prepare_corpus(str(texts), tmp_path / "a", max_bytes=200)
    again = prepare_corpus(str(texts), tmp_path / "b", max_bytes=200)
    assert corpus.sha256 == again.sha256
    assert corpus.report.bytes == 200 and corpus.report.limited
    numbers = [int(d.split()[1]) for d in split_documents(corpus.train)[:-1]]
    assert max(numbers) > 30 > min(numbers)


def test_missing_and_empty_sources_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    (tmp_path / "binary").write_bytes(b"\0\0")
    (tmp_path / "one").write_text("x")
    cases = {
        str(tmp_path / "absent"): Code.DATA_MISSING,
        "/dev/null": Code.DATA_MISSING,
        "demo:klingon": Code.DATA_MISSING,
        str(tmp_path / "nothing"): Code.DATA_EMPTY,
        str(tmp_path / "binary"): Code.DATA_EMPTY,
        str(tmp_path / "one"): Code.DATA_EMPTY,
    }
    for source, code in cases.items():
        out = tmp_path / "out"
        with pytest.raises(SwarmError) as caught:
            prepare_corpus(source, out)
        assert caught.value.code is code, source
        assert not list(out.glob("*.tokens*")), "no shard of a failed preparation stays"
    with pytest.raises(SwarmError, match="no prepared corpus"):
        Corpus.open(tmp_path / "out")


@pytest.mark.parametrize("damage", ["flip", "shorten", "remove", "empty", "index", "index type"])
def test_a_damaged_shard_is_refused_with_the_way_out(
    texts: Path, tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "out"
    prepare_corpus(str(texts), out)
    shard = next(out.glob("train-*.tokens"))
    content = bytearray(shard.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    elif damage == "shorten":
        shard.write_bytes(content[:-2])
    elif damage == "remove":
        shard.unlink()
    elif damage == "empty":
        shard.write_bytes(b"")
    else:
        (out / "index.json").write_text("[]" if damage == "index type" else '{"half')
    for attempt in (lambda: Corpus.open(out), lambda: prepare_corpus(str(texts), out)):
        with pytest.raises(SwarmError, match=f"delete the directory {out} to rebuild") as caught:
            attempt()
        assert caught.value.code is Code.SHARD_CORRUPT


def test_a_full_disk_leaves_the_old_corpus_and_no_rubbish(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    before = prepare_corpus(str(texts), out)
    (texts / "new.txt").write_text("one more")

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(shards_module.os, "fsync", no_space)
        with pytest.raises(SwarmError) as caught:
            prepare_corpus(str(texts), out)
    assert caught.value.code is Code.DISK_FULL
    assert Corpus.open(out).sha256 == before.sha256
    assert not list(out.glob("*.tmp"))


def test_a_directory_that_can_not_be_made_is_named(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SwarmError, match="file") as caught:
        prepare_corpus(str(texts), tmp_path / "file" / "out")
    assert caught.value.code is Code.DIR_NOT_WRITABLE


def test_progress_is_reported_while_preparing(texts: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    def progress(report: DataReport) -> None:
        seen.append(report.documents)

    prepare_corpus(str(texts), tmp_path / "out", progress=progress)
    assert seen == [50]


@pytest.mark.parametrize("name", DEMO_DOMAINS)
def test_demo_domains_are_there_without_a_download_and_without_imports(
    name: str, tmp_path: Path
) -> None:
    corpus = prepare_corpus(f"demo:{name}", tmp_path / name, max_bytes=300_000)
    again = prepare_corpus(f"demo:{name}", tmp_path / "again", max_bytes=300_000)
    assert corpus.sha256 == again.sha256
    assert corpus.report.bytes == 300_000 and corpus.report.documents > 20
    text = ByteTokenizer().decode(corpus.train)
    typical = {
        "python": "    return ",
        "cpp": "#include <",
        "maths": ">>> from sympy",
        "english": " of the ",
    }
    assert text.count(typical[name]) > 50
    if name == "python":
        assert '"""' not in text or text.count('"""') < text.count("def ") / 10
        assert not any(line.startswith("# ") for line in text.splitlines())


def test_docstrings_are_read_without_importing_their_packages(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from swarm.data import prepare_corpus\n"
        "for name in ('maths', 'english', 'cpp'):\n"
        "    prepare_corpus(f'demo:{name}', Path(sys.argv[1]) / name, max_bytes=20_000)\n"
        "print({'sympy', 'networkx', 'torch'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"
