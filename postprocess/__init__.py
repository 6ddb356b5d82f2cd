"""Rasters to polygons, findings, layers and reports."""
