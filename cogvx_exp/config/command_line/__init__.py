"""Turns a command line into a checked job."""
