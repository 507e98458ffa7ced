"""One look at the GPUs of this host."""

from __future__ import annotations

from agent.gpu import troubles
from agent.host.nvml import NvmlGpus
from agent.model.gpu import GpuReading


def read_gpus() -> GpuReading:
    """NVML's reading, judged."""
    return NvmlGpus(troubles).read()
