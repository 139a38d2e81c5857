"""Every figure that the README quotes, each re-made by one command."""

import aisle  # noqa: F401 - before torch, as its __init__.py says
