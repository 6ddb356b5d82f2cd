"""Pixels to rasters: windows, backends, streaming writers."""
