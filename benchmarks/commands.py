"""Commands of the package, as a user gives them, in processes of their own."""

import subprocess
import sys


def scoretomo(*words: str) -> None:
    """Run a command; its failure ends the benchmark."""
    subprocess.run([sys.executable, "-m", "scoretomo", *words], check=True)
