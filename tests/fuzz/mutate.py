"""Changes to the bytes of a file that readers are likely to trip over."""

import copy
import json
import re

import numpy as np

# Numbers at which sizes, counts and offsets overflow, wrap or stop making sense.
EDGES = (
    *(0, 1, 2, 3, 127, 128, 255, 256, 32767, 32768, 65535, 65536),
    *(10**6, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1),
)
WORDS = (
    b"-1", b"0", b"1", b"999999999999", b"1e308", b"-1e308", b"1e-320", b"nan", b"inf", b"-inf", b"none", b"",
    b"9" * 5000, b"[" * 3000, b"(" * 3000, b"A" * 70000, b"1 " * 17, b"\x00", b"\n", b"\r\n", b"\x1b[2J", b"\xff\xfe",
    "µm".encode(), "٣".encode(), b"../../../etc/passwd", b"/etc/passwd", b"/dev/zero", b"%s%n%d", b"LIST", b'"', b"'",
    b"\\", b":=", b": ", b"#", b"(1,0,0)", b"()", b"list", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"true", b"{}",
)  # fmt: skip
JSON_VALUES = (
    *(None, True, False, 0, -1, 1, 0.5, 1e308, 10**400, 2**63, float("nan"), float("inf"), "", "x", "Z", "ZYX", ">u2"),
    *("O", "\x1b[2J", "../../../etc/passwd", "A" * 5000, "\ud800", [], {}, [[]], [1, 2, 3], [0, 0, 0], [1, "a", None]),
    *([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [1] * 1000, {"a": {"b": []}}),
)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE]-?\d+)?")
_WORD = re.compile(rb"[A-Za-z_]+|[^\sA-Za-z_]+")


def mutate(content: bytes, rng: np.random.Generator, *, text: int = 0) -> bytes:
    """Return `content` with one to four changes; those that are made to text keep to the first `text` bytes."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        if text and rng.random() < 0.7:
            head = bytes(changed[:text])
            new = _TEXT[int(rng.integers(len(_TEXT)))](head, rng)
            changed[:text] = new
            text = max(1, text + len(new) - len(head))
        else:
            changed = _BINARY[int(rng.integers(len(_BINARY)))](changed, rng)
        changed = changed or bytearray(b"x")
    return bytes(changed)


def mutate_json(content: bytes, rng: np.random.Generator) -> bytes:
    """Return JSON in which one to four values have become something else that JSON can hold."""
    tree = [json.loads(content)]
    for _ in range(int(rng.integers(1, 5))):
        holder: dict | list = tree
        while True:
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            key = keys[int(rng.integers(len(keys)))]
            if not (isinstance(holder[key], dict | list) and holder[key]) or rng.random() < 0.1:
                break
            holder = holder[key]
        holder[key] = copy.deepcopy(JSON_VALUES[int(rng.integers(len(JSON_VALUES)))])
    return json.dumps(tree[0]).encode()


def _at(content, rng):
    """Return a place, more often near the beginning, where headers are."""
    reach = len(content) if rng.random() < 0.5 else min(len(content), 600)
    return int(rng.integers(reach)) if reach else 0


def _flip(content, rng):
    for _ in range(int(rng.integers(1, 9))):
        content[_at(content, rng)] ^= 1 << int(rng.integers(8))
    return content


def _set(content, rng):
    content[_at(content, rng)] = int(rng.integers(256))
    return content


def _edge(content, rng):
    size = int(rng.choice([1, 2, 4, 8]))
    value = EDGES[int(rng.integers(len(EDGES)))]
    value = -value if rng.random() < 0.3 else value
    packed = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little" if rng.random() < 0.6 else "big")
    at = _at(content, rng)
    at -= at % size if rng.random() < 0.7 else 0
    content[at : at + size] = packed
    return content


def _delete(content, rng):
    at = _at(content, rng)
    del content[at : at + int(rng.integers(1, 40))]
    return content


def _insert(content, rng):
    at = _at(content, rng)
    content[at:at] = rng.bytes(int(rng.integers(1, 12)))
    return content


def _repeat(content, rng):
    at, size = _at(content, rng), int(rng.integers(1, 400))
    content[at:at] = content[at : at + size] * int(rng.integers(1, 6))
    return content


def _cut(content, rng):
    return content[: int(rng.integers(len(content)))]


def _extend(content, rng):
    return content + rng.bytes(int(rng.integers(1, 5000)))


def _swap(content, rng):
    one, other, size = _at(content, rng), _at(content, rng), int(rng.integers(1, 60))
    first, second = bytes(content[one : one + size]), bytes(content[other : other + size])
    content[one : one + size] = second
    content[other : other + size] = first
    return content


_BINARY = (_flip, _set, _edge, _edge, _edge, _delete, _insert, _repeat, _cut, _extend, _swap)


def _replace_one(pattern, content, new, rng):
    found = list(pattern.finditer(content))
    if not found:
        return content + new
    chosen = found[int(rng.integers(len(found)))]
    return content[: chosen.start()] + new + content[chosen.end() :]


def _number(content, rng):
    value = EDGES[int(rng.integers(len(EDGES)))]
    return _replace_one(_NUMBER, content, str(-value if rng.random() < 0.2 else value).encode(), rng)


def _word(content, rng):
    return _replace_one(_WORD, content, WORDS[int(rng.integers(len(WORDS)))], rng)


def _other_word(content, rng):
    found = _WORD.findall(content) or [b"x"]
    return _replace_one(_WORD, content, found[int(rng.integers(len(found)))], rng)


def _lines(content, rng):
    lines = content.split(b"\n")
    at, what = int(rng.integers(len(lines))), int(rng.integers(4))
    if what == 0:
        del lines[at]
    elif what == 1:
        lines.insert(at, lines[int(rng.integers(len(lines)))])
    elif what == 2:
        lines[at] += WORDS[int(rng.integers(len(WORDS)))]
    else:
        other = int(rng.integers(len(lines)))
        lines[at], lines[other] = lines[other], lines[at]
    return b"\n".join(lines)


_TEXT = (_number, _number, _word, _word, _other_word, _lines, _lines)
