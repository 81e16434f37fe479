"""The byte tokenizer as Hugging Face files, so that `AutoTokenizer` reads an exported model.

A byte-level BPE without merges is exactly one token per byte. Text gets a leading BOS, as every
document has in training.
"""

from __future__ import annotations

import json
from typing import Any

SPECIAL = {"<|bos|>": 256, "<|eos|>": 257, "<|pad|>": 258}


def tokenizer_files() -> dict[str, str]:
    """Content of `tokenizer.json` and `tokenizer_config.json` by file name."""
    bos = next(iter(SPECIAL))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    first = {"SpecialToken": {"id": bos, "type_id": 0}}
    text, pair = ({"Sequence": {"id": part, "type_id": 0}} for part in "AB")
    tokenizer = {
        "version": "1.0",
        "added_tokens": [_added(token, number) for token, number in SPECIAL.items()],
        "pre_tokenizer": {**byte_level, "use_regex": False},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, text],
            "pair": [first, text, pair],
            "special_tokens": {bos: {"id": bos, "ids": [SPECIAL[bos]], "tokens": [bos]}},
        },
        "decoder": {**byte_level, "use_regex": False},
        "model": {"type": "BPE", "vocab": _vocabulary(), "merges": []},
    }
    names = ("bos_token", "eos_token", "pad_token")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        # Without it `generate(**tokenizer(text))` fails on the token types that are added.
        "model_input_names": ["input_ids", "attention_mask"],
        **dict(zip(names, SPECIAL, strict=True)),
    }
    return {
        "tokenizer.json": json.dumps(tokenizer, indent=2) + "\n",
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
    }


def _added(token: str, number: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, **flags, "special": True}


def _vocabulary() -> dict[str, int]:
    """Ids by the printable letters that GPT-2's byte-level tokenizers write bytes as."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    vocabulary = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if chr(byte) not in vocabulary)
    vocabulary.update({chr(256 + i): byte for i, byte in enumerate(others)})
    return dict(sorted(vocabulary.items(), key=lambda item: item[1]))
