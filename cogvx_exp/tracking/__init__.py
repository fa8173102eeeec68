"""Plots, trackers and publishing."""
