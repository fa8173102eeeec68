"""Common code of all entry points: turns a command line into a checked, typed job.

Everything here runs before torch is imported, so invalid settings are reported immediately.
"""

import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import hydra
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from cogvx_exp.config.command_line.config_files import read_files_with_old_names
from cogvx_exp.config.command_line.help import print_help
from cogvx_exp.config.command_line.overrides import check_names
from cogvx_exp.config.command_line.quoting import expanded, hint_for_several, quoted, readable
from cogvx_exp.config.issues import ConfigError, Issue
from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.renames import note_renames, noting_renames, renamed_override
from cogvx_exp.config.typed import Job, typed
from cogvx_exp.console.log import configured_logging
from cogvx_exp.console.progress import console
from cogvx_exp.console.terminal import never_fail_to_print, visible
from cogvx_exp.core.disk import disk_issue
from cogvx_exp.core.errors import CrashError, UserError
from cogvx_exp.core.imports import expect_one_command
from cogvx_exp.distributed.process_group import rank_and_world_size
from cogvx_exp.distributed.rendezvous import ignore_leftovers

CRASH = 1
USAGE_ERROR = 2
INTERRUPTED = 130


def _print_failure(overrides: list[str], error: UserError | CrashError) -> None:
    print(visible(f"Job failed ({' '.join(overrides)}): {error}"), file=sys.stderr)


@dataclass(frozen=True)
class EntryPoint(Generic[Job]):
    """A command: its primary config, job type, rules and action."""

    name: str
    """Name of the module."""
    schema: type[Job]
    """Type of the whole configuration."""
    run: Callable[[Job, list[str]], Any]
    """Runs the job, given the job and its overrides."""
    check: Callable[[Job], list[Issue]] = lambda job: []
    """Rules between settings that depend on the configuration alone."""
    config: str = ""
    """Primary config in conf/, if it differs from the module's name."""
    finish: Callable[[list[Any]], None] = lambda results: None
    """Called with the results of `run` for all jobs of a sweep."""
    extra: Callable[[list[str]], list[str]] = lambda overrides: []
    """Additional overrides for Hydra, given those of the command line."""
    failed: Callable[[list[str], UserError | CrashError], None] = _print_failure
    """Called for each failed job of a sweep."""

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Runs the command and returns its exit code: 0, 1 for a crash, 2 for a user error, 130 for Ctrl-C.

        Raises:
            Stopped: (exit code 75) the run was asked to stop and has saved its state.
        """
        # From a shell and not from Python: a program that calls this may run more commands.
        if argv is None:
            expect_one_command()
        argv = list(sys.argv[1:] if argv is None else argv)
        # Hydra's parser has no such flag and cannot be given more.
        quiet, argv = "--quiet" in argv, [word for word in argv if word != "--quiet"]
        never_fail_to_print()
        try:
            try:
                _ignore_leftovers()
                with configured_logging(), noting_renames() if _is_first() else nullcontext():
                    return self._main(argv, quiet=quiet)
            except HydraException as error:
                raise UserError(_explained(error)) from error
            except yaml.YAMLError as error:
                raise UserError(_yaml_issue(error)) from error
            except OSError as error:
                if (issue := disk_issue(error)) is None:
                    raise
                raise issue from error
        except UserError as error:
            # One line is enough for most; this is the switch for those who need the rest.
            if os.environ.get("COGVX_TRACEBACK") or any(text.startswith("hydra.verbose") for text in argv):
                raise
            print(visible(f"cogvx_exp.{self.name}: {error}"), file=sys.stderr)
            return USAGE_ERROR
        except CrashError as error:
            print(visible(f"cogvx_exp.{self.name}: {error}"), file=sys.stderr)
            return CRASH
        except KeyboardInterrupt:
            print(f"cogvx_exp.{self.name}: interrupted", file=sys.stderr)
            return INTERRUPTED

    @property
    def _config(self) -> str:
        return self.config or self.name

    def _main(self, argv: list[str], *, quiet: bool) -> int:
        flags = get_args_parser().parse_intermixed_args(argv)
        met: set[str] = set()
        overrides = [readable(renamed_override(text, met), self.schema) for text in flags.overrides]
        note_renames(met)
        # Hydra's own parser wants all flags either before or after the overrides.
        argv = [*(word for word in argv if word not in flags.overrides), *overrides]
        # --cfg also checks the configuration, so it can be used to test one.
        runs_once = not (flags.multirun or flags.info or flags.shell_completion or flags.hydra_help)
        config_dir = expanded(Path(flags.config_dir)) if flags.config_dir else None
        extra = [f"hydra.searchpath=[{quoted(f'file://{config_dir.resolve()}')}]"] if config_dir else []
        read_files_with_old_names()
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            good, issues = check_names(self._config, overrides, extra, config_dir, self.schema)
            # Composed here although Hydra does it again: only here can all errors be reported together.
            if issues or (runs_once and not self._is_sweep(good, extra)):
                job, more = self._try(good, extra)
                issues += more
            if issues:
                raise ConfigError(issues)
            if flags.help:
                assert job is not None
                print_help(self.name, job)
                return 0
        with console.showing_only_results(quiet):
            self._hand_to_hydra([*argv, *self.extra(overrides)])
        return 0

    def _is_sweep(self, overrides: list[str], extra: list[str]) -> bool:
        """Whether values are swept and a config enables multirun, like the flag -m."""
        parsed = OverridesParser.create().parse_overrides(overrides)
        single = [str(override.input_line) for override in parsed if not override.is_sweep_override()]
        if len(single) == len(overrides):
            return False
        config = compose(self._config, [*extra, *single], return_hydra_config=True)
        return bool(config.hydra.mode == RunMode.MULTIRUN)

    def _try(self, overrides: list[str], extra: list[str]) -> tuple[Job | None, list[Issue]]:
        """The job made from `overrides`, and its issues.

        A value of the wrong type hides the rules that would read it. Overrides with errors are therefore removed and
        the rest is tried again, until all errors are known.
        """
        try:
            return self.job(compose(self._config, [*extra, *overrides])), []
        except ConfigError as error:
            at_issue = {_setting(issue) for issue in error.issues}
            rest = [text for text in overrides if text.lstrip("+").partition("=")[0] not in at_issue]
            if len(rest) == len(overrides):
                return None, error.issues
            more = [issue for issue in self._try(rest, extra)[1] if _setting(issue) not in at_issue]
            return None, [*error.issues, *more]
        except HydraException as error:
            several = re.match(r"Ambiguous value for argument '(.*)'", str(error))
            if several:
                (override,) = OverridesParser.create().parse_overrides([several[1]])
                return None, [Issue(several[1], hint_for_several(override, self.schema))]
            return None, [Issue(" ".join(overrides), _explained(error))]

    def job(self, config: DictConfig) -> Job:
        """Types and checks a composed configuration.

        Raises:
            ConfigError: with all errors found.
        """
        job = typed(config, self.schema)
        issues = self.check(job)
        if issues:
            raise ConfigError(issues)
        return job

    def _hand_to_hydra(self, argv: list[str]) -> None:
        """Lets Hydra compose again and start the job, or the jobs of a sweep."""
        # Hydra would print its own report and exit; with this it raises, so we can report the error ourselves.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        # hydra.main reads nothing else.
        sys.argv = [sys.argv[0], *argv]

        failed: list[UserError | CrashError] = []  # raised at the end: a sweep continues with its next job
        results: list[Any] = []

        def start(config: DictConfig) -> Any:
            overrides = list(HydraConfig.get().overrides.task)
            in_sweep = HydraConfig.get().mode == RunMode.MULTIRUN
            try:
                with configured_logging():  # a launcher may have started this process
                    results.append(self.run(self.job(config), overrides))
                return results[-1] if isinstance(results[-1], float) else None
            except (UserError, CrashError) as error:
                failed.append(error)
            except Exception as error:
                if not in_sweep:
                    raise
                issue = disk_issue(error) if isinstance(error, OSError) else None
                failed.append(issue or CrashError(traceback.format_exc()))
            if not in_sweep:
                return None
            self.failed(overrides, failed[-1])
            return math.nan  # sweepers that optimize treat it as failed

        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=self._config)(start)()
        self.finish(results)
        if failed:
            raise failed[0]


def _setting(issue: Issue) -> str:
    """The name of the setting that an issue, possibly of a list item, belongs to."""
    return re.split(r"[=\[]", issue.setting, maxsplit=1)[0]


def _is_first() -> bool:
    """Whether this process was started alone, or is the first of several."""
    place = rank_and_world_size()
    return place is None or place[0] == 0


def _ignore_leftovers() -> None:
    if rank_and_world_size() is None and (ignored := ignore_leftovers()):
        print(f"Note: ignoring {', '.join(ignored)} of an earlier launch: this process runs alone", file=sys.stderr)


def _yaml_issue(error: yaml.YAMLError) -> str:
    """Where a file is not valid YAML."""
    mark = getattr(error, "problem_mark", None)
    where = f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}" if mark else "a configuration file"
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    hint = "; indent with spaces, not tabs" if "\\t" in problem else ""
    return f"{where} is not valid YAML: {problem}{hint}"


def _explained(error: HydraException) -> str:
    """The informative part of Hydra's message."""
    text = " ".join(str(error).split("\n")[:2])
    plugin = re.search(r"hydra/(launcher|sweeper)/\w+", text)
    return f"{text}; pip install 'cogvx-exp[sweeps]' installs the plugins this project uses" if plugin else text
