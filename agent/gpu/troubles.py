"""NVML's refusals → what is wrong in words, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable

from agent.model.finding import Severity
from agent.model.gpu import Gpu, GpuFault, GpuTrouble, GpuTroubleKind, NvmlError, Surroundings

_RESUME = (
    "unload and load the module: `sudo rmmod nvidia_uvm && sudo modprobe nvidia_uvm`, or reboot;"
    " to keep it from coming back, enable nvidia-suspend.service and nvidia-resume.service and set"
    " NVreg_PreserveVideoMemoryAllocations=1"
)
_TOOLKIT = (
    "start the container with the NVIDIA Container Toolkit"
    " (`docker run --gpus all`, `podman run --device nvidia.com/gpu=all`)"
)
# systemd resets a container's device rules: the well-known end of NVML in long-lived containers.
_CONTAINER_LOST = (
    "restart the container; a `systemctl daemon-reload` on its host takes the devices away from a"
    " container that was started without CDI or explicit `--device /dev/nvidia...`"
)
# Chips without memory of their own; NVML answers `not supported`, or the host's memory.
_SHARED_MEMORY_CHIPS = ("gb10", "orin", "thor", "xavier", "tegra", "jetson")


def explain(fault: GpuFault, around: Surroundings) -> GpuTrouble:
    """What one refused call means on this host.

    1. No library or no module: a normal host, unless an NVIDIA GPU is there.
    2. Errors that a suspend, a container or WSL are known to cause are named after them.
    3. Everything else by NVML's own code.
    """
    if fault.error in (NvmlError.LIBRARY_NOT_FOUND, NvmlError.DRIVER_NOT_LOADED):
        return _no_driver(fault, around)
    if fault.error in (NvmlError.UNKNOWN, NvmlError.GPU_LOST) and around.suspended:
        message = f"cannot {fault.doing}: {_words(fault)}, and this host has been suspended"
        return GpuTrouble(GpuTroubleKind.AFTER_SUSPEND, message, _RESUME, gpu=fault.gpu)
    if fault.error in (NvmlError.UNKNOWN, NvmlError.NO_PERMISSION) and around.container:
        message = f"cannot {fault.doing} in this {around.container} container: {_words(fault)}"
        return GpuTrouble(GpuTroubleKind.CONTAINER, message, _CONTAINER_LOST, gpu=fault.gpu)
    kind, remedy = _BY_CODE[fault.error]
    if fault.error is NvmlError.UNKNOWN and around.wsl:
        kind, remedy = GpuTroubleKind.WSL, "run `wsl --update` and `wsl --shutdown` on Windows"
    if fault.error is NvmlError.VERSION_MISMATCH and around.module:
        remedy = f"{remedy}; the loaded module is {around.module}"
    return GpuTrouble(kind, f"cannot {fault.doing}: {_words(fault)}", remedy, gpu=fault.gpu)


def _words(fault: GpuFault) -> str:
    return fault.words.rstrip(".") or str(fault.error)


_BY_CODE: dict[NvmlError, tuple[GpuTroubleKind, str]] = {
    NvmlError.VERSION_MISMATCH: (
        GpuTroubleKind.VERSION_MISMATCH,
        "the driver was updated under the running kernel module: reboot, or stop everything that"
        " uses the GPU and reload the modules"
        " (`sudo rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia && sudo modprobe nvidia`)",
    ),
    NvmlError.GPU_LOST: (
        GpuTroubleKind.GPU_LOST,
        "the GPU fell off the bus: see `sudo dmesg | grep -i xid`, power the machine off and on,"
        " and check its power cables, its temperature and its slot",
    ),
    NvmlError.RESET_REQUIRED: (
        GpuTroubleKind.RESET_REQUIRED,
        "stop everything that uses the GPU, then `sudo nvidia-smi --gpu-reset -i INDEX`, or reboot",
    ),
    NvmlError.NO_PERMISSION: (
        GpuTroubleKind.NO_PERMISSION,
        "see `ls -l /dev/nvidia*`: your user needs to read and write them; where they belong to a"
        " group, `sudo usermod -aG video,render $USER` and log in again",
    ),
    NvmlError.NOT_SUPPORTED: (
        GpuTroubleKind.NOT_SUPPORTED,
        "the driver or the GPU does not offer this: update the driver; without it the model's"
        " memory is planned only where `gpu_layers` is a number",
    ),
    NvmlError.UNKNOWN: (
        GpuTroubleKind.UNKNOWN,
        "see `nvidia-smi` and `sudo dmesg | grep -iE 'nvrm|xid'`; a reboot often clears it",
    ),
}


def _no_driver(fault: GpuFault, around: Surroundings) -> GpuTrouble:
    """No library, or a library without a module. Only with a GPU in sight is that a problem."""
    missing_library = fault.error is NvmlError.LIBRARY_NOT_FOUND
    what = (
        "libnvidia-ml.so.1 is not found" if missing_library else "the NVIDIA module is not loaded"
    )
    if around.wsl and missing_library:
        remedy = "install the NVIDIA driver on Windows (not inside WSL), then `wsl --shutdown`"
        message = f"{what} in WSL: models run on the CPU"
        return GpuTrouble(GpuTroubleKind.WSL, message, remedy, severity=None)
    if around.container and (around.module or around.pci_gpus):
        message = (
            f"{what} in this {around.container} container, though its host has an NVIDIA"
            " GPU: models run on the CPU"
        )
        return GpuTrouble(GpuTroubleKind.CONTAINER, message, _TOOLKIT, severity=Severity.WARNING)
    if around.pci_gpus:
        message = f"this host has an NVIDIA GPU, but {what}: models run on the CPU"
        remedy = "install the NVIDIA driver of your distribution and reboot"
        if not missing_library:
            remedy = (
                "load it with `sudo modprobe nvidia`; when that fails, install the driver again for"
                " this kernel (`uname -r`, DKMS, Secure Boot)"
            )
        return GpuTrouble(GpuTroubleKind.NO_DRIVER, message, remedy, severity=Severity.WARNING)
    message = "no NVIDIA GPU and no driver: models run on the CPU"
    return GpuTrouble(GpuTroubleKind.NO_DRIVER, message, severity=None)


def shares_host_memory(name: str) -> bool:
    """Whether a GPU of this name has no memory of its own."""
    words = name.lower().replace("-", " ").split()
    return any(chip in words for chip in _SHARED_MEMORY_CHIPS)


def limits(gpus: Iterable[Gpu], around: Surroundings) -> tuple[GpuTrouble, ...]:
    """What keeps figures of readable GPUs from being relied on."""
    gpus = tuple(gpus)
    found: list[GpuTrouble] = []
    for gpu in gpus:
        if gpu.unified_memory:
            message = f"{gpu.name} shares the host's memory: what is free on it is unreliable"
            remedy = "set `gpu_layers` to a number or `all`, and leave room with `memory_max`"
            found.append(_limit(GpuTroubleKind.UNIFIED_MEMORY, message, remedy, gpu))
        if gpu.cut_into_mig and not any(part.mig_parent == gpu.uuid for part in gpus):
            message = f"MIG is on for {gpu.name}, and no MIG device of it is seen"
            remedy = (
                "make one with `sudo nvidia-smi mig -i INDEX -cgi PROFILE -C`, or switch MIG off"
                " with `sudo nvidia-smi -i INDEX -mig 0`; in a container pass the device on"
            )
            found.append(_limit(GpuTroubleKind.MIG, message, remedy, gpu, Severity.ERROR))
    if gpus and around.wsl:
        message = "WSL does not tell the GPU memory of single processes: proofs rest on logs"
        found.append(GpuTrouble(GpuTroubleKind.WSL, message, "", Severity.NOTE))
    if gpus and around.container:
        message = (
            f"in this {around.container} container NVML may name processes by other PIDs:"
            " proofs rest on logs"
        )
        remedy = "start it with the host's PIDs (`--pid=host`) to have them measured"
        found.append(GpuTrouble(GpuTroubleKind.CONTAINER, message, remedy, Severity.NOTE))
    return tuple(found)


def _limit(
    kind: GpuTroubleKind,
    message: str,
    remedy: str,
    gpu: Gpu,
    severity: Severity = Severity.WARNING,
) -> GpuTrouble:
    return GpuTrouble(kind, message, remedy, severity, gpu.uuid)
