"""The command line: one verb a file, views, and one error boundary."""
