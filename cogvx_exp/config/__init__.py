"""Turns a command line into a validated, typed configuration. Nothing in this folder imports torch."""
