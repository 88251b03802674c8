"""Converts published weights: `mtjax convert KIND SRC OUT`; `--back` writes the published layout again."""

import sys
from pathlib import Path

from mtjax import convert
from mtjax.command import arguments, shell
from mtjax.convert import names
from mtjax.data.files import write_atomically


@shell.command("convert")
def main(argv: list[str] | None = None) -> int:
    parser = arguments.parser("convert", __doc__)
    parser.add_argument("kind", help=f"{', '.join(convert.kinds())}, or the import path of a module of your own")
    parser.add_argument(
        "source", help="Hugging Face folder or id, .safetensors, the authors' .pth, or a converted folder"
    )
    parser.add_argument(
        "out",
        help="folder; with --back a .safetensors file with the published names",
    )
    parser.add_argument("--back", action="store_true")
    args = parser.parse_args(argv)
    keywords, params = convert.convert(args.kind, args.source)
    if args.back:
        from safetensors.numpy import save

        room = convert.room_of(args.kind)
        write_atomically(Path(args.out), save(names.to_theirs(room.table(keywords), params)))
    else:
        convert.build(args.kind, keywords, params)  # proves that every parameter is there
        convert.save(args.kind, keywords, params, args.out)
    print(f"{args.out}: {len(params)} arrays, {sum(p.size for p in params.values()):,} values, {keywords}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
