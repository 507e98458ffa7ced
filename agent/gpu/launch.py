"""What a lab tells a llama.cpp service, as the formula reads it; and a placement, as the service
reads it. Pure.

Names and defaults are those of llama-server 0.10068.0 (`--help`) and of llama-cpp-python's
`ModelSettings`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from agent.model.errors import Refused
from agent.model.gguf import CPU, CUDA, VULKAN, CacheType, DeviceTraits, LoadRequest
from agent.model.gpu import Gpu
from agent.model.kinds import ServiceKind
from agent.model.lab import Service
from agent.model.placement import ListedDevice, ServicePlacement

# `-ngl` and its like: with one of these the lab has taken placement into its own hands.
_OWN = {
    "LLAMA_ARG_N_GPU_LAYERS": ("-ngl", "--gpu-layers", "--n-gpu-layers"),
    "LLAMA_ARG_TENSOR_SPLIT": ("-ts", "--tensor-split"),
    "LLAMA_ARG_SPLIT_MODE": ("-sm", "--split-mode"),
    "LLAMA_ARG_MAIN_GPU": ("-mg", "--main-gpu"),
    "LLAMA_ARG_DEVICE": ("-dev", "--device"),
    "LLAMA_ARG_FIT": ("-fit", "--fit"),
    "N_GPU_LAYERS": (),
    "TENSOR_SPLIT": (),
    "SPLIT_MODE": (),
    "MAIN_GPU": (),
    "CUDA_VISIBLE_DEVICES": (),
}
_TAKES_VALUE = {
    "LLAMA_ARG_CTX_SIZE": ("-c", "--ctx-size"),
    "LLAMA_ARG_N_PARALLEL": ("-np", "--parallel"),
    "LLAMA_ARG_BATCH": ("-b", "--batch-size"),
    "LLAMA_ARG_UBATCH": ("-ub", "--ubatch-size"),
    "LLAMA_ARG_CACHE_TYPE_K": ("-ctk", "--cache-type-k"),
    "LLAMA_ARG_CACHE_TYPE_V": ("-ctv", "--cache-type-v"),
    "LLAMA_ARG_FLASH_ATTN": ("-fa", "--flash-attn"),
    "LLAMA_ARG_OVERRIDE_TENSOR": ("-ot", "--override-tensor"),
    "LLAMA_ARG_N_CPU_MOE": ("-ncmoe", "--n-cpu-moe"),
}
_SWITCHES = {
    "-kvu": ("LLAMA_ARG_KV_UNIFIED", "1"),
    "--kv-unified": ("LLAMA_ARG_KV_UNIFIED", "1"),
    "-no-kvu": ("LLAMA_ARG_KV_UNIFIED", "0"),
    "--no-kv-unified": ("LLAMA_ARG_KV_UNIFIED", "0"),
    "-kvo": ("LLAMA_ARG_KV_OFFLOAD", "1"),
    "--kv-offload": ("LLAMA_ARG_KV_OFFLOAD", "1"),
    "-nkvo": ("LLAMA_ARG_KV_OFFLOAD", "0"),
    "--no-kv-offload": ("LLAMA_ARG_KV_OFFLOAD", "0"),
    "--swa-full": ("LLAMA_ARG_SWA_FULL", "1"),
    "-cmoe": ("LLAMA_ARG_CPU_MOE", "1"),
    "--cpu-moe": ("LLAMA_ARG_CPU_MOE", "1"),
}
_WORDS = {word: name for name, words in (*_OWN.items(), *_TAKES_VALUE.items()) for word in words}
_ALL_EXPERTS = 1 << 16
_GGML_TYPES = {
    "0": CacheType.F32,
    "1": CacheType.F16,
    "2": CacheType.Q4_0,
    "3": CacheType.Q4_1,
    "6": CacheType.Q5_0,
    "7": CacheType.Q5_1,
    "8": CacheType.Q8_0,
    "20": CacheType.IQ4_NL,
    "30": CacheType.BF16,
}


def own_placement(service: Service) -> tuple[str, ...]:
    """The settings by which a lab places a service itself; empty: placing it is ours."""
    settings = {**dict(service.environment), **dict(_settings(service.args))}
    return tuple(name for name in _OWN if name in settings)


def asked_layers(service: Service) -> int | None:
    """Layers as `gpu_layers:` asks for them: a count, `all` as a large one, None for `auto`.

    Without a word llama-server chooses itself, which is `auto`, and llama-cpp-python takes none.
    """
    asked = service.gpu_layers
    if asked is None:
        return 0 if service.kind is ServiceKind.LLAMACPP_PYTHON else None
    if isinstance(asked, str):
        return None if asked == "auto" else 9999
    return asked if asked >= 0 else 9999


def request_of(service: Service, traits: DeviceTraits = CUDA) -> LoadRequest:
    """The load that a llama.cpp service asks for, layers and splits aside.

    Raises Refused for a setting that cannot be read.
    """
    if service.kind is ServiceKind.LLAMACPP_PYTHON:
        settings = dict(service.environment)
        base = LoadRequest(context=2048, slots=1, batch=512, flash_attention=False, traits=traits)
        readers = _PYTHON
    else:
        settings = {**dict(service.environment), **dict(_settings(service.args))}
        base = LoadRequest(slots=service.slots, traits=traits)
        readers = _NATIVE
    if service.context is not None:
        base = replace(base, context=service.context)
    changes: dict[str, Any] = {}
    for name, (field, read) in readers.items():
        if name in settings:
            try:
                changes[field] = read(settings[name])
            except ValueError:
                raise Refused(
                    f"{service.name}: {name} is {settings[name]!r}, which cannot be planned with",
                    hint="correct it in lab.yaml",
                ) from None
    return replace(base, **changes)


def backend_names(gpus: Iterable[Gpu], listed: Iterable[ListedDevice]) -> dict[str, str]:
    """GPU UUID → the name that the program gives the GPU, e.g. `Vulkan0`.

    By the card's name; of several equal cards by order, which the proof checks by PCI address.
    Empty for a program that numbers the GPUs it is shown (CUDA) or finds none.
    """
    free = [device for device in listed if not device.name.startswith("CUDA")]
    names: dict[str, str] = {}
    for gpu in gpus:
        found = next(
            (device for device in free if gpu.name and gpu.name in device.description), None
        )
        if found is not None:
            names[gpu.uuid] = found.name
            free.remove(found)
    return names


def traits_of(listed: Iterable[ListedDevice]) -> DeviceTraits:
    """How the program lays out buffers on the devices it lists."""
    return VULKAN if any(device.name.startswith("Vulkan") for device in listed) else CUDA


def launch_variables(
    kind: ServiceKind,
    placed: ServicePlacement,
    request: LoadRequest,
    names: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The variables that make a service run as placed, and tell of it in its log.

    `names` are those of `backend_names`; without one a GPU is shown by its UUID, as CUDA wants it.
    """
    known = names or {}
    python = kind is ServiceKind.LLAMACPP_PYTHON
    made = dict(_python(placed) if python else _native(placed, request))
    if not placed.on_gpu:
        made["CUDA_VISIBLE_DEVICES"] = ""
        if not python:
            made["LLAMA_ARG_DEVICE"] = "none"  # with 0 layers it would still take scratch there
    elif all(uuid.startswith(("GPU-", "MIG-")) and uuid not in known for uuid in placed.gpus):
        made["CUDA_VISIBLE_DEVICES"] = ",".join(placed.gpus)
    elif not python:
        made["LLAMA_ARG_DEVICE"] = ",".join(known.get(uuid, uuid) for uuid in placed.gpus)
    return made


def _native(placed: ServicePlacement, request: LoadRequest) -> Iterator[tuple[str, str]]:
    yield "LLAMA_ARG_N_GPU_LAYERS", str(placed.layers)
    yield "LLAMA_ARG_FIT", "off"  # it would change what was planned
    yield "LLAMA_ARG_LOG_VERBOSITY", "4"  # below 4 it does not say where the buffers are
    yield "LLAMA_ARG_CTX_SIZE", str(request.context)
    yield "LLAMA_ARG_BATCH", str(request.batch)
    yield "LLAMA_ARG_UBATCH", str(request.micro_batch)
    yield "LLAMA_ARG_CACHE_TYPE_K", str(request.cache_type_k)
    yield "LLAMA_ARG_CACHE_TYPE_V", str(request.cache_type_v)
    flash = {None: "auto", True: "on", False: "off"}
    yield "LLAMA_ARG_FLASH_ATTN", flash[request.flash_attention]
    yield "LLAMA_ARG_N_PARALLEL", str(request.slot_count)
    yield "LLAMA_ARG_KV_UNIFIED", "1" if request.is_unified else "0"
    if placed.splits:
        yield "LLAMA_ARG_TENSOR_SPLIT", ",".join(f"{weight:.0f}" for weight in placed.splits)


def _python(placed: ServicePlacement) -> Iterator[tuple[str, str]]:
    yield "N_GPU_LAYERS", str(placed.layers)
    yield "VERBOSE", "true"
    if placed.splits:
        yield "TENSOR_SPLIT", f"[{','.join(f'{weight:.0f}' for weight in placed.splits)}]"


# -- reading -------------------------------------------------------------------------------


def _settings(args: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Words of a command line as the variables they stand for."""
    words = iter(args)
    for word in words:
        flag, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if flag in _SWITCHES:
            yield _SWITCHES[flag]
        elif flag in _WORDS:
            yield _WORDS[flag], value if equals else next(words, "")


def _truth(text: str) -> bool:
    if text.lower() in ("1", "on", "true", "enabled", "yes"):
        return True
    if text.lower() in ("0", "off", "false", "disabled", "no"):
        return False
    raise ValueError(text)


def _flash(text: str) -> bool | None:
    return None if text.lower() in ("auto", "-1") else _truth(text)


def _slots(text: str) -> int | None:
    return None if int(text) < 0 else int(text)


def _ggml_type(text: str) -> CacheType:
    if text not in _GGML_TYPES:
        raise ValueError(text)
    return _GGML_TYPES[text]


def _overrides(text: str) -> tuple[tuple[str, int], ...]:
    """`pattern=buffer type` pairs; only the host and numbered devices can be planned with."""
    pairs: list[tuple[str, int]] = []
    for part in text.split(","):
        pattern, equals, target = part.rpartition("=")
        digits = target[len(target.rstrip("0123456789")) :]
        if not equals or (target != "CPU" and not digits):
            raise ValueError(part)
        pairs.append((pattern, CPU if target == "CPU" else int(digits)))
    return tuple(pairs)


def _all_experts(text: str) -> int:
    return _ALL_EXPERTS if _truth(text) else 0


_Readers = Mapping[str, tuple[str, Callable[[str], object]]]
_NATIVE: _Readers = {
    "LLAMA_ARG_CTX_SIZE": ("context", int),
    "LLAMA_ARG_N_PARALLEL": ("slots", _slots),
    "LLAMA_ARG_KV_UNIFIED": ("unified", _truth),
    "LLAMA_ARG_BATCH": ("batch", int),
    "LLAMA_ARG_UBATCH": ("micro_batch", int),
    "LLAMA_ARG_CACHE_TYPE_K": ("cache_type_k", CacheType),
    "LLAMA_ARG_CACHE_TYPE_V": ("cache_type_v", CacheType),
    "LLAMA_ARG_FLASH_ATTN": ("flash_attention", _flash),
    "LLAMA_ARG_OVERRIDE_TENSOR": ("overrides", _overrides),
    "LLAMA_ARG_N_CPU_MOE": ("cpu_moe", int),
    "LLAMA_ARG_CPU_MOE": ("cpu_moe", _all_experts),
    "LLAMA_ARG_SWA_FULL": ("swa_full", _truth),
    "LLAMA_ARG_KV_OFFLOAD": ("kv_offload", _truth),
}
_PYTHON: _Readers = {
    "N_CTX": ("context", int),
    "N_BATCH": ("batch", int),
    "N_UBATCH": ("micro_batch", int),
    "FLASH_ATTN": ("flash_attention", _truth),
    "TYPE_K": ("cache_type_k", _ggml_type),
    "TYPE_V": ("cache_type_v", _ggml_type),
    "OFFLOAD_KQV": ("kv_offload", _truth),
}
