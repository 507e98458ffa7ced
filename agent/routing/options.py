"""Request options of a model, as LiteLLM parameters that reach the backend. Measured on 1.106.2."""

from __future__ import annotations

from collections.abc import Iterator

from agent.model.finding import Severity
from agent.model.lab import Provider, ProviderModel, ProviderType
from agent.model.rule import Complaint, Subject, rule
from agent.routing.litellm_keys import LITELLM_PARAMS, PASSED_ON

# Written as themselves these two would win over the client's `max_tokens` and
# `frequency_penalty`; under LiteLLM's names for them the client's value wins.
_LITELLM_NAMES = {"num_predict": "max_tokens", "repeat_penalty": "frequency_penalty"}

# `presence_penalty` makes LiteLLM refuse every request to an Ollama model; `frequency_penalty`
# reaches Ollama as `repeat_penalty`, which is another thing on another scale.
_REFUSED_FOR_OLLAMA = frozenset({"presence_penalty", "frequency_penalty"})


def backend_options(provider: Provider, model: ProviderModel) -> dict[str, object]:
    """The options that can be passed on, by LiteLLM's names; the others are findings."""
    ollama = provider.type is ProviderType.OLLAMA
    return {
        _LITELLM_NAMES.get(name, name) if ollama else name: value
        for name, value in model.options
        if unusable(provider, name) is None
    }


def unusable(provider: Provider, option: str) -> str | None:
    """Why an option cannot be passed on to this provider's models; None when it can."""
    if provider.type is ProviderType.OLLAMA and option in _REFUSED_FOR_OLLAMA:
        return "LiteLLM has no way to send it to Ollama"
    if option in LITELLM_PARAMS and option not in PASSED_ON:
        return "LiteLLM takes that name for itself"
    return None


@rule(
    "unusable-option",
    Severity.WARNING,
    "The backend never gets the option; labctl leaves it out of the gateway's config.",
)
def unusable_option(subject: Subject) -> Iterator[Complaint]:
    """A model's option cannot reach its backend through LiteLLM.

    Example: `options: {presence_penalty: 0.5}` on an Ollama model, or `options: {timeout: 10}`.
    """
    for provider in subject.lab.providers:
        for model in provider.models if provider.active else ():
            for option, _ in model.options:
                reason = unusable(provider, option)
                if reason is not None:
                    message = f"option `{option}` of `{model.name}` has no effect: {reason}"
                    yield Complaint(model.at, message, "take it out; clients may set it a request")
