"""Notes about the number of steps, which some runs only know once the data is read."""

from cogvx_exp.config.schema import LrScheduler, Profile


def warmup_note(lr_scheduler: LrScheduler, steps: int) -> str | None:
    """A note about a warm-up that is longer than a run of `steps` steps."""
    warmup = lr_scheduler.warmup_steps or 0
    if warmup < max(steps, 1):
        return None
    return (
        f"lr_scheduler.warmup_steps={warmup} is not over when the run ends after steps={steps}: "
        f"the learning rate only reaches {steps / warmup:.0%} of optim.lr"
    )


def too_few_to_profile(profile: Profile, steps: int, given: str) -> str | None:
    """The issue if a run has too few steps to profile, else None. `given`: the setting that determines the steps."""
    needed = profile.skip + profile.warmup + profile.record
    if not profile.enabled or steps >= needed:
        return None
    return (
        f"skips {profile.skip}, warms up for {profile.warmup} and records {profile.record} steps, {needed} in all, but "
        f"{given}; train for longer, or lower profile.skip, profile.warmup or profile.record"
    )
