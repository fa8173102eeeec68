"""Issues in the loop, the data, the scaler, the average, resume and generate, by the test that should notice them.

Each is a file, a text in it, and another text. The tests are those of the suite, of whole runs on the device.
"""

RUN = "tests/integration/test_cuda_matrix.py::test_losses_are_those_of_the_cpu"
RESUMED = "tests/integration/test_cuda_resume.py::test_a_resumed_run_is_the_uninterrupted_one_to_the_bit"
VIDEOS = "tests/integration/test_cuda_commands.py::test_videos_are_those_of_the_cpu"
PIXELS = "tests/software_cuda/product_checks.py::test_pixels_cross_to_the_device_as_bytes_and_without_a_wait"

LOADED = 'part.load_state_dict({**fresh, "state": states, "param_groups": groups})'
ON_THE_HOST = """
    for values in part.state.values():
        values.update({key: value.cpu() for key, value in values.items() if isinstance(value, torch.Tensor)})"""
NUMBERS = "training/monitor/step_numbers.py"
FREED = "self.optimizer.zero_grad(set_to_none=True)"

ISSUES = {
    f"{RUN}[plain]": [
        # tensors on the host
        (NUMBERS, "batch.timesteps.float(), losses", "batch.timesteps.float().cpu(), losses"),
        ("loading/prefetch.py", "self._host.fetch(next(tensors))", "next(tensors).on_host"),
        ("training/setup.py", "scheduler.alphas_cumprod.to(data.compute.device)", "scheduler.alphas_cumprod"),
        ("diffusion/denoise.py", "width), noisy.device)", 'width), torch.device("cpu"))'),
        # a generator of the wrong device
        ("core/randomness.py", "return torch.Generator()", 'return torch.Generator("cuda")'),
        # waits
        (NUMBERS, "mean = losses.mean()", "mean = losses.mean().cpu().to(losses.device)"),
        (NUMBERS, "else norm.to(gathered)", "else gathered.new_full((), float(norm))"),
        (NUMBERS, "torch.full_like(loss, value)", "torch.tensor(value, device=loss.device).double()"),
        ("strategies/single.py", FREED, f"{FREED}\n        torch.cuda.synchronize()"),
        ("loading/data_loader.py", 'pin_memory=data.pin_memory and device.type == "cuda",', ""),
        ("model/offload/host_memory.py", "copy_(source, non_blocking=True)", "copy_(source)"),
    ],
    f"{RUN}[validation]": [("evaluation/held_out.py", ".to(compute.device)", "")],
    f"{RUN}[online]": [
        ("loading/online.py", "device, data.pin_memory), vae).cpu()", "device, data.pin_memory), vae)"),
        ("loading/online.py", "batch.pin_memory() if", "batch if"),
    ],
    f"{RUN}[released]": [("optim/in_backward.py", ".square().sum())", ".square().sum().cpu().to(parameter.device))")],
    f"{RUN}[model tiny-1.5-i2v]": [("diffusion/denoise.py", "noisy.new_full((1,), OFS)", "torch.full((1,), OFS)")],
    f"{RUN}[float16]": [("training/model.py", "trained_dtype(job.optim)", "context.compute.dtype")],
    PIXELS: [
        ("latents/encode.py", 'pin_memory and device.type == "cuda"', "False"),
        ("latents/encode.py", "return frames.to(device", "return frames.float().to(device"),
    ],
    f"{VIDEOS}[generate from a LoRA, streamed]": [
        ("evaluation/sampling.py", "[None].to(device, dtype)", "[None].to(dtype)"),
        ("evaluation/sampling.py", "torch.Generator()", "torch.Generator(self.compute.device)"),
    ],
    f"{RESUMED}[float16, average, 8 bit]": [
        ("training/run.py", "mixed_precision=compute.mixed_precision", 'mixed_precision="no"'),
        ("training/checkpoint/state.py", 'self.strategy.placed(saved["shadow_params"])', 'saved["shadow_params"]'),
        ("strategies/ema.py", 'self._model.load_state_dict(saved | {"shadow_params": None})', "pass"),
        ("training/checkpoint/state.py", 'self.scaler.load_state_dict(state["scaler"])', "pass"),
    ],
    f"{RESUMED}[streamed, online]": [
        ("optim/state.py", LOADED, LOADED + ON_THE_HOST),
        ("strategies/single.py", "parameter.copy_(weights[name])", "parameter.data = weights[name]"),
        ("strategies/single.py", FREED, "pass"),
    ],
    f"{RESUMED}[optim cpu_offload]": [("optim/offloaded.py", "on_host.copy_(on_device)", "pass")],
    f"{RESUMED}[offloaded, gradients kept]": [("optim/offloaded.py", "if parameter in self.queue:", "if False:")],
}
