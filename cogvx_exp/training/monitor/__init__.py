"""Memory, throughput, and what is said when memory runs out."""
