"""A short run of tests/fuzz/fuzz.py; SECURITY.md tells of the long one."""

import subprocess
import sys


def test_spoilt_files_of_every_kind_are_read_or_refused_in_one_line(root):
    ran = subprocess.run(
        [sys.executable, root / "tests" / "fuzz" / "fuzz.py", "--inputs", "100", "--seed", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "100 inputs in" in ran.stdout
