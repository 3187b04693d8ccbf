"""A sound file of a kind that micronet reads."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Seed:
    """A sound file.

    `kind` says which readers take it; `text` is how many bytes of its beginning are text; in a `packing` ("gzip",
    "zip") it is worth changing what is inside; `beside` are further files that belong to it; it holds `unpacked` bytes.
    """

    kind: str
    name: str
    content: bytes
    text: int = 0
    packing: str = ""
    beside: dict[str, bytes] = field(default_factory=dict)
    unpacked: int = 0


def seed_of(kind, path, **more):
    """Return a file that lies on the disk; `more` are fields of the seed."""
    content = path.read_bytes()
    return Seed(kind, path.name, content, unpacked=more.pop("unpacked", len(content)), **more)
