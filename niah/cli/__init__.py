"""The command line: reads options, calls one function, prints. What a command needs is imported when it runs."""

import sys

import typer
from typer._click.exceptions import ClickException  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]  # it has no public name

from niah.cli.app import app
from niah.errors import NiahError

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; errors become one or two lines on stderr and an exit code (see niah/errors.py)."""
    sys.exit(_run())


def _run() -> int:
    try:
        return app(standalone_mode=False) or 0
    except NiahError as error:
        return _complain(str(error), error.exit_code)
    except ClickException as error:
        error.show()
        return 2
    except (typer.Abort, KeyboardInterrupt):
        return _complain("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        return _complain(f"{error.filename or 'the system'}: {error.strerror or error}", 3)


def _complain(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
