"""Memory, throughput, and messages about running out of memory."""
