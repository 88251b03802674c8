"""What MkDocs adds to docs/: pages that lie elsewhere in the repository, and a page of the API for each room."""

import re
from pathlib import Path

from mkdocs.structure.files import File

REPO = Path(__file__).parents[1]
ELSEWHERE = {  # page of the site → file of the repository
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "benchmarks_commands.md": "benchmarks/README.md",
}


def rooms() -> dict[str, list[str]]:
    """Page → modules: one page for each room of mtjax, for its root, and for preprocessing; command lines stay out."""
    pages: dict[str, list[str]] = {}
    for package in ("mtjax", "preprocessing"):
        for path in sorted((REPO / package).rglob("*.py")):
            parts = path.relative_to(REPO).with_suffix("").parts
            if parts[-1].startswith("__") or "\ndef main(" in path.read_text():
                continue
            room = parts[1] if package == "mtjax" and len(parts) > 2 else package
            pages.setdefault(room, []).append(".".join(parts))
    return pages


def on_config(config):
    """Lists the API's pages in the navigation."""
    for entry in config["nav"]:
        if "API" in entry:
            entry["API"] = [{room: f"api/{room}.md"} for room in rooms()]
    return config


def on_files(files, config):
    """Adds the pages that do not lie in docs/."""
    for page, path in ELSEWHERE.items():
        files.append(File.generated(config, page, content=moved((REPO / path).read_text(), path)))
    for room, modules in rooms().items():
        text = f"# {room}\n\n" + "\n".join(f"::: {module}\n" for module in modules)
        files.append(File.generated(config, f"api/{room}.md", content=text))
    return files


def moved(text: str, path: str) -> str:
    """The text of a page with its links as they are seen from the site's root; what is no page loses its link."""
    pages = {target: page for page, target in ELSEWHERE.items()}

    def link(found: re.Match) -> str:
        words, target = found.groups()
        file, _, fragment = target.partition("#")
        if not file or re.match(r"[a-z]+:", file):
            return found[0]
        there = str((REPO / path).parent.joinpath(file).resolve().relative_to(REPO))
        page = pages.get(there) or (there.removeprefix("docs/") if there.startswith("docs/") else "")
        return f"[{words}]({page}{'#' + fragment if fragment else ''})" if page else words

    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", link, text)


def on_page_markdown(markdown, page, config, files):
    """The same for the pages of docs/ that link to files outside."""
    if page.file.generated_by:
        return markdown
    prefix = "../" * page.file.src_uri.count("/")
    pages = {f"{prefix}../{path}": prefix + site for site, path in ELSEWHERE.items()}
    for outside, inside in pages.items():
        markdown = markdown.replace(f"]({outside}", f"]({inside}")
    return markdown
