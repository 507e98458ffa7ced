"""Reading a lab: YAML with positions → `Lab`, or every problem at once."""
