"""Notes about settings that are valid but probably not intended."""

from cogvx_exp.config.schema import LrScheduler


def warmup_note(lr_scheduler: LrScheduler, steps: int) -> str | None:
    """A note about a warm-up that is longer than a run of `steps` steps."""
    warmup = lr_scheduler.warmup_steps or 0
    if warmup < max(steps, 1):
        return None
    return (
        f"lr_scheduler.warmup_steps={warmup} is not over when the run ends after steps={steps}: "
        f"the learning rate only reaches {steps / warmup:.0%} of optim.lr"
    )
