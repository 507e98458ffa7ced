"""labctl: deploy, prove and roll back the language-model services of one Linux host."""

__version__ = "0.1.0"
