"""The command `mtjax`: `mtjax NAME …` is `python -m mtjax.NAME …` (or `preprocessing.NAME`); `mtjax NAME --help` says more."""

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from mtjax import __version__
from mtjax.command import found


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    if argv is None and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: configs import configs, and users name their own modules
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = found.commands()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(commands))
        return 0
    if arguments[0] == "--version":
        print(__version__)
        return 0
    name = arguments[0].replace("-", "_")
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(commands)}"
        print(f"mtjax: no command {arguments[0]!r}; {advice}", file=sys.stderr)
        return 2
    return importlib.import_module(commands[name].module).main(arguments[1:])


def usage(commands: dict[str, found.Command]) -> str:
    """What `mtjax --help` prints."""
    rows = "\n".join(f"  {c.name:<17} {c.summary}" for c in commands.values())
    return (
        "usage: mtjax COMMAND …\n\nMotion teachers and the video students that learn from them.\n\n"
        f"{rows}\n\nmtjax COMMAND --help lists the flags of a command with their defaults."
    )


if __name__ == "__main__":
    sys.exit(main())
