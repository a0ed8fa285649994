"""Where the studies on CIFAR-10 find its images."""

import os


def cifar_folder() -> str:
    """The folder that SFF_CIFAR10 names; without one the study ends with a sentence."""
    if folder := os.environ.get("SFF_CIFAR10"):
        return folder
    raise SystemExit("Set SFF_CIFAR10 to a folder with train/ and test/; see laptop_cifar10.py.")
