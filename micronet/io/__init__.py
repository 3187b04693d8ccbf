"""Volumes and annotations on disk: one module for each format, chosen by the suffix of the file."""

from micronet.core.files import atomic_path
from micronet.io.annotation import Annotation, claimed_bytes, read_annotation
from micronet.io.formats import (
    VOLUME_SUFFIXES,
    files_of,
    files_read_with,
    is_png_path,
    is_volume_path,
    open_recording,
    open_stack,
    read_volume,
    volume_stem,
    write_volume,
)
from micronet.io.label_tiff import write_label_tiff
from micronet.io.labels import Labels, read_labels
from micronet.io.recording import Recording
from micronet.io.seg_nrrd import (
    Segment,
    Segmentation,
    read_segmentation,
)
from micronet.io.seg_nrrd_write import write_label_planes, write_mask_planes, write_segmentation
from micronet.io.source import Source, Sources, opened
from micronet.io.stack import Stack

__all__ = [
    "VOLUME_SUFFIXES",
    "Annotation",
    "Labels",
    "Recording",
    "Segment",
    "Segmentation",
    "Source",
    "Sources",
    "Stack",
    "atomic_path",
    "claimed_bytes",
    "files_of",
    "files_read_with",
    "is_png_path",
    "is_volume_path",
    "open_recording",
    "open_stack",
    "opened",
    "read_annotation",
    "read_labels",
    "read_segmentation",
    "read_volume",
    "volume_stem",
    "write_label_planes",
    "write_label_tiff",
    "write_mask_planes",
    "write_segmentation",
    "write_volume",
]
