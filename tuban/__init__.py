"""tuban: satellite and aerial imagery turned into evidence for protecting farmland."""

__version__ = "0.1.0"
