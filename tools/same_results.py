"""Run a fixed set of commands in two checkouts and compare every file that they write.

python tools/same_results.py ../before .            # for a change that must leave every number as it was

Compared byte by byte: probabilities, masks, meshes, tables, weights, plots. Of records, pages and logs what tells when
and how fast is left out first (dates, seconds, versions).
"""

import argparse
import base64
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

DEMO = "struct_iso/E5D_phantom_demo.nrrd"
TRUE = "annotations/annotation_phantom_demo_iso_full.seg.nrrd"
#: What is run, in this order, in a folder that holds links to the checkout's data.
COMMANDS = (
    f"infer.py {DEMO} -o all --annotation {TRUE} --report --mesh stl --measures --label-tiff",
    f"infer.py {DEMO} -o once --model u-net_phantom --mesh ply --threshold 0.4",
    f"infer.py {DEMO} -o cropped --y-crop 40 --initial-mask {TRUE} --iterations 3 --mesh obj --measures",
    f"infer.py {DEMO} -o slabs --max-ram 560MB --iterations 2",
    f"infer.py {DEMO} -o log --intensity log --until-stable --iterations 4",
    f"infer.py {DEMO} struct_iso/E5D_phantom_validation.nrrd -o beat --time-lapse --iterations 2 --label-tiff",
    f"evaluate.py all --annotation {TRUE} -o scores --sweep --report --image {DEMO} --measures",
    f"prepare.py {DEMO} --domain log --iso 9 -o prepared",
    f"prepare.py {TRUE} --back-to {DEMO} -o back",
    "make_phantoms.py 2 --shape 64,64,64 --vary --time-points 2 -o phantoms",
    "bootstrap_micrornet.py trained_models/u-net_phantom.pt made/ur-net_bootstrap.pt",
    "train_micronet.py --run 1;val;save_a;bootstrap;finish --validate-every 2 --checkpoints c --logs l -o p",
    "train_micrornet.py --run load_bootstrap;1_2;val;status;finish --validate-every 2 --checkpoints c --logs l -o p",
)
# What differs from run to run, in text.
VARYING = (
    (rb'"outputs": \[.*?\]', b""),  # hashes of files that are compared themselves
    (rb'"seal": "[0-9a-f]*"', b""),
    (rb'"(created|time|ended|began)": "[^"]*"', b""),
    (rb'"(seconds|read|predict|write|taken_seconds|estimated_bytes|allowed_bytes)": [-\d.e]+', b""),
    (rb"\d{4}-\d\d-\d\d[T _]\d\d[:-]?\d\d([:-]?\d\d)?([+-]\d\d:?\d\d|Z)?", b"<when>"),
    (rb'"(platform|micronet|python|torch|numpy|numba|hostname)": "[^"]*"', b""),
    (rb"\d{8}-\d{6}", b"<when>"),
    (rb"\d+(\.\d+)? s\b", b"<seconds>"),
    (rb"&quot;(read|predict|write|estimated_bytes|allowed_bytes)&quot;: [-\d.e]+", b""),
    (rb'((id|href)="#?|url\(#)[\w-]*', b""),
    (rb"<pre tabindex.*?</pre>", b""),  # the record, which is compared itself
)
PICTURE = re.compile(rb"data:image/svg\+xml;base64,([\w+/=]*)")
TEXT = (".json", ".html", ".csv", ".toml", ".txt")


def run_all(checkout: Path, folder: Path) -> None:
    """Run the commands of one checkout in a folder."""
    for name in ("struct_iso", "annotations", "trained_models"):
        (folder / name).symlink_to(checkout / name)
    (folder / "made").mkdir()
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    for command in COMMANDS:
        script, *words = command.split()
        if script.startswith(("infer", "train")):
            words += ["--threads", "1"]
        words = [word.replace("_", " ") if ";" in word else word for word in words]
        done = subprocess.run(
            [sys.executable, checkout / script, *words],
            cwd=folder, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        print(f"{done.returncode}  {command}", flush=True)
        if done.returncode:
            print(done.stderr[-2000:])


def fingerprints(folder: Path) -> dict[str, str]:
    """Return a hash of each file, without what differs from run to run."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or any(parent.is_symlink() for parent in path.parents):
            continue
        name = re.sub(r"\d{8}-\d{6}(-\w+)?", "<when>", str(path.relative_to(folder)))
        if path.suffix == ".session" or path.name == ".history":
            continue  # holds the times of the steps
        content = path.read_bytes()
        if path.suffix in TEXT:
            content = PICTURE.sub(lambda found: base64.b64decode(found[1]), content)
            if b",seconds\n" in content.replace(b"\r", b""):  # a log of training
                content = re.sub(rb",[^,\n]*(?=\n)", b"", content)
            for pattern, instead in VARYING:
                content = re.sub(pattern, instead, content, flags=re.S)
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def main() -> int:
    """Compare; 0 when all files are the same."""
    p = argparse.ArgumentParser(description="Compare what two checkouts write.")
    p.add_argument("before", type=Path)
    p.add_argument("after", type=Path)
    p.add_argument("--work", type=Path, help="keep the files here (default: a temporary folder)")
    arguments = p.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        found = []
        for name in ("before", "after"):
            (work / name).mkdir(parents=True)
            run_all(getattr(arguments, name).resolve(), work / name)
            found.append(fingerprints(work / name))
    before, after = found
    differing = sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
    for word, names in (
        ("only before", sorted(before.keys() - after.keys())),
        ("only after", sorted(after.keys() - before.keys())),
        ("differs", differing),
    ):
        for name in names:
            print(f"{word}: {name}")
    print(f"{len(before.keys() & after.keys()) - len(differing)} files are the same")
    return int(before != after)


if __name__ == "__main__":
    sys.exit(main())
