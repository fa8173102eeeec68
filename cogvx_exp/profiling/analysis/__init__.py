"""Turns a torch.profiler trace into a breakdown of a step."""
