"""Aisle: which aisle does this product go in?

The shared core: the words everyone uses, and the model. Importing it imports no torch; the modules
that need it (`text`, `image`, `fusion`, `classifier`) are imported by name.
"""

from aisle.errors import AisleError, ProductError
from aisle.prediction import Candidate, Prediction
from aisle.product import Product
from aisle.taxonomy import Category, Taxonomy

__all__ = ["AisleError", "Candidate", "Category", "Prediction", "Product", "ProductError", "Taxonomy"]
