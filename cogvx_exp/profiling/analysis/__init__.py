"""From a trace of torch.profiler to what a step is made of."""
