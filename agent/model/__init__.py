"""The words of the design as frozen types. This package imports nothing else of ours."""
