"""KINDs `ucf101` and `hmdb51`: the official split files of UCF101 and HMDB51, three splits each."""

import re
from pathlib import Path

from mtjax.data.catalog import Clip
from preprocessing.annotations.listing import (
    Listing,
    Problems,
    Splits,
    find_files,
    path_problem,
    read_lines,
    stem,
    text_problem,
)

# v_<Class>_g<group>_c<clip>: a group is one source video, and the official splits never divide it.
_UCF_NAME = re.compile(r"v_.+_(g[0-9]+)_c[0-9]+")
LAST_VALIDATION_GROUP = 10
# <source video>_<class>_<body part>_<camera>_<people>_<view>_<quality>_<number>, as HMDB51's readme has it.
_HMDB_TAIL = r"_[fulh]_(?:cm|nm)_np\d+_(?:ba|fr|ri|le)_(?:bad|med|goo)_\d+"


def parse_ucf101(source: Path) -> Listing:
    """`classInd.txt`, `trainlist0{1,2,3}.txt` and `testlist0{1,2,3}.txt`.

    The first training list is also divided into `train1_fit` (groups 11 to 25) and `train1_val` (8 to 10), which with
    `test1` make the 60/10/30 of "Size Doesn't Matter" without a source video on two sides (motion_guidance.md §7).
    The class is the clip's folder, never its file name: `HandstandPushups` holds `v_HandStandPushups_*`.
    """
    problems = Problems(source)
    index_file = find_files(source, r"(classInd)\.txt", "classInd.txt")["classInd"]
    names = _class_index(index_file, problems)
    splits = Splits(problems)
    for key, path in find_files(source, r"((?:train|test)list\d+)\.txt", "trainlist01.txt and testlist01.txt").items():
        split = re.sub(r"list0*", "", key)
        for number, line in read_lines(path, problems):
            where = f"{path}:{number}"
            if clip := _ucf_clip(where, line, names, problems):
                splits.add(where, split, clip)
                if split == "train1":
                    group = int(re.search(r"[0-9]+$", clip.group)[0])
                    splits.add(where, "train1_fit" if group > LAST_VALIDATION_GROUP else "train1_val", clip)
    problems.raise_if_any()
    return Listing(splits.clips, names)


def _class_index(path: Path, problems: Problems) -> list[str]:
    """`1 ApplyEyeMakeup`, counted from 1 without gaps."""
    names: list[str] = []
    for number, line in read_lines(path, problems):
        index, _, name = line.partition(" ")
        if reason := text_problem(name.strip()):
            problems.add(f"{path}:{number}", reason)
        if index != str(len(names) + 1) or not name.strip() or name.strip() in names:
            problems.add(f"{path}:{number}", f"expected '{len(names) + 1} <a new class name>', found {line!r}")
        names.append(name.strip())
    return names


def _ucf_clip(where: str, line: str, names: list[str], problems: Problems) -> Clip | None:
    path, _, index = line.rpartition(" ") if re.search(r" \d+$", line) else (line, "", "")
    path = path.strip()
    folder, _, file = path.partition("/")
    name = _UCF_NAME.fullmatch(stem(file)) if file else None
    if reason := path_problem(path):
        problems.add(where, reason)
    elif folder not in names:
        problems.add(where, f"{folder!r} is no class of classInd.txt")
    elif not name:
        problems.add(where, f"{file!r} is not called v_<Class>_g<group>_c<clip>.avi")
    elif index and (int(index) > len(names) or names[int(index) - 1] != folder):
        problems.add(where, f"label {index} is not the index of the folder {folder!r} in classInd.txt")
    else:
        return Clip(stem(path), (), folder, group=f"{folder}/{name[1]}", path=path)
    return None


def parse_hmdb51(source: Path) -> Listing:
    """`<class>_test_split{1,2,3}.txt`: a file name and 1 (train), 2 (test) or 0 (unused) in each line.

    Classes are in alphabetical order. A clip's group is its source video within its class: the official splits keep
    that apart, but take clips of different classes from one film on both sides.
    """
    problems = Problems(source)
    files = find_files(source, r"(.+_test_split\d+)\.txt", "<class>_test_split1.txt")
    splits, unused = Splits(problems), set()
    classes_of: dict[str, set[str]] = {}
    for key, path in files.items():
        label, number = key.rsplit("_test_split", 1)
        classes_of.setdefault(number, set()).add(label)
        for line_number, line in read_lines(path, problems):
            where = f"{path}:{line_number}"
            # Names hold blanks, '#', ';' and '(': only the last field is the flag.
            name, _, flag = line.rpartition(" ")
            name = name.strip()
            if flag not in ("0", "1", "2") or "/" in name:
                problems.add(where, f"expected '<file name> <0, 1 or 2>', found {line!r}")
            elif reason := path_problem(name) or text_problem(label):
                problems.add(where, reason)
            elif flag == "0":
                unused.add(f"{label}/{name}")
            else:
                splits.add(where, ("train" if flag == "1" else "test") + number, _hmdb_clip(label, name))
    names = sorted(set().union(*classes_of.values()))
    for number, classes in sorted(classes_of.items()):
        if missing := sorted(set(names) - classes):
            problems.add(f"split {number}", f"no *_test_split{number}.txt of the classes {missing}")
    problems.raise_if_any()
    listing = Listing(splits.clips, names)
    if never := unused - {c.path for c in listing.clips}:
        listing.notices.append(f"{len(never)} clips are in no split and were left out")
    return listing


def _hmdb_clip(label: str, name: str) -> Clip:
    source_video = re.fullmatch(rf"(.+)_{re.escape(label)}{_HMDB_TAIL}", stem(name))
    group = f"{label}/{source_video[1]}" if source_video else ""
    return Clip(f"{label}/{stem(name)}", (), label, group=group, path=f"{label}/{name}")
