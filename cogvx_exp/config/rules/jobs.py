"""Rules between settings. Each yields the issues it finds, with the change that fixes them."""

from collections.abc import Iterator

from cogvx_exp.config.choices import choices_with, models_for, models_with_weights
from cogvx_exp.config.issues import Issue
from cogvx_exp.config.rules.control import control_suits_task
from cogvx_exp.config.rules.footage import FOOTAGE, footage_is_possible
from cogvx_exp.config.rules.notes import too_few_to_profile, warmup_note
from cogvx_exp.config.rules.processes import gpu_dtype, processes_fit
from cogvx_exp.config.rules.prompts import prompt_issues
from cogvx_exp.config.rules.scores import goals_are_scored, scores_are_possible, scores_note, scores_of
from cogvx_exp.config.rules.sharing import (
    adapter_settings_fit,
    hub_is_named,
    images_suit_task,
    trackers_are_installed,
)
from cogvx_exp.config.rules.speed import (
    attention_is_possible,
    card_is_known,
    compilation_is_possible,
    products_are_possible,
)
from cogvx_exp.config.schema import GenerateJob, Model, PrepareJob, TrainJob, Validation

Issues = Iterator[Issue]
DataJob = TrainJob | PrepareJob


def check_train(job: TrainJob) -> list[Issue]:
    """All issues of a training job."""
    rules = (
        _task_suits_model,
        _weights_can_be_found,
        _data_is_complete,
        _encoding_is_possible,
        _buckets_are_legal,
        _validation_is_legal,
        _scores_can_be_computed,
        goals_are_scored,
        hub_is_named,
        adapter_settings_fit,
        images_suit_task,
        control_suits_task,
        _optimizer_is_possible,
        _memory_settings_fit,
        processes_fit,
        attention_is_possible,
        compilation_is_possible,
        products_are_possible,
        _resume_has_a_folder,
        trackers_are_installed,
        _run_is_long_enough_to_profile,
        _sweep_has_gpus,
        card_is_known,
    )
    return [issue for rule in rules for issue in rule(job)]


def check_memory(job: TrainJob) -> list[Issue]:
    """Issues of a job whose memory is predicted: like training, but without data and weights."""
    # A prediction needs neither clips nor weights, so a command line without them is complete.
    needless = ("data.root", "data.sources", "model.path", "hub.", "validation.prompts")
    return [issue for issue in check_train(job) if not issue.setting.startswith(needless)]


def check_prepare(job: PrepareJob) -> list[Issue]:
    """All issues of a prepare job."""
    of_clips = (_weights_can_be_found, _encoding_is_possible, _buckets_are_legal, control_suits_task)
    tokenizer = (_weights_can_be_found,) if job.mode == "caption" else ()
    rules = (_data_is_complete, footage_is_possible, *tokenizer, *(() if job.mode in FOOTAGE else of_clips))
    issues = [issue for rule in rules for issue in rule(job)]
    if job.distributed.name not in ("single", "ddp"):
        issues.append(Issue(f"distributed={job.distributed.name}", "prepare supports single and ddp"))
    if job.mode == "encode" and job.data.encode == "online":
        issues.append(Issue("data.encode=online", "nothing can be encoded in advance; use data.encode=cache"))
    return issues


def check_generate(job: GenerateJob) -> list[Issue]:
    """All issues of a generate job."""
    shape = _shape_issues(job.model, "generate", job.generate.num_frames, job.generate.height, job.generate.width)
    prompts = [] if job.generate.replay else prompt_issues("generate", job.generate, job.generate.prompts)
    scores = scores_are_possible(job.generate.scores, "generate.scores")
    return [*shape, *prompts, *scores, *_model_path_issues(job.model), *attention_is_possible(job)]


def train_notes(job: TrainJob) -> list[str]:
    """Notes about settings that are valid but probably not intended."""
    note = warmup_note(job.lr_scheduler, job.steps) if job.epochs is None else None  # otherwise known once the data is
    notes = [note] if note else []
    schedule_free = job.optim.name == "schedule_free"
    if schedule_free and job.lr_scheduler.name not in ("constant", "constant_with_warmup"):
        notes.append("optim=schedule_free needs no learning rate decay; use lr_scheduler=constant_with_warmup")
    if job.model.native_dtype == "float16" and job.model.dtype == "bfloat16":
        notes.append(f"model.dtype=bfloat16 can give NaN with {job.model.name}, which was trained in float16")
    if isinstance(job.validation, Validation) and (missing := scores_note(job.validation.scores)):
        notes.append(missing)
    return notes


def _optimizer_is_possible(job: TrainJob) -> Issues:
    optim, release = job.optim, "optim.release_gradients=true"
    if optim.offload_gradients and not optim.offload:
        yield Issue("optim.offload_gradients=true", f"optim={optim.name} does not offload; use optim=cpu_offload")
    # torchao frees each gradient after its copy, so the next micro-batch has nothing to add to.
    if optim.offload_gradients and job.gradient_accumulation > 1:
        problem = "offloaded gradients cannot be accumulated; use 1, or optim.offload_gradients=false"
        yield Issue(f"gradient_accumulation={job.gradient_accumulation}", problem)
    if optim.release_gradients:
        if optim.offload:
            yield Issue(release, f"optim={optim.name} has optim.offload_gradients for this")
        if job.gradient_accumulation > 1:
            problem = "released gradients cannot be accumulated; use 1, or optim.release_gradients=false"
            yield Issue(f"gradient_accumulation={job.gradient_accumulation}", problem)
        # The global norm needs all gradients, and by then the first weights have moved.
        if job.max_grad_norm is not None:
            problem = "weights are stepped before the norm is known; with optim.release_gradients=true set it to null"
            yield Issue(f"max_grad_norm={job.max_grad_norm:g}", problem)
    dtype = gpu_dtype(job.model)
    # A scaler unscales all gradients and looks for infinities before any weight is stepped.
    if dtype == "float16" and job.device != "cpu" and (optim.release_gradients or optim.offload):
        which = release if optim.release_gradients else f"optim={optim.name}"
        yield Issue(which, "float16 needs a gradient scaler, which needs all gradients; add model.dtype=bfloat16")
    if optim.stochastic_rounding and not optim.rounding_argument:
        can = ", ".join(choices_with("optim.rounding_argument"))
        yield Issue("optim.stochastic_rounding=true", f"optim={optim.name} cannot; these can: {can}")
    if optim.stochastic_rounding and dtype != "bfloat16":
        problem = f"trains bfloat16 weights, but the model computes in {dtype}; add model.dtype=bfloat16"
        yield Issue("optim.stochastic_rounding=true", problem)


def _memory_settings_fit(job: TrainJob) -> Issues:
    memory, quant, method = job.memory, job.quant.name, job.method
    if memory.stream_blocks:
        if method.kind == "full":
            problem = f"method={method.name} trains the blocks; use optim=cpu_offload_bf16 to save memory"
            yield Issue("memory.stream_blocks=true", problem)
        if quant != "none":
            yield Issue("memory.stream_blocks=true", f"quant={quant} keeps the blocks on the device; choose one")
        # A block's weights are on the device only while it runs, so its backward pass must run it again.
        if memory.activations in ("keep", "selective"):
            problem = "streamed blocks must be recomputed; use checkpoint or offload"
            yield Issue(f"memory.activations={memory.activations}", problem)
    if quant != "none":
        if method.adapter != "lora":
            yield Issue(f"quant={quant}", f"only for method=lora or lora_ff, not {method.name}")
        # pissa and olora subtract the adapter from the base, which packed weights could not hold exactly.
        elif method.init not in (None, "default", "gaussian"):
            yield Issue(f"method.init={method.init}", f"reads the base weights, which quant={quant} packs; use default")


def _task_suits_model(job: TrainJob) -> Issues:
    if job.task.name != "control" and job.task.name not in job.model.tasks:
        can = ", ".join(models_for(job.task.name))
        problem = f"model={job.model.name} only supports {' and '.join(job.model.tasks)}; models for this task: {can}"
        yield Issue(f"task={job.task.name}", problem)


def _weights_can_be_found(job: DataJob) -> Issues:
    yield from _model_path_issues(job.model)


def _model_path_issues(model: Model) -> Issues:
    if model.weights == "pretrained" and not model.path:
        yield Issue("model.path=null", "with model.weights=pretrained, set model.path to a folder or a Hub repository")
    if model.weights == "bundled" and model.name not in (names := models_with_weights("bundled")):
        yield Issue("model.weights=bundled", f"only model={' and model='.join(names)} come with the package")


def _data_is_complete(job: DataJob) -> Issues:
    data = job.data
    if data.source == "mix" and not data.sources:
        yield Issue("data.sources=[]", "list the sources: data.sources=[{source: files, root: FOLDER}, ...]")
    for number, source in enumerate(data.all_sources()):
        where = f"data.sources[{number}].root" if data.sources else "data.root"
        if not source.root:
            yield Issue(f"{where}=null", "set it to the folder of the dataset")
        if source.source == "custom" and not source.reader:
            yield Issue(
                "data.reader=null", "data=custom needs your function: +data.reader.target=my_module.my_function"
            )
    weights = [source.weight for source in data.sources or []]
    if any(weight is None for weight in weights) and any(weight is not None for weight in weights):
        yield Issue("data.sources", "give a weight to every source or to none")
    if weights and not any(weight is None or weight > 0 for weight in weights):
        yield Issue("data.sources", "at least one weight must be above 0")
    if isinstance(data.holdout, float) and not 0 <= data.holdout < 1:
        problem = "a fraction must be from 0 to below 1; a count is a whole number"
        yield Issue(f"data.holdout={data.holdout:g}", problem)


def _encoding_is_possible(job: DataJob) -> Issues:
    data = job.data
    encoded = any(source.source == "latents" for source in data.all_sources())
    # A crop in the cache is drawn once; what looks random would be the same in every epoch.
    if data.reshape == "random" and data.encode == "cache":
        yield Issue("data.reshape=random", "cached clips have a fixed crop; add data.encode=online, or use center")
    if encoded and data.encode == "online":
        yield Issue("data.encode=online", "data=latents has no videos to encode; use data.encode=cache")
    if encoded and data.random_flip:
        yield Issue(f"data.random_flip={data.random_flip}", "latents cannot be flipped; set data.random_flip=0")


def _buckets_are_legal(job: DataJob) -> Issues:
    data, model = job.data, job.model
    for num_frames in data.frame_buckets:
        yield from _frame_issues(model, "data.frame_buckets", num_frames)
        if num_frames > data.max_num_frames:
            problem = f"{num_frames} is above data.max_num_frames={data.max_num_frames}; raise that or lower this"
            yield Issue(f"data.frame_buckets={data.frame_buckets}", problem)
    for setting, sizes in (("data.height_buckets", data.height_buckets), ("data.width_buckets", data.width_buckets)):
        for size in sizes:
            yield from _size_issues(model, setting, size)


def _validation_is_legal(job: TrainJob) -> Issues:
    validation = job.validation
    if not isinstance(validation, Validation):
        return
    yield from _shape_issues(job.model, "validation", validation.num_frames, validation.height, validation.width)
    yield from prompt_issues("validation", validation, validation.prompts)
    if validation.every and validation.every_epochs:
        given = f"validation.every={validation.every}"
        yield Issue(given, f"and validation.every_epochs={validation.every_epochs} exclude each other; set one to null")


def _scores_can_be_computed(job: TrainJob) -> Issues:
    if isinstance(job.validation, Validation):
        yield from scores_are_possible(scores_of(job), "validation.scores")


def _resume_has_a_folder(job: TrainJob) -> Issues:
    if job.resume == "auto" and job.run_dir is None:
        yield Issue("resume=auto", "add run_dir=FOLDER, so that the command finds its run again")


def _run_is_long_enough_to_profile(job: TrainJob) -> Issues:
    problem = too_few_to_profile(job.profile, job.steps, f"steps={job.steps}") if job.epochs is None else None
    if problem:
        yield Issue("profile.enabled=true", problem)


def _shape_issues(model: Model, section: str, num_frames: int, height: int, width: int) -> Issues:
    yield from _frame_issues(model, f"{section}.num_frames", num_frames)
    yield from _size_issues(model, f"{section}.height", height)
    yield from _size_issues(model, f"{section}.width", width)


def _frame_issues(model: Model, setting: str, num_frames: int) -> Issues:
    step, most = model.frame_step, model.max_num_frames
    if num_frames % step == 1 and step < num_frames <= most:
        return
    # The VAE compresses all frames but the first in groups, hence step N + 1.
    below = min(max((num_frames - 1) // step * step + 1, step + 1), most)
    above = min(below + step, most)
    legal = " or ".join(dict.fromkeys([str(below), str(above)]))
    rule = f"model={model.name} takes {step}N+1 frames, {step + 1} to {most}"
    yield Issue(f"{setting}={num_frames}", f"{rule}; nearest: {legal}")


def _size_issues(model: Model, setting: str, size: int) -> Issues:
    multiple = model.size_multiple
    if size % multiple == 0:
        return
    below = max(size // multiple, 1) * multiple
    rule = f"must be a multiple of {multiple} pixels"
    yield Issue(f"{setting}={size}", f"{rule}; nearest: {below} or {below + multiple}")


def _sweep_has_gpus(job: TrainJob) -> Issues:
    gpus, needed = job.sweep.gpus, job.sweep.gpus_per_job
    if gpus is not None and len(set(gpus)) < max(needed, len(gpus)):
        problem = f"names too few GPUs for sweep.gpus_per_job={needed}" if len(gpus) < needed else "contains duplicates"
        yield Issue(f"sweep.gpus={gpus}", f"{problem}; list each GPU of this machine once")
