"""Networks and model bundles."""
