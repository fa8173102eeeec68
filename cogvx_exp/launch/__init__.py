"""From a checked job to a running one. Imports torch only when the run begins."""
