"""The `mfal` command, begun with care: jobflow, atomate2 and pymatgen read settings of the user's while they are
imported, and what they say of a bad file may hold the password in it."""

from __future__ import annotations

import sys

SETTINGS = "~/.jobflow.yaml (or JOBFLOW_CONFIG_FILE), ~/.atomate2.yaml and ~/.config/.pmgrc.yaml"


def main() -> None:
    try:
        from flows.cli import main as command
    except ModuleNotFoundError as error:
        sys.exit(f"mfal cannot start: {error}: 'make install', or pip install it again")
    except Exception as error:
        sys.exit(f"mfal cannot start ({type(error).__name__}): a file of settings cannot be read; look at {SETTINGS}")
    command()


if __name__ == "__main__":
    main()
