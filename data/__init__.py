"""Scenes, pairs, plans and data sets: everything that reads."""
