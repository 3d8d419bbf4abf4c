"""The loop as jobflow flows, and the command line."""
