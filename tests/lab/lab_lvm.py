"""A stand-in for LVM's tools on a lab's nodes, where no device-mapper is: vgs, lvs, pvs, vgchange, lvmconfig.

Run as `lab_lvm.py FOLDER TOOL ARGUMENT...`. A volume group is a directory below FOLDER, which all nodes
see as they would see its disks: an image file for each logical volume, and a file `tags`. To activate a
volume on a node is to make its name below /dev/mapper there, and it cannot be taken away while the image
is mounted on the node. Reports have the real tools' form, in as many fields as are asked for here.
"""

from __future__ import annotations

import fcntl
import json
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence

MAPPER = Path("/dev/mapper")
TAGS = "tags"
FAILED = 5


def volumes(group: Path) -> List[Path]:
    """Return the images of a group's logical volumes."""
    return sorted(path for path in group.iterdir() if path.name != TAGS)


def name_of(group: Path, volume: Path) -> Path:
    """Return the volume's name below /dev/mapper; no name in the lab has a hyphen to be doubled."""
    return MAPPER / f"{group.name}-{volume.name}"


def is_mounted(volume: Path) -> bool:
    """Tell whether the node has the image mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device = line.split()[0]
        backing = Path("/sys/block") / Path(device).name / "loop/backing_file"
        if device.startswith("/dev/loop") and backing.exists() and backing.read_text().strip() == str(volume):
            return True
    return False


def rows(group: Path, tool: str) -> Iterator[Dict[str, str]]:
    """Return what a report says of a group."""
    if tool == "vgs":
        yield {
            "vg_name": group.name,
            "vg_tags": ",".join((group / TAGS).read_text().split()),
            "vg_missing_pv_count": "0",
            "vg_exported": "",
            "vg_autoactivation": "",
        }
    elif tool == "pvs":
        yield {"pv_name": f"/dev/{group.name}", "vg_name": group.name}
    else:
        for volume in volumes(group):
            is_active = name_of(group, volume).is_symlink()
            yield {
                "lv_name": volume.name,
                "lv_path": f"/dev/{group.name}/{volume.name}",
                "lv_active": "active" if is_active else "",
                "lv_attr": "-wi-a-----" if is_active else "-wi-------",
            }


def change(group: Path, words: Sequence[str]) -> int:
    """Change tags, and activate or deactivate: `vgchange`."""
    with open(group / TAGS, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        tags = file.read().split()
        for option, value in zip(words, words[1:]):
            if option == "--addtag" and value[1:] not in tags:
                tags.append(value[1:])
            elif option == "--deltag" and value[1:] in tags:
                tags.remove(value[1:])
        file.seek(0)
        file.truncate()
        file.write("".join(f"{tag}\n" for tag in tags))
    wanted = dict(zip(words, words[1:])).get("-a")
    for volume in volumes(group):
        name = name_of(group, volume)
        if wanted == "y" and not name.is_symlink():
            name.symlink_to(volume)
        elif wanted == "n" and name.is_symlink():
            if is_mounted(volume):
                sys.stderr.write(
                    f"  Logical volume {group.name}/{volume.name} contains a filesystem in use.\n"
                )
                return FAILED
            name.unlink()
    return 0


def main(argv: Sequence[str]) -> int:
    """Do what one tool does; return its exit status."""
    folder, tool, *words = argv
    if tool == "lvmconfig":
        sys.stdout.write("activation {\n}\nglobal {\n\tevent_activation=1\n}\n")
        return 0
    named: Optional[str] = words[-1] if words else None
    if named is not None and named.startswith("vg_name="):
        named = named.partition("=")[2]
    group = Path(folder) / (named or "")
    if named is None or not group.is_dir():
        sys.stderr.write(f'  Volume group "{named}" not found\n')
        return FAILED
    if tool == "vgchange":
        return change(group, words[:-1])
    kind = tool[:-1]
    sys.stdout.write(json.dumps({"report": [{kind: list(rows(group, tool))}]}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
