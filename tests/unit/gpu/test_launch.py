"""From a lab's service to the formula's request, and from a placement to variables."""

from __future__ import annotations

import pytest

from agent.gpu.launch import (
    asked_layers,
    backend_names,
    launch_variables,
    own_placement,
    request_of,
    traits_of,
)
from agent.model.errors import Refused
from agent.model.finding import Position
from agent.model.gguf import CPU, CUDA, VULKAN, CacheType, LoadRequest
from agent.model.gpu import Gpu
from agent.model.kinds import ServiceKind
from agent.model.lab import Service
from agent.model.placement import ListedDevice, ServicePlacement

NATIVE, PYTHON = ServiceKind.LLAMACPP_NATIVE, ServiceKind.LLAMACPP_PYTHON


def service(
    *args: str,
    kind: ServiceKind = NATIVE,
    context: int | None = None,
    slots: int | None = None,
    gpu_layers: int | str | None = None,
    **environment: str,
) -> Service:
    return Service(
        "alpha",
        Position("lab.yaml"),
        kind,
        8080,
        context=context,
        slots=slots,
        gpu_layers=gpu_layers,
        environment=tuple(environment.items()),
        args=args,
    )


def test_without_a_word_the_defaults_of_the_program_hold() -> None:
    assert request_of(service()) == LoadRequest()
    python = request_of(service(kind=PYTHON))
    assert (python.context, python.slots, python.batch) == (2048, 1, 512)
    assert python.flash_attention is False and not python.is_unified


def test_words_and_variables_are_read_and_words_win() -> None:
    read = request_of(
        service(
            *("-ctk", "q8_0", "--cache-type-v=q4_0", "-fa", "on", "-nkvo", "-kvu", "-ub", "256"),
            *("-ot", r"blk\.[0-3]\..*=CPU,output=CUDA1", "--swa-full", "-ncmoe", "3", "--metrics"),
            context=8192,
            slots=2,
            LLAMA_ARG_CACHE_TYPE_K="f32",
            LLAMA_ARG_BATCH="1024",
        )
    )
    assert read == LoadRequest(
        context=8192,
        slots=2,
        unified=True,
        cache_type_k=CacheType.Q8_0,
        cache_type_v=CacheType.Q4_0,
        batch=1024,
        micro_batch=256,
        flash_attention=True,
        overrides=((r"blk\.[0-3]\..*", CPU), ("output", 1)),
        cpu_moe=3,
        swa_full=True,
        kv_offload=False,
    )
    assert request_of(service("-cmoe", "-fa", "auto", "-np", "-1")).cpu_moe > 1000


def test_llama_cpp_python_has_names_of_its_own() -> None:
    read = request_of(service(kind=PYTHON, context=4096, TYPE_K="8", FLASH_ATTN="true"))
    assert (read.context, read.cache_type_k, read.flash_attention) == (4096, CacheType.Q8_0, True)


@pytest.mark.parametrize("words", [("-ub", "much"), ("-ctk", "q9"), ("-ot", "x"), ("-fa", "maybe")])
def test_what_cannot_be_read_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(Refused, match=rf"alpha: LLAMA_ARG_\w+ is '{words[1]}'"):
        request_of(service(*words))


@pytest.mark.parametrize(
    ("gpu_layers", "native", "python"),
    [(None, None, 0), ("auto", None, None), ("all", 9999, 9999), (-1, 9999, 9999), (12, 12, 12)],
)
def test_layers_as_asked_for(
    gpu_layers: int | str | None, native: int | None, python: int | None
) -> None:
    assert asked_layers(service(gpu_layers=gpu_layers)) == native
    assert asked_layers(service(kind=PYTHON, gpu_layers=gpu_layers)) == python


def test_a_lab_may_place_a_service_itself() -> None:
    assert own_placement(service("--metrics")) == ()
    own = own_placement(service("-ts", "3,1", CUDA_VISIBLE_DEVICES="1"))
    assert own == ("LLAMA_ARG_TENSOR_SPLIT", "CUDA_VISIBLE_DEVICES")


def test_a_placement_becomes_variables() -> None:
    placed = ServicePlacement("alpha", 30, 33, ("GPU-1", "GPU-2"), (9000.0, 12345.0))
    request = LoadRequest(context=8192, slots=2, flash_attention=True, cache_type_k=CacheType.Q8_0)
    assert launch_variables(NATIVE, placed, request) == {
        "CUDA_VISIBLE_DEVICES": "GPU-1,GPU-2",
        "LLAMA_ARG_BATCH": "2048",
        "LLAMA_ARG_CACHE_TYPE_K": "q8_0",
        "LLAMA_ARG_CACHE_TYPE_V": "f16",
        "LLAMA_ARG_CTX_SIZE": "8192",
        "LLAMA_ARG_FIT": "off",
        "LLAMA_ARG_FLASH_ATTN": "on",
        "LLAMA_ARG_KV_UNIFIED": "0",
        "LLAMA_ARG_LOG_VERBOSITY": "4",
        "LLAMA_ARG_N_GPU_LAYERS": "30",
        "LLAMA_ARG_N_PARALLEL": "2",
        "LLAMA_ARG_TENSOR_SPLIT": "9000,12345",
        "LLAMA_ARG_UBATCH": "512",
    }
    assert launch_variables(PYTHON, placed, request) == {
        "CUDA_VISIBLE_DEVICES": "GPU-1,GPU-2",
        "N_GPU_LAYERS": "30",
        "TENSOR_SPLIT": "[9000,12345]",
        "VERBOSE": "true",
    }


def test_the_cpu_hides_the_gpus() -> None:
    made = launch_variables(NATIVE, ServicePlacement("alpha", 0, 33), LoadRequest())
    assert made["LLAMA_ARG_DEVICE"] == "none" and made["CUDA_VISIBLE_DEVICES"] == ""


def test_devices_without_a_uuid_are_named() -> None:
    made = launch_variables(NATIVE, ServicePlacement("a", 5, 5, ("Vulkan0",)), LoadRequest())
    assert made["LLAMA_ARG_DEVICE"] == "Vulkan0" and "CUDA_VISIBLE_DEVICES" not in made


def test_a_vulkan_program_is_told_its_own_names() -> None:
    gpus = [Gpu(0, "GPU-1", name="RTX 3090"), Gpu(1, "GPU-2", name="RTX 4090")]
    listed = [
        ListedDevice("Vulkan0", "NVIDIA GeForce RTX 4090", 1, 1),
        ListedDevice("Vulkan1", "NVIDIA GeForce RTX 3090", 1, 1),
    ]
    names = backend_names(gpus, listed)
    assert names == {"GPU-1": "Vulkan1", "GPU-2": "Vulkan0"}
    placed = ServicePlacement("a", 5, 5, ("GPU-1",))
    made = launch_variables(NATIVE, placed, LoadRequest(), names)
    assert made["LLAMA_ARG_DEVICE"] == "Vulkan1" and "CUDA_VISIBLE_DEVICES" not in made
    assert traits_of(listed) == VULKAN
    cuda = [ListedDevice("CUDA0", "NVIDIA GeForce RTX 4090", 1, 1)]
    assert backend_names(gpus, cuda) == {} and traits_of(cuda) == CUDA


def test_a_large_split_keeps_its_digits() -> None:
    placed = ServicePlacement("a", 5, 5, ("GPU-1", "GPU-2"), (1234567.0, 139999.0))
    made = launch_variables(NATIVE, placed, LoadRequest())
    assert made["LLAMA_ARG_TENSOR_SPLIT"] == "1234567,139999"
