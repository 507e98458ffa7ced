"""Lab → the LiteLLM document: its groups, its chains, its rules."""
