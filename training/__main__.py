"""`python -m training`: from a catalogue to a registered classifier."""

from __future__ import annotations

import os
import sys
import warnings

from aisle.allocator import keep_freed_memory
from aisle.environment import QUIET
from aisle.errors import AisleError
from training.progress import console
from training.settings import Settings


def main() -> None:
    """Run the command line; an AisleError is one line, not a traceback."""
    try:
        environment = Settings.from_environment()
    except AisleError as error:
        sys.exit(f"error: {error}")
    # BentoML reads these when it is imported, which `training.commands` does.
    own = {"TOKENIZERS_PARALLELISM": "false", "BENTOML_HOME": str(environment.home / "bentoml")}
    for name, value in {**QUIET, **own}.items():
        os.environ.setdefault(name, value)
    from training.commands import app

    keep_freed_memory()

    # BentoML shows deprecations, and its own use of pathspec is one.
    warnings.filterwarnings("ignore", message="GitWildMatchPattern", category=DeprecationWarning)
    try:
        app(prog_name="python -m training")
    except AisleError as error:
        console.print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
