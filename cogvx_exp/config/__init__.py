"""From a command line to a checked, typed configuration. Nothing in this folder imports torch."""
