"""The entry point of `bertheads-score`: names a missing extra instead of printing a stack trace."""

import sys


def main() -> None:
    """Run the command; if its packages are not installed, exit with status 1 and one sentence."""
    try:
        from training.scoring import command
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"error: {error.name} is not installed, expected the extra score: pip install 'bertheads[score]'\n"
        )
        sys.exit(1)
    command.main()


if __name__ == "__main__":
    main()
