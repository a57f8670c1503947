"""Accelerate: device, precision, data parallelism and trackers of a run.

Neither its data loaders nor its data order are used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object

from cache_schema import UserError

from .diagnosis import Cause
from .errors import RunFolderError

_MIXED_PRECISION = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


def make_accelerators(
    count: int, device: torch.device, dtype: torch.dtype, run_dir: Path
) -> list[Accelerator]:
    """One for each learning rate, since each needs a loss scaler of its own; the first one logs."""
    precision = _MIXED_PRECISION[dtype]
    state = AcceleratorState._shared_state
    if state and (state["_mixed_precision"] != precision or state["device"].type != device.type):
        # Accelerate keeps the settings of the first run in a process for all later ones.
        AcceleratorState._reset_state(reset_partial_state=True)
    return [
        Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=precision,
            log_with="tensorboard" if number == 0 else None,
            project_dir=run_dir,
        )
        for number in range(count)
    ]


def on_main(accelerator: Accelerator, action: Callable[[], object]) -> None:
    """Run on the main process; if it fails there, all processes raise instead of waiting for it.

    Raises:
        UserError: What `action` raised.
    """
    failure: UserError | None = None
    if accelerator.is_main_process:
        try:
            action()
        except UserError as error:
            failure = error
    if accelerator.num_processes > 1:
        message = [None if failure is None else str(failure)]
        broadcast_object_list(message)
        if failure is None and message[0] is not None:
            failure = RunFolderError(message[0])
    if failure is not None:
        raise failure


def agree_on_cause(accelerator: Accelerator, cause: Cause) -> Cause:
    """The cause that all processes report: bad inputs of any one of them come first."""
    causes = gather_object([cause]) if accelerator.num_processes > 1 else [cause]
    return next((found for found in causes if found.is_input), causes[0])


def any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether a flag is set on one of the processes."""
    if accelerator.num_processes == 1:
        return flag
    local = torch.tensor(float(flag), device=accelerator.device)
    return bool(accelerator.reduce(local, reduction="sum").item() > 0)
