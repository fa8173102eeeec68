"""Captions from a vision-language model: a server's, or a local one."""
