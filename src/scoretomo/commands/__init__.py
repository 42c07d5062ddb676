"""The verbs of the command line: read, call, write."""
