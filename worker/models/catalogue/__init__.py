"""What models there are on this machine, and in which state."""

from worker.models.catalogue.catalogue import Catalogue
from worker.models.catalogue.entries import CatalogueModel

__all__ = ["Catalogue", "CatalogueModel"]
