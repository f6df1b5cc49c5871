"""The command line: parse → service → render. Importing it imports click and nothing else."""

from perdure.cli.root import main

__all__ = ["main"]
