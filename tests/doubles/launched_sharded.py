"""`launched_training.py` with weights sharded by FSDP 2 on the CPU: `python FILE OUTPUT STAGE...`

accelerate shards on GPUs only, so here it takes the CPU for a GPU. The sharding, its collectives (over gloo) and
the gathering of weights are the real ones.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from launched_training import main


class _CPUForGPU(PartialState):
    """The state of a process whose GPU is the CPU."""

    def _prepare_backend(self, cpu: bool = False, sagemaker_dp: bool = False, backend: str | None = None):
        return "gloo", DistributedType.MULTI_GPU

    def set_device(self) -> None:
        self.device = torch.device("cpu")


def take_cpu_for_gpu() -> None:
    """Make accelerate ask `_CPUForGPU`, and not for a CPU."""
    made = PartialState.__init__
    PartialState._prepare_backend = _CPUForGPU._prepare_backend
    PartialState.set_device = _CPUForGPU.set_device
    PartialState.__init__ = lambda self, cpu=False, **more: made(self, False, **more)


if __name__ == "__main__":
    take_cpu_for_gpu()
    main(Path(sys.argv[1]), sys.argv[2:])
