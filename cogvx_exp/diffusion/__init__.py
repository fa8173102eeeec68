"""The noise schedule and the objective: pure functions of tensors."""
