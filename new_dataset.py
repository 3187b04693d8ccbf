"""Write the data-set file that training takes, of what lies in a folder.

python new_dataset.py lab/          # struct_iso/ with annotations/; imagesTr/ with labelsTr/; train/ with val/; images/
                                    # with masks/; or each image with its .seg.nrrd beside it. Writes lab/dataset.toml,
                                    # split by embryo
"""

import argparse

from micronet.app.options import new_dataset_parser
from micronet.app.terminal import run


def main(arguments: argparse.Namespace) -> int:
    """Look through the folder, write the file, say what was found."""
    # Only now, so that --help and a slip of the pen are answered at once.
    from micronet.app.new_datasets import new_dataset

    return new_dataset(arguments)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line."""
    return new_dataset_parser()


if __name__ == "__main__":
    run(build_parser(), main)
