"""Disks that are full or read-only, which takes the leave to mount them."""

import os
import shutil
import subprocess

import pytest


def _mounted(*options):
    done = subprocess.run(["mount", *map(str, options)], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"may not mount here: {done.stderr.strip()}")


@pytest.fixture
def small_disk():
    """Mount a disk of a few hundred kB over a folder, and fill it but for so many bytes."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only the superuser may mount")
    mounted = []

    def mount(folder, size):
        folder.mkdir(parents=True, exist_ok=True)
        _mounted("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(folder, left=0):
    """Fill a small disk with a file, but for some bytes; return the file, whose removal makes room."""
    ballast = folder / "ballast"
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_bsize
    ballast.write_bytes(bytes(max(0, free - left)))
    return ballast


@pytest.fixture
def read_only():
    """Mount a folder over itself so that nobody, the superuser included, may write to it."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only the superuser may mount")
    mounted = []

    def mount(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _mounted("--bind", folder, folder)
        mounted.append(folder)
        _mounted("-o", "remount,ro,bind", folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)
