"""Model cards: a JSON beside the weights says what they were made from and what images they expect.

``ur-net_phantom.json`` beside ``ur-net_phantom.pt``. A card holds at least::

    {"format": "micronet model card 1",
     "sha256": "...",                                       of the weights
     "expects": {"spacing_um": 4.5,                        or three: [z, y, x]
                 "intensity_domain": "log",
                 "dtype": "uint8",
                 "mean": {"typical": 96.2, "least": 80.1, "most": 112.0},
                 "sd": {"typical": 40.3, "least": 31.0, "most": 49.5},
                 "darkest": {...}, "brightest": {...}}}     after normalisation

and beside it whatever its maker records: data, seeds, recipe, steps, scores, versions. Weights that a person saves or
bootstraps get a smaller one, of the format "micronet weights 1", that says where they are from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from micronet.core.errors import FileError, InputError, setting
from micronet.core.ownership import Outputs
from micronet.core.provenance import sha256_of, versions
from micronet.core.volume import Volume
from micronet.io.sidecar import LOGARITHMS, stated_domain
from micronet.networks.normalize import image_statistics, log_intensity

__all__ = [
    "AS_STORED",
    "FORMAT",
    "Card",
    "Expected",
    "Look",
    "card_line",
    "card_path",
    "expected",
    "planned_weights",
    "read_card",
    "record_weights",
    "trained_spacing",
    "write_card",
]

#: What a card's ``format`` says.
FORMAT = "micronet model card 1"
#: What it says of intensities where nobody knows what they are.
AS_STORED = "as stored"
# The same of one that says nothing of images.
_WEIGHTS_FORMAT = "micronet weights 1"
_MADE_BY = "micronet weights"
_LARGEST_FILE = 1_000_000
#: Voxels this much larger or smaller than those trained on are told.
_SPACING_TOLERANCE = 0.15
#: Every so many voxels along each axis are looked at for the darkest and brightest hundredth.
_STRIDE = 3


@dataclass(frozen=True)
class Expected:
    """A number that images have: typically, and from `least` to `most`."""

    typical: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Expected:
        """Return what is to be expected after these values; the margin is twice their standard deviation.

        >>> Expected.of([9.0, 10.0, 11.0])
        Expected(typical=10.0, least=7.0, most=13.0)
        """
        margin = 2 * float(np.std(values, ddof=1)) if len(values) > 1 else 0.25 * abs(values[0])
        typical, least, most = float(np.mean(values)), min(values) - margin, max(values) + margin
        return cls(round(typical, 2), round(least, 2), round(most, 2))

    def holds(self, value: float) -> bool:
        """Whether a value lies within."""
        return self.least <= value <= self.most

    def __str__(self) -> str:
        return f"{self.least:.3g} to {self.most:.3g}"


@dataclass(frozen=True)
class Look:
    """What an image looks like: mean and standard deviation, and after normalisation its 1st and 99th percentile."""

    mean: float
    sd: float
    darkest: float
    brightest: float

    @classmethod
    def of(cls, image: NDArray[Any], statistics: tuple[float, float] | None = None) -> Look:
        """Return the look of a volume (Z, Y, X); InputError as `micronet.networks.normalize.image_statistics`.

        `statistics` are mean and standard deviation, where they are known and `image` is a sample of the volume.
        """
        mean, sd = statistics or image_statistics(image)
        dark, bright = np.percentile(image[::_STRIDE, ::_STRIDE, ::_STRIDE].astype(np.float64), (1, 99))
        return cls(mean, sd, float((dark - mean) / sd), float((bright - mean) / sd))


@dataclass(frozen=True)
class Card:
    """What a model card says of the images that the weights expect; `record` is all of it, as the file has it."""

    path: Path
    sha256: str
    spacing_um: tuple[float, float, float]
    intensity_domain: str
    dtype: str
    look: Mapping[str, Expected]
    record: Mapping[str, Any]


def card_path(weights: Path) -> Path:
    """Return where the card of a weight file lies: beside it, with the suffix .json."""
    return weights.with_suffix(".json")


def expected(looks: Sequence[Look]) -> dict[str, Expected]:
    """Return what a card says of images that look like these."""
    return {name: Expected.of([getattr(look, name) for look in looks]) for name in Look.__dataclass_fields__}


def read_card(weights: Path) -> Card | None:
    """Read the model card beside a weight file.

    Parameters
    ----------
    weights : Path
        The weight file (.pt).

    Returns
    -------
    Card or None
        None where there is none, as for the published weights, or where the JSON says that it is something else.

    Raises
    ------
    FileError
        If a card cannot be read, or lacks what every card holds.
    """
    path = card_path(weights)
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > _LARGEST_FILE:
            raise FileError(f"'{path}' has {path.stat().st_size:,} bytes: too large for a model card")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"'{path}' cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"'{path}' is not valid JSON") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return None
    reader = _Reader(path)
    expects = reader.table(content.get("expects"), "expects")
    return Card(
        path=path,
        sha256=reader.text(content, "sha256"),
        spacing_um=reader.spacing(expects, "spacing_um"),
        intensity_domain=reader.text(expects, "intensity_domain"),
        dtype=reader.text(expects, "dtype"),
        look={name: reader.expected(expects, name) for name in Look.__dataclass_fields__},
        record=content,
    )


def trained_spacing(weights: Path, sha256: str) -> float | None:
    """Return the voxel size in µm that weights were trained on; None where no card of theirs says one for all axes.

    FileError as `read_card`.
    """
    card = read_card(weights)
    lengths = set(card.spacing_um) if card is not None and card.sha256 == sha256 else set[float]()
    return lengths.pop() if len(lengths) == 1 else None


def planned_weights(weights: Path, advice: str) -> Outputs:
    """Return a weight file and its card, as what is about to be written; `advice` helps where they cannot be."""
    return Outputs(weights.parent, card_path(weights).name, _MADE_BY, [weights.name], advice=advice)


def record_weights(outputs: Outputs, about: Mapping[str, Any]) -> None:
    """Write the card of weights that were written as `planned_weights`, with what is known about them."""
    outputs.finish({"format": _WEIGHTS_FORMAT, **about, "versions": versions()})


def write_card(
    outputs: Outputs,
    *,
    spacing_um: float | Sequence[float],
    intensity_domain: str,
    dtype: str,
    look: Mapping[str, Expected],
    more: Mapping[str, Any],
) -> Path:
    """Write the model card of weights that were written as `planned_weights`; `more` is what their maker records.

    Returns
    -------
    Path
        Of the card.
    """
    expects: dict[str, Any] = {"spacing_um": spacing_um, "intensity_domain": intensity_domain, "dtype": dtype}
    expects |= {name: asdict(value) for name, value in look.items()}
    outputs.finish({"format": FORMAT, "sha256": sha256_of(outputs.paths[0]), "expects": expects, **more})
    return outputs.record_path


def card_line(weights: Path, sha256: str, path: Path, volume: Volume, *, log_taken: bool = False) -> str | None:
    """Say where a volume lies outside of what its network was trained on.

    Parameters
    ----------
    weights : Path
        The weight file; without a card beside it nothing is said.
    sha256 : str
        Of the weights at hand: a card of others is not believed.
    path : Path
        The volume's file, whose sidecar may say what its numbers are.
    volume : Volume
        As it is given to the network, not cropped.
    log_taken : bool
        Whether a logarithm was taken since it was read.

    Returns
    -------
    str or None
        One line for the person; None when all is as expected, and for a volume that no network takes.
    """
    try:
        card = read_card(weights)
    except FileError as error:
        return f"model card ignored: {error}"
    if card is None:
        return None
    if card.sha256 != sha256:
        return f"model card '{card.path}' ignored: it belongs to other weights than '{weights.name}'"
    domain = "log" if log_taken else stated_domain(path)[0]
    try:
        look = Look.of(volume.array)
    except InputError:  # constant or not finite: prediction refuses it
        return None
    if domain is None and card.intensity_domain in LOGARITHMS and _linear(card, look, volume.array):
        seen = [f"looks like linear intensities: try their logarithm {setting('intensity')}"]
    else:
        seen = [*_domain(card, domain), *_look(card, look, volume.array.dtype)]
    outside = [*_spacing(card, volume), *seen]
    return f"outside of what '{weights.name}' was trained on: {'; '.join(outside)}" if outside else None


def _spacing(card: Card, volume: Volume) -> list[str]:
    if card.record.get("network") == "taught":  # it takes any, and says itself what it makes of it
        return []
    size = f"{card.spacing_um[0]:g}" if len(set(card.spacing_um)) == 1 else _by(card.spacing_um)
    if volume.spacing_um is None:
        return [f"voxels of unknown size, not known to be {size} µm {setting('spacing_um')}"]
    pairs = zip(volume.spacing_um, card.spacing_um, strict=True)
    if all(abs(math.log(length / wanted)) <= math.log1p(_SPACING_TOLERANCE) for length, wanted in pairs):
        return []
    return [f"voxels of {_by(volume.spacing_um)} µm, not {size}: bring them there {setting('resample_um')}"]


def _by(spacing_um: Sequence[float]) -> str:
    return " x ".join(f"{length:.3g}" for length in spacing_um)


def _domain(card: Card, domain: str | None) -> list[str]:
    if (
        domain is None
        or card.intensity_domain in (domain, AS_STORED)
        or {domain, card.intensity_domain} <= set(LOGARITHMS)
    ):
        return []
    advice = f": take their logarithm {setting('intensity')}" if card.intensity_domain in LOGARITHMS else ""
    return [f"intensities are '{domain}' by the file beside it, not '{card.intensity_domain}'{advice}"]


def _linear(card: Card, look: Look, image: NDArray[Any]) -> bool:
    """Whether the logarithm of an image looks at least twice as much like what the network knows as the image does."""
    off = _off(card, look)
    if not off:
        return False
    sample = image[::_STRIDE, ::_STRIDE, ::_STRIDE]
    try:
        return _off(card, Look.of(log_intensity(sample))) < 0.5 * off
    except InputError:  # nothing is above 1
        return False


def _off(card: Card, look: Look) -> float:
    """Return how far the darkest and the brightest voxels lie from what is expected, in standard deviations."""
    return sum(
        max(card.look[name].least - value, value - card.look[name].most, 0.0)
        for name, value in (("darkest", look.darkest), ("brightest", look.brightest))
    )


def _look(card: Card, look: Look, dtype: np.dtype[Any]) -> list[str]:
    outside = []
    # Normalisation takes away mean and standard deviation: they tell only of the same kind of numbers.
    if dtype.name == card.dtype:
        for name, what, words in (("mean", "mean", ("darker", "brighter")), ("sd", "SD", ("flatter", "harsher"))):
            value, known = getattr(look, name), card.look[name]
            if not known.holds(value):
                outside.append(f"{words[value > known.most]} ({what} {value:.3g}, those have {known})")
    for name, less, more in (
        (
            "darkest",
            "a few voxels are far darker than all others",
            "the dark parts hardly stand out",
        ),
        ("brightest", "the bright parts hardly stand out", "a few voxels are far brighter than all others"),
    ):
        value, known = getattr(look, name), card.look[name]
        if not known.holds(value):
            outside.append(more if value > known.most else less)
    return outside


class _Reader:
    """Takes typed values out of JSON, or says what is wrong with which card."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def table(self, value: Any, name: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._wrong(name, value, "an object")
        return value

    def text(self, table: dict[str, Any], key: str) -> str:
        value = table.get(key)
        if not isinstance(value, str) or not value:
            raise self._wrong(key, value, "a text")
        return value

    def number(self, table: dict[str, Any], key: str, *, positive: bool = False) -> float:
        value = table.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e30:
            raise self._wrong(key, value, "a number")
        if positive and value <= 0:
            raise self._wrong(key, value, "positive")
        return float(value)

    def spacing(self, table: dict[str, Any], key: str) -> tuple[float, float, float]:
        """Take one length for all axes, or three."""
        value = table.get(key)
        lengths = value if isinstance(value, list) and len(value) == 3 else [value] * 3
        z, y, x = (self.number({key: length}, key, positive=True) for length in lengths)
        return z, y, x

    def expected(self, table: dict[str, Any], key: str) -> Expected:
        inner = self.table(table.get(key), key)
        found = Expected(*(self.number(inner, name) for name in ("typical", "least", "most")))
        if not found.least <= found.typical <= found.most:
            raise self._wrong(key, inner, "least <= typical <= most")
        return found

    def _wrong(self, name: str, value: Any, wanted: str) -> FileError:
        text = repr(value)
        found = text if len(text) <= 40 else text[:37] + "..."
        return FileError(f"'{self._path}': {name} must be {wanted}, found {found}")
