"""What the parsers of all command lines share."""

import argparse
import textwrap


class Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The module's docstring as it is written, and each flag with its default where that says something."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=100)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        silent = action.default in (None, "", False, argparse.SUPPRESS, (), 0) or not action.option_strings
        return text if silent or "default" in text.lower() else f"{text} (default: %(default)s)".strip()


def parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser of `mtjax NAME`, whose help is the module's docstring and every flag with its default."""
    return argparse.ArgumentParser(
        prog=f"mtjax {name}", description=textwrap.dedent(doc or ""), formatter_class=Help, allow_abbrev=False
    )


def add_allow_code(parser: argparse.ArgumentParser) -> None:
    """`--allow_code`, a list for `lookup.allow_code`: a workdir may come from somebody else."""
    parser.add_argument(
        "--allow_code",
        type=lambda text: [name for name in text.split(",") if name],
        default=[],
        metavar="MODULES",
        help="modules outside of mtjax, comma separated, that a workdir's config may name and run, e.g. my_lab",
    )
