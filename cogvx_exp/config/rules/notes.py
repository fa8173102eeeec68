"""Things that are legal but probably not what the user wants."""

from cogvx_exp.config.schema import LrScheduler


def warmup_note(lr_scheduler: LrScheduler, steps: int) -> str | None:
    """What to say about a warm-up that is not over when a run of `steps` steps ends."""
    warmup = lr_scheduler.warmup_steps or 0
    if warmup < max(steps, 1):
        return None
    return (
        f"lr_scheduler.warmup_steps={warmup} is not over when the run ends after steps={steps}: "
        f"the learning rate gets to {steps / warmup:.0%} of optim.lr"
    )
