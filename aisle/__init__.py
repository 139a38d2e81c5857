"""Aisle: which aisle does this product go in?

The shared core: the words everyone uses, and the model. Importing it imports no torch; the modules
that need it (`text`, `image`, `fusion`, `classifier`) are imported by name.
"""

import os

from aisle.errors import AisleError, ProductError
from aisle.prediction import Candidate, Prediction
from aisle.product import Product
from aisle.taxonomy import Category, Taxonomy

# libgomp reads this when torch is imported. Its threads wait for each other for milliseconds without leaving
# their cores; beside another process they wait for ones that have none, and training took ten times as long.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
# oneDNN keeps so many kernels, each made for one layer and one size of batch. Its own 1,024 are used up by
# twenty sizes of batch, and then made anew again and again: a third more time for the same pictures.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")

__all__ = ["AisleError", "Candidate", "Category", "Prediction", "Product", "ProductError", "Taxonomy"]
