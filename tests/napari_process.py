"""Run a program with napari in a process of its own: Qt stays out of the other tests."""

import os
import subprocess
import sys
from shutil import which

from micronet.networks.kernels.jit import cache_folder


def run_in_napari(program, *arguments, folder, root, screen=False):
    """Return the finished process; `screen` gives it an X display, which windows with OpenGL need."""
    homes = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"), str(folder / "home"))
    kept = cache_folder()  # another home, the same compiled kernels
    kernels = {} if kept is None else {"NUMBA_CACHE_DIR": str(kept.parent)}
    environment = os.environ | homes | kernels | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    if screen:
        environment.pop("QT_QPA_PLATFORM", None)
        if "DISPLAY" not in environment:
            command = [which("xvfb-run"), "-a", "-s", "-screen 0 1600x1000x24", *command]
    else:
        environment["QT_QPA_PLATFORM"] = "offscreen"
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
