"""What a GGUF header says about memory, what a load asks for, and the budget that follows.

Sizes are bytes. A layer index counts the blocks from 0; the output layer has the index L, the
block count, so that L + 1 layers can be asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

CPU = -1
"""The device index that stands for the host."""


class CacheType(StrEnum):
    """What a KV cache can be made of, as `-ctk` and `-ctv` name it."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
    Q5_1 = "q5_1"
    Q5_0 = "q5_0"
    Q4_1 = "q4_1"
    Q4_0 = "q4_0"
    IQ4_NL = "iq4_nl"

    @property
    def bytes_per_32(self) -> int:
        """Bytes of 32 elements: the block of every quantized cache type."""
        return _CACHE_BYTES[self]

    @property
    def quantized(self) -> bool:
        return self not in (CacheType.F32, CacheType.F16, CacheType.BF16)


_CACHE_BYTES = {
    CacheType.F32: 128,
    CacheType.F16: 64,
    CacheType.BF16: 64,
    CacheType.Q8_0: 34,
    CacheType.Q5_1: 24,
    CacheType.Q5_0: 22,
    CacheType.Q4_1: 20,
    CacheType.Q4_0: 18,
    CacheType.IQ4_NL: 18,
}


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """One tensor of the file.

    Attributes:
        shape: elements a dimension, innermost first, as the file has it.
        kind: ggml's name of the element type, e.g. `q4_K`.
        block: elements that one block of the type holds; 1 when it is not quantized.
        block_bytes: bytes of one block.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    block: int
    block_bytes: int

    @property
    def size_bytes(self) -> int:
        size = self.block_bytes * self.shape[0] // self.block
        for elements in self.shape[1:]:
            size *= elements
        return size

    @property
    def layer(self) -> int | None:
        """The block it belongs to; None outside the blocks."""
        if not self.name.startswith("blk."):
            return None
        number = self.name[4:].partition(".")[0]
        return int(number) if number.isascii() and number.isdigit() and len(number) < 7 else None


@dataclass(frozen=True, slots=True)
class RecurrentFacts:
    """The state of Mamba and its like: the `ssm.*` keys."""

    conv: int
    inner: int
    state: int
    groups: int


@dataclass(frozen=True, slots=True)
class MlaFacts:
    """Multi-head latent attention: what is cached is the compressed row of all heads.

    Attributes:
        key_length: cached elements a token (lora rank + rope).
        head_key_length, head_value_length: elements a head once it is decompressed.
        absorbed: the file has `attn_k_b` and `attn_v_b`: the cache holds compressed rows.
    """

    lora_rank: int
    key_length: int
    head_key_length: int
    head_value_length: int
    absorbed: bool


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One block.

    Attributes:
        window: cells of its sliding window; 0 when it attends to everything.
        recurrent: it keeps a state and has no KV cache.
        cached: it has a KV cache of its own (some blocks of some families share another's).
    """

    heads: int
    kv_heads: int
    key_length: int
    value_length: int
    feed_forward: int
    window: int = 0
    recurrent: bool = False
    cached: bool = True


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """All that the memory formula needs of a model, of all its files together.

    Attributes:
        architecture: `general.architecture`.
        name: `general.name`, or empty.
        label: the quantization that `general.file_type` names, e.g. `Q4_K_M`; may be empty.
        file_bytes: of all parts.
        files: how many parts.
        train_context: tokens it was trained for; 0 when the file does not say.
        width: `embedding_length`.
        layers: one a block, those for next-token prediction included.
        nextn: how many blocks at the end only predict ahead; they are not run by default.
        vocabulary: tokens.
        expert_feed_forward: of one expert; 0 when the model has none.
        digest: SHA-256 (hex) of all keys and tensor infos, long arrays by their length only.
        unknown_family: the architecture is not one that the formula was measured with.
    """

    architecture: str
    name: str
    label: str
    file_bytes: int
    files: int
    train_context: int
    width: int
    layers: tuple[LayerFacts, ...]
    nextn: int
    vocabulary: int
    experts: int
    experts_used: int
    expert_feed_forward: int
    tensors: tuple[TensorFacts, ...]
    recurrent: RecurrentFacts | None = None
    mla: MlaFacts | None = None
    digest: str = ""
    unknown_family: bool = False

    @property
    def block_count(self) -> int:
        return len(self.layers)

    @property
    def most_layers(self) -> int:
        """What `-ngl all` means: every block and the output layer."""
        return len(self.layers) + 1

    @property
    def tied(self) -> bool:
        """The output layer uses the input embedding's weights."""
        return all(tensor.name != "output.weight" for tensor in self.tensors)


@dataclass(frozen=True, slots=True)
class DeviceTraits:
    """How a backend lays out a buffer.

    Attributes:
        alignment: bytes that each tensor is padded to.
        row_multiple: elements; a quantized tensor whose rows are no multiple of it gets the
            shortfall of one row added.
        scans_mamba1: it computes Mamba-1's scan; else its matrices A stay on the host.
    """

    alignment: int
    row_multiple: int = 1
    scans_mamba1: bool = True


CUDA = DeviceTraits(alignment=128, row_multiple=512)
VULKAN = DeviceTraits(alignment=16, scans_mamba1=False)


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What `llama-server` is told, with its defaults.

    Attributes:
        layers: `-ngl`; None asks for all.
        context: `-c`, of all slots together; 0 takes what the model was trained for.
        slots: `-np`; None takes 4 slots that share one cache.
        unified: `-kvu`; None: as the server decides (only when `slots` is None).
        flash_attention: None is `auto`: counted as on, with a caveat.
        splits: `-ts`, one weight a device; empty: in proportion to `free_bytes`, or all equal.
        overrides: `-ot` pairs of (regular expression, device index or CPU), the first match wins.
        cpu_moe: `-ncmoe`: the experts of so many blocks, from block 0, stay on the host.
        swa_full: sliding-window layers get the full cache.
        kv_offload: False is `-nkvo`.
    """

    layers: int | None = None
    context: int = 0
    slots: int | None = None
    unified: bool | None = None
    cache_type_k: CacheType = CacheType.F16
    cache_type_v: CacheType = CacheType.F16
    batch: int = 2048
    micro_batch: int = 512
    flash_attention: bool | None = None
    splits: tuple[float, ...] = ()
    free_bytes: tuple[int, ...] = ()
    overrides: tuple[tuple[str, int], ...] = ()
    cpu_moe: int = 0
    swa_full: bool = False
    kv_offload: bool = True
    traits: DeviceTraits = field(default=CUDA)

    @property
    def slot_count(self) -> int:
        return 4 if self.slots is None else self.slots

    @property
    def is_unified(self) -> bool:
        return self.slots is None if self.unified is None else self.unified


@dataclass(frozen=True, slots=True)
class DeviceBudget:
    """What a load takes on one device.

    Attributes:
        model_bytes: weights; exact. On the host: what is not on a device, which `mmap` may share
            with the page cache.
        kv_bytes: KV cache and recurrent state; exact.
        compute_bytes: the likely scratch buffer.
        compute_bound_bytes: what it will not exceed: plan with this one.
        layers: how many layers it was assigned.
    """

    model_bytes: int = 0
    kv_bytes: int = 0
    compute_bytes: int = 0
    compute_bound_bytes: int = 0
    layers: int = 0

    @property
    def total_bytes(self) -> int:
        """To plan with: the upper bound of compute included; the driver's context is not."""
        return self.model_bytes + self.kv_bytes + self.compute_bound_bytes


@dataclass(frozen=True, slots=True)
class Budget:
    """What a load takes everywhere.

    Attributes:
        layers: how many are on devices, of `of`.
        devices: in the order of the splits.
        assigned: the device of each block and, last, of the output layer; `CPU` is the host.
        caveats: sentences that say where the figures are less than measured fact.
    """

    layers: int
    of: int
    devices: tuple[DeviceBudget, ...]
    host: DeviceBudget
    assigned: tuple[int, ...]
    caveats: tuple[str, ...] = ()
