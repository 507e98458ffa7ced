"""The kinds of service: apart from the lab, for verbs that never read one."""

from __future__ import annotations

from enum import StrEnum


class ServiceKind(StrEnum):
    """The programs that labctl manages. The value names the unit template in `units/`."""

    LITELLM = "litellm"
    OLLAMA = "ollama"
    LLAMACPP_PYTHON = "llamacpp-python"
    LLAMACPP_NATIVE = "llamacpp-native"
    VLLM = "vllm"

    @property
    def default_port(self) -> int:
        return _DEFAULT_PORTS[self]

    @property
    def serves_one_model(self) -> bool:
        return self in (
            ServiceKind.LLAMACPP_PYTHON,
            ServiceKind.LLAMACPP_NATIVE,
            ServiceKind.VLLM,
        )


_DEFAULT_PORTS = {
    ServiceKind.LITELLM: 4000,
    ServiceKind.OLLAMA: 11434,
    ServiceKind.LLAMACPP_PYTHON: 8000,
    ServiceKind.LLAMACPP_NATIVE: 8080,
    ServiceKind.VLLM: 8001,
}
