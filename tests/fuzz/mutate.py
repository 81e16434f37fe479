"""Hostile bytes from honest ones: random changes of bytes, and of the fields of protobuf messages.

rng = random.Random(seed)
data = mutate_bytes(rng, honest)
mutate_message(rng, message)             # in place; keeps it a message, but what a message!
"""

from __future__ import annotations

import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message

INTEGERS = (0, 1, 2, 3, 255, 2**31 - 1, 2**32 - 1, 2**63 - 1)
NUMBERS = (0.0, -0.0, 1.0, -1.0, 1e-300, 1e300, float("inf"), -float("inf"), float("nan"))
TEXTS = ("", "a", "expert.0", "trunk.0", "\0", "../../etc/passwd", "ü" * 50, "x" * 5000)
SIGNED = (Field.TYPE_INT64, Field.TYPE_INT32, Field.TYPE_SINT64, Field.TYPE_SINT32)
NARROW = (Field.TYPE_UINT32, Field.TYPE_INT32, Field.TYPE_SINT32, Field.TYPE_ENUM)


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flip, cut, double, insert or overwrite, one to four times."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(6):
            case 0 if out:
                out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
            case 1:
                del out[at:]
            case 2:
                del out[at : at + rng.randint(1, 64)]
            case 3:
                out[at:at] = rng.randbytes(rng.randint(1, 64))
            case 4:
                out[at:at] = out[at : at + rng.randint(1, 256)]
            case _:
                out[at : at + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7))
    return bytes(out)


def _scalar(rng: random.Random, field: Any, now: Any) -> Any:
    kind = field.type
    if kind == Field.TYPE_BOOL:
        return rng.random() < 0.5
    if kind in (Field.TYPE_DOUBLE, Field.TYPE_FLOAT):
        return rng.choice(NUMBERS)
    if kind == Field.TYPE_STRING:
        return rng.choice((*TEXTS, now or "")) if rng.random() < 0.7 else str(rng.random())
    if kind == Field.TYPE_BYTES:
        return mutate_bytes(rng, now or b"") if rng.random() < 0.7 else rng.randbytes(32)
    limit = 2**31 - 1 if kind in NARROW else 2**63 - 1
    value = min(rng.choice(INTEGERS), limit)
    return -value if kind in SIGNED and rng.random() < 0.3 else value


def mutate_message(rng: random.Random, message: Message) -> None:
    """Change one field somewhere inside, in place."""
    fields = list(message.DESCRIPTOR.fields)
    field = rng.choice(fields)
    value = getattr(message, field.name)
    repeated = hasattr(value, "append") or hasattr(value, "add")
    is_message = field.type == Field.TYPE_MESSAGE
    if repeated:
        _mutate_repeated(rng, field, value, is_message)
    elif is_message:
        if rng.random() < 0.1:
            message.ClearField(field.name)
        else:
            mutate_message(rng, value)
            value.SetInParent()
    else:
        setattr(message, field.name, _scalar(rng, field, value))


def _mutate_repeated(rng: random.Random, field: Any, values: Any, is_message: bool) -> None:
    choice = rng.randrange(5)
    if choice == 0 and len(values):
        del values[rng.randrange(len(values))]
    elif choice == 1 and len(values):
        values.append(values[rng.randrange(len(values))])
    elif choice == 2 and len(values) > 1:
        values.append(values[0])
        del values[0]
    elif is_message:
        mutate_message(rng, rng.choice(values) if len(values) else values.add())
    elif len(values):
        at = rng.randrange(len(values))
        values[at] = _scalar(rng, field, values[at])
    else:
        values.append(_scalar(rng, field, None))
