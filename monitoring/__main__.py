"""`python -m monitoring`: watch what is answered, and retrain."""

from __future__ import annotations

import os
import sys
import warnings

from rich.console import Console

from aisle.environment import QUIET
from aisle.errors import AisleError
from monitoring.settings import Settings


def main() -> None:
    """Run the command line; an AisleError is one line, not a traceback."""
    # With it, prometheus_client would keep the monitor's metrics among the service's files.
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    console = Console(stderr=True)
    try:
        settings = Settings.from_environment()
        # BentoML reads these when it is imported, which `aisle.store` does.
        home = {"BENTOML_HOME": str(settings.home.absolute() / "bentoml")}
        for name, value in {**QUIET, **home}.items():
            os.environ.setdefault(name, value)
        # BentoML shows deprecations, and its own use of pathspec is one.
        warnings.filterwarnings("ignore", message="GitWildMatchPattern", category=DeprecationWarning)
        from monitoring.commands import app

        app(prog_name="python -m monitoring")
    except AisleError as error:
        console.print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
