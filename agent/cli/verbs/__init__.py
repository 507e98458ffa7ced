"""One verb a file. A verb parses nothing and decides nothing: it wires, runs and shows."""
