"""A search whose trials take no training, and a process of its own that does one: python searching.py FOLDER TRIALS."""

import sys
import time
from pathlib import Path

from micronet.training.search.study import Search
from micronet.training.search.trials import Candidate

ASKED = {"network": "none"}


def suggest(chooser):
    return {"a": chooser.suggest_float("a", 1e-4, 1, log=True), "b": chooser.suggest_categorical("b", ["x", "y"])}


def score(settings):
    return 1 - abs(settings["a"] - 0.3) + 0.1 * (settings["b"] == "y")


def candidate(objective=lambda settings, report: score(settings)):
    return Candidate({"a": 0.5, "b": "x"}, suggest, objective)


def search(folder, trials, objective=None, *, seed=1, warm_up=0, asked=ASKED, begin=lambda number, settings: None):
    """Do trials; return those of all processes, and the numbers of those that this one did."""
    mine = []
    with Search(Path(folder) / "a.journal", asked, seed=seed, warm_up=warm_up) as study:
        chosen = candidate() if objective is None else candidate(objective)
        study.run(chosen, trials, begin, lambda told: mine.append(told.number))
        return study.told, mine


def main(folder, trials, patience):
    """Do trials at leisure, once the file "go" is there; with no patience, stay in the third for good."""
    begun = 0

    def objective(settings, report):
        nonlocal begun
        begun += 1
        if begun == 3 and not patience:
            (folder / "third").touch()
            time.sleep(600)
        time.sleep(0.05)
        return score(settings)

    (folder / f"ready{len(list(folder.glob('ready*')))}{time.monotonic_ns()}").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    _, mine = search(folder, trials, objective)
    sys.stdout.write(" ".join(map(str, mine)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "patient")
