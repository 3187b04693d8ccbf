"""Phantoms on disk: images, annotations, and the data-set file that training takes as it is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from micronet.core.errors import FileError, InputError, setting
from micronet.core.names import name_key, write_name
from micronet.core.outcome import Outcome
from micronet.core.ownership import REPLACE, Outputs, check_outputs
from micronet.core.provenance import sha256_of
from micronet.core.version import __version__
from micronet.core.volume import Volume, upright
from micronet.data.phantom import Anatomy, Optics, mask_of_seed, optics_of_seed, render_oct, speckle_of_seed
from micronet.data.phantom.sizes import SPACING_UM
from micronet.data.phantom_kinds import KINDS, Kind
from micronet.io import (
    Segment,
    files_of,
    files_read_with,
    read_annotation,
    read_volume,
    volume_stem,
    write_segmentation,
    write_volume,
)
from micronet.io.hdf5 import require_h5py, write_pairs

__all__ = ["MADE_BY", "PhantomSet", "Subject", "make_set", "over_annotations", "procedural"]

#: What the record of a phantom says that made it.
MADE_BY = "make_phantoms.py"
#: How far the edges of a voxel may differ in length: walls and speckle are as thick along each axis.
_CUBIC = 0.02
_PUBLISHED_NAME = re.compile(r"annotation_(.+)_iso_full")


@dataclass(frozen=True)
class Subject:
    """One phantom.

    Parameters
    ----------
    name : str
        As in ``E5D_<name>.nrrd``, or in what `micronet.data.phantom_kinds` has in its place.
    split : {"train", "validation", "test"}
    seed : int
        Of anatomy, optics and speckle; over an annotation of the latter two.
    time_point : int
        Of the sequence of a beating heart.
    annotation : Path, optional
        Mask that takes the place of procedural lumens.
    """

    name: str
    split: str
    seed: int
    time_point: int = 0
    annotation: Path | None = None


@dataclass(frozen=True)
class PhantomSet:
    """How a set of phantoms is made.

    Parameters
    ----------
    output : Path
        Gets ``phantoms.toml`` and the folders of the kind: ``struct_iso/`` and ``annotations/`` of OCT.
    kind : str
        A key of `micronet.data.phantom_kinds.KINDS`. What is said below of optics, crop, time points and annotations
        is for OCT.
    shape : tuple of int
        Voxels along (Z, Y, X) of procedural phantoms; pixels along (Y, X) of shapes.
    y_crop : int, optional
        Depth above which procedural lumens lie, and below which nothing is trained on.
    vary : bool
        Draw the optics anew for every seed.
    preset : str
        The optics, or what they are drawn around: a key of `micronet.data.phantom.PRESETS`.
    time_points : int
        Of one beat of every procedural heart.
    segment, spacing_um : optional
        Of annotations that do not say, as `micronet.io.read_annotation` takes them.
    hdf5 : bool
        Write ``phantoms.h5`` too; of other kinds a file for each.
    """

    output: Path = Path("phantoms")
    kind: str = "oct"
    shape: tuple[int, ...] = (217, 260, 218)
    y_crop: int | None = 160
    vary: bool = False
    preset: str = "oct"
    time_points: int = 1
    segment: str | None = None
    spacing_um: tuple[float, float, float] | None = None
    hdf5: bool = False

    @property
    def files(self) -> Kind:
        """What there is to know of this kind."""
        return KINDS[self.kind]

    @property
    def dataset(self) -> Path:
        """The data-set file."""
        return self.output / "phantoms.toml"

    @property
    def hdf5_file(self) -> Path | None:
        """The file that holds all pairs, where one is asked for."""
        return self.dataset.with_suffix(".h5") if self.hdf5 and self.files.hdf5 is None else None

    def image(self, name: str) -> Path:
        """Return where the image of this name lies, or will."""
        return self.output / self.files.image.format(name=name)

    def annotation(self, name: str) -> Path:
        """Return where its annotation lies, or will."""
        return self.output / self.files.annotation.format(name=name)

    def record(self, name: str) -> Path:
        """Return where the record of how it was made lies, or will."""
        return self.image(name).with_suffix(".json")


def procedural(
    count: int,
    first_seed: int,
    *,
    kind: str = "oct",
    time_points: int = 1,
    validation: int | None = None,
    test: int | None = None,
) -> list[Subject]:
    """Return procedural phantoms, a seed each, every time point of one in the same split.

    The last `test` are for test, those before for validation; by default one each, where there are three and two.
    InputError when none is left to train on.
    """
    found = []
    for seed, split in enumerate(_splits(count, validation, test), first_seed):
        name = f"{KINDS[kind].stem}_{seed:04d}"
        names = [name] if time_points == 1 else [f"{name}_T{time + 1:02d}" for time in range(time_points)]
        found += [Subject(name, split, seed, time) for time, name in enumerate(names)]
    return found


def over_annotations(
    paths: Sequence[Path], images: int, first_seed: int, *, validation: int | None = None, test: int | None = None
) -> list[Subject]:
    """Return `images` phantoms over each annotated mask, a seed each, all of one mask in the same split.

    Splits as in `procedural`; InputError also when two masks have the same name.
    """
    found = []
    for path, split in zip(paths, _splits(len(paths), validation, test), strict=True):
        published = _PUBLISHED_NAME.fullmatch(volume_stem(path))
        name = _text(published[1] if published else volume_stem(path))
        names = [name] if images == 1 else [f"{name}_S{seed}" for seed in range(first_seed, first_seed + images)]
        found += [Subject(name, split, seed, annotation=path) for seed, name in enumerate(names, first_seed)]
    seen: set[str] = set()
    for subject in found:
        if name_key(subject.name) in seen:
            apart = f"run them apart {setting('output')}"
            raise InputError(f"two annotations would both be called '{subject.name}'; {apart}")
        seen.add(name_key(subject.name))
    return found


def _text(name: str) -> str:
    """Return a name that a data-set file can hold, which is UTF-8 without controls, and so can any file's name."""
    return name if name.isprintable() else write_name(name)


def _splits(count: int, validation: int | None, test: int | None) -> list[str]:
    validation = int(count > 1) if validation is None else validation
    test = int(count > 2) if test is None else test
    training = count - validation - test
    if min(validation, test) < 0 or training < 1:
        raise InputError(
            f"of {count} anatomies, {validation} for validation and {test} for test leave none to train on; "
            f"make more, or say how many each takes {setting('validation', 'test')}"
        )
    return ["train"] * training + ["validation"] * validation + ["test"] * test


def make_set(
    subjects: Sequence[Subject],
    job: PhantomSet,
    *,
    say: Callable[[str], None],
    each: Callable[[Sequence[Subject], Callable[[Subject], Outcome]], int],
    force: bool = False,
) -> tuple[int, int, int]:
    """Make the phantoms that are not there yet, and the data-set file of all of them.

    Parameters
    ----------
    subjects : sequence of Subject
    job : PhantomSet
        The settings.
    say : callable
        Receives what was read, chosen and written, a line at a time.
    each : callable
        The loop, `micronet.app.batch.run_batch`: does a job for each subject, and returns 0 if none failed.
    force : bool
        Make and replace what is there.

    Returns
    -------
    code, made, found : int
        What `each` returned; how many phantoms were made, and how many were there already. Each has a record
        ``.json`` beside its image, of the same name, written last: one that has it is whole. The data-set file comes
        after all of them: where one failed there is none, and the same call goes on when the fault is mended.

    Raises
    ------
    MicronetError
        For bad input, or when the output folder holds something else under these names.
    """
    if job.hdf5:
        require_h5py()  # before the long work
    dataset, text = job.dataset, _toml(subjects, job)
    if dataset.exists() and not force and dataset.read_text(encoding="utf-8", errors="replace") != text:
        raise FileError(f"'{dataset}' describes other phantoms; {REPLACE}")
    outputs, whole = _planned(subjects, job)
    counts = {"done": 0, "skipped": 0}  # by the status of each phantom

    def make(subject: Subject) -> Outcome:
        status = "skipped" if not force and _is_there(subject, job, outputs[subject]) else "done"
        if status == "done":
            _make(subject, job, outputs[subject], say)
        counts[status] += 1
        return Outcome(job.image(subject.name), status, subject.split)

    code = each(subjects, make)
    if code:
        return code, counts["done"], counts["skipped"]
    with whole.staged() as folder:
        (folder / dataset.name).write_text(text, encoding="utf-8")
        if job.hdf5_file is not None:
            write_pairs(folder / job.hdf5_file.name, _pairs(subjects, job))
    whole.finish({"micronet": __version__, "phantoms": [subject.name for subject in subjects]})
    for name in whole.names or ():
        say(f"wrote {job.output / name}")
    return code, counts["done"], counts["skipped"]


def _planned(subjects: Sequence[Subject], job: PhantomSet) -> tuple[dict[Subject, Outputs], Outputs]:
    """Return the files of each phantom and of the whole set, once nothing that is not ours is in their way."""
    outputs = {subject: _outputs(subject, job) for subject in subjects}
    hdf5 = [] if job.hdf5_file is None else [job.hdf5_file.name]
    whole = Outputs(job.output, "phantoms.json", MADE_BY, [job.dataset.name, *hdf5])
    masks = [subject.annotation for subject in subjects if subject.annotation is not None]
    check_outputs([*outputs.values(), whole], [file for mask in masks for file in files_read_with(mask)])
    whole.check_room()
    return outputs, whole


def _outputs(subject: Subject, job: PhantomSet) -> Outputs:
    files = [job.record(subject.name), job.image(subject.name), job.annotation(subject.name)]
    if job.hdf5 and job.files.hdf5 is not None:
        files.append(job.output / job.files.hdf5.format(name=subject.name))
    record, *names = (file.relative_to(job.output).as_posix() for file in files)
    return Outputs(job.output, record, MADE_BY, names)


def _asked(subject: Subject, job: PhantomSet) -> dict[str, Any]:
    """Return what a phantom depends on, as JSON has it."""
    if job.files.write is not None:
        told: dict[str, Any] = json.loads(json.dumps(job.files.asked(subject.seed, job.shape)))
        return told
    asked: dict[str, Any] = {"seed": subject.seed, "vary": job.vary, "optics": asdict(_optics(subject, job))}
    if subject.annotation is not None:
        asked["annotation"] = {
            "file": write_name(subject.annotation.name),
            "sha256": sha256_of(*files_of(subject.annotation)),
        }
        asked |= {"segment": job.segment, "spacing_um_zyx": job.spacing_um}
    else:
        asked |= {"shape_zyx": job.shape, "y_crop": job.y_crop, "anatomy": asdict(Anatomy())}
        asked |= {"time_point": subject.time_point, "time_points": job.time_points}
    plain: dict[str, Any] = json.loads(json.dumps(asked))
    return plain


def _is_there(subject: Subject, job: PhantomSet, outputs: Outputs) -> bool:
    """Whether this very phantom was made before; FileError when another has its name."""
    record = outputs.read()
    if record is None:
        return False
    if record.get("parameters") != _asked(subject, job):
        raise FileError(f"'{outputs.record_path}' tells of another phantom called '{subject.name}'; {REPLACE}")
    return all(file.exists() for file in outputs.paths)


def _make(subject: Subject, job: PhantomSet, outputs: Outputs, say: Callable[[str], None]) -> None:
    if job.files.write is not None:
        with outputs.staged() as folder:
            told = job.files.write(folder, subject.name, subject.seed, job.shape, job.hdf5)
        outputs.finish({"micronet": __version__, "domain": "intensity", "parameters": _asked(subject, job)})
        say(f"{job.image(subject.name).name}: {subject.split}, {told}")
        return
    lumens = _lumens(subject, job, say)
    optics = _optics(subject, job)
    if lumens.spacing_um is not None:
        optics = replace(optics, spacing_um=lumens.spacing_um[0])
    speckle, embryo = (speckle_of_seed(subject.seed, time) for time in (subject.time_point, 0))
    image = render_oct(lumens.array, speckle, optics, embryo=embryo)
    with outputs.staged() as folder:
        staged = replace(job, output=folder)
        write_volume(staged.image(subject.name), replace(lumens, array=image, header={}))
        write_segmentation(staged.annotation(subject.name), [(Segment(name="full seg"), lumens.array)], lumens)
    outputs.finish({"micronet": __version__, "domain": "log", "parameters": _asked(subject, job)})
    share = 100 * lumens.array[:, : job.y_crop].mean()
    say(f"{job.image(subject.name).name}: {subject.split}, lumen {share:.1f} % of what is looked at")


def _optics(subject: Subject, job: PhantomSet) -> Optics:
    return optics_of_seed(subject.seed, vary=job.vary, preset=job.preset)


def _lumens(subject: Subject, job: PhantomSet, say: Callable[[str], None]) -> Volume:
    """Return the mask of a phantom on its grid."""
    if subject.annotation is None:
        phase = subject.time_point / job.time_points
        z, y, x = job.shape
        mask = mask_of_seed((z, y, x), subject.seed, y_crop=job.y_crop, phase=phase)
        return Volume(mask, upright((SPACING_UM,) * 3), space="left-posterior-superior", units="um")
    annotation = read_annotation(subject.annotation, segment=job.segment, spacing_um=job.spacing_um)
    say(f"{subject.annotation.name}: {annotation.description}")
    lumens = annotation.mask
    if lumens.spacing_um is None:
        raise InputError(f"'{subject.annotation}': its voxel size is not known; say it in µm {setting('spacing_um')}")
    if max(lumens.spacing_um) > (1 + _CUBIC) * min(lumens.spacing_um):
        sizes = " x ".join(f"{length:.4g}" for length in lumens.spacing_um)
        raise InputError(
            f"'{subject.annotation}': voxels of {sizes} µm (Z, Y, X); the simulator needs cubic ones, "
            "resample the annotation first"
        )
    return lumens


def _toml(subjects: Sequence[Subject], job: PhantomSet) -> str:
    """Return the data-set file; paths in it are relative to its own folder."""
    crop = [] if job.y_crop is None else [f"y_crop = {job.y_crop}"]
    lines = [
        f"# {job.files.title}, made by {MADE_BY}. datasets/README.md says what the keys mean.",
        'name = "phantoms"',
        *job.files.keys,
        "",
        "[defaults]",
        f'image = "{job.files.image}"',
        f'annotation = "{job.files.annotation}"',
        *job.files.defaults,
        *crop,
    ]
    for subject in subjects:
        # A JSON string is a TOML string too.
        name = json.dumps(subject.name, ensure_ascii=False)
        lines += ["", "[[volume]]", f"name = {name}", f'split = "{subject.split}"']
    return "\n".join(lines) + "\n"


def _pairs(subjects: Sequence[Subject], job: PhantomSet) -> Iterator[tuple[str, str, Volume, Volume]]:
    for subject in subjects:
        mask = read_annotation(job.annotation(subject.name)).mask
        yield subject.name, subject.split, read_volume(job.image(subject.name)), mask
