"""Where a run runs: revision of the code, versions, machine. No name of host or user."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from training.registration import git_revision

_PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "numpy",
    "scikit-learn",
    "lightgbm",
    "optuna",
    "feast",
    "bentoml",
)


def surroundings(device: str) -> dict[str, str]:
    """Facts by name; `device` is where models are trained, cpu or cuda."""
    found = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "git_revision": git_revision(),
    }
    for package in _PACKAGES:
        try:
            found[f"version.{package}"] = version(package)
        except PackageNotFoundError:  # an image without what compares has no LightGBM
            continue
    return found
