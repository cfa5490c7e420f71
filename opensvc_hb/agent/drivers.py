"""Which driver serves a section?

Drivers are found by path: `resource/<group>/<type>.py` below the site's own
`etc/opensvc/drivers/`, then below ours. There is no registry, and importing a driver has
no side effect. A driver that cannot be imported is reported where it is needed, never
taken for absent. A file whose name starts with an underscore is no driver.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Dict, FrozenSet, List, Optional, Set, Tuple, Type, Union

from opensvc_hb.agent.resource import Resource

PACKAGE = "opensvc_hb.drivers"
SITE_PACKAGE = "opensvc_hb_site_drivers"
"""Begin of the name under which a site's folder is imported; its path's checksum follows."""

_GROUP_OF_FAMILY = {
    "loop": "disk",
    "vg": "disk",
    "drbd": "disk",
    "vdisk": "disk",
    "vmdg": "disk",
    "pool": "disk",
}
"""Families of section names that the later agents merged into [disk#N] (A.2)."""


@dataclass(frozen=True)
class Missing:
    """No driver serves the section; `reason` is what the operator is told."""

    reason: str


DriverChoice = Union[Type[Resource], Missing]


def our_folder() -> Path:
    """Return the folder that holds our drivers and make it importable as `PACKAGE`.

    Installed, it is the package itself; in a source tree it is the top-level `drivers/`.
    """
    if PACKAGE not in sys.modules and importlib.util.find_spec(PACKAGE) is None:
        folder = Path(__file__).resolve().parents[2] / "drivers"
        _register(PACKAGE, folder)
    package = importlib.import_module(PACKAGE)
    return Path(next(iter(package.__path__)))


class DriverFinder:
    """Finds drivers, importing no more than needed; what it found it keeps.

    Args:
        site: the site's own folder, `etc/opensvc/drivers`; it need not exist. A site's
            driver of the same group and type stands before ours.
    """

    def __init__(self, site: Optional[Path] = None) -> None:
        self._folders: List[Tuple[str, Path]] = []
        if site is not None and (site / "resource").is_dir():
            name = f"{SITE_PACKAGE}_{zlib.crc32(str(site).encode('utf-8', 'surrogateescape')):08x}"
            if name not in sys.modules:
                _register(name, site)
            self._folders.append((name, site))
        self._folders.append((PACKAGE, our_folder()))
        self._listed: Dict[Path, Tuple[int, FrozenSet[str]]] = {}
        self._loaded: Dict[Tuple[str, str, str], Union[Type[Resource], Missing, None]] = {}

    def choose(self, family: str, type_text: str) -> DriverChoice:
        """Return the driver for a section of this family and `type` ("" when absent).

        A family with one driver that names no types needs no `type`.
        """
        group = _GROUP_OF_FAMILY.get(family, family)
        type_name = type_text.strip().lower()
        broken: List[Missing] = []
        allowed: List[str] = []
        stems = self._stems(group)
        for stem in sorted(stems, key=lambda name: (name != type_name, name)):
            for package, _ in self._folders:
                driver = self._load(package, group, stem)
                if isinstance(driver, Missing):
                    broken.append(driver)
                elif driver is not None and family in driver.sections:
                    if _serves(driver, family, type_name):
                        return driver
                    allowed.extend(driver.types)
        if broken:
            return broken[0]
        if allowed and not type_name:
            return Missing(f"type must be set (one of {', '.join(sorted(set(allowed)))})")
        if allowed:
            return Missing(f"no driver for type '{type_text}' (have {', '.join(sorted(set(allowed)))})")
        return Missing(f"no driver for {family}{f' type {type_text}' if type_text else ''}")

    def internal(self, group: str, stem: str) -> Type[Resource]:
        """Return a driver of ours that no section chooses, such as the implicit sync's."""
        driver = self._load(PACKAGE, group, stem)
        if isinstance(driver, type):
            return driver
        raise AssertionError(f"our own driver {group}/{stem} cannot be loaded: {driver}")

    def all(self) -> List[Union[Type[Resource], Missing]]:
        """Return every driver there is, those that cannot be imported as `Missing`."""
        found: List[Union[Type[Resource], Missing]] = []
        for package, folder in self._folders:
            for group in sorted(p.name for p in (folder / "resource").iterdir() if p.is_dir()):
                for stem in sorted(self._stems(group)):
                    driver = self._load(package, group, stem)
                    if driver is not None:
                        found.append(driver)
        return found

    def _stems(self, group: str) -> List[str]:
        names: Set[str] = set()
        for _, folder in self._folders:
            names.update(self._stems_of(folder / "resource" / group))
        return sorted(names)

    def _stems_of(self, folder: Path) -> FrozenSet[str]:
        """Return the drivers of one folder; listed again when the folder has changed."""
        try:
            changed_ns = folder.stat().st_mtime_ns
        except OSError:
            return frozenset()
        known = self._listed.get(folder)
        if known is None or known[0] != changed_ns:
            stems = frozenset(p.stem for p in folder.glob("*.py") if not p.name.startswith("_"))
            known = self._listed[folder] = (changed_ns, stems)
        return known[1]

    def _load(self, package: str, group: str, stem: str) -> Union[Type[Resource], Missing, None]:
        key = (package, group, stem)
        if key not in self._loaded:
            folder = dict(self._folders)[package]
            path = folder / "resource" / group / f"{stem}.py"
            self._loaded[key] = (
                _import_driver(f"{package}.resource.{group}.{stem}", path) if path.exists() else None
            )
        return self._loaded[key]


def _serves(driver: Type[Resource], family: str, type_name: str) -> bool:
    # An old family name ([loop#1]) is itself the type of a driver that [disk#1] chooses by type.
    if not driver.types or family in _GROUP_OF_FAMILY:
        return True
    return type_name in driver.types


def _import_driver(name: str, path: Path) -> Union[Type[Resource], Missing, None]:
    """Import one file; None when it defines no resource."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # the driver boundary: any driver may break in any way
        import traceback

        last = traceback.extract_tb(error.__traceback__)[-1]
        return Missing(
            f"driver {path} cannot be loaded: {type(error).__name__}: {error} ({last.filename}:{last.lineno})"
        )
    classes = [
        thing
        for thing in vars(module).values()
        if isinstance(thing, type) and issubclass(thing, Resource) and thing.__module__ == module.__name__
    ]
    return classes[0] if classes else None


def _register(name: str, folder: Path) -> None:
    """Make a folder a package of this process, under a name of its own."""
    start = folder / "__init__.py"
    if start.exists():
        spec = importlib.util.spec_from_file_location(name, start, submodule_search_locations=[str(folder)])
        assert spec is not None, "a file's location always gives a spec"
        assert spec.loader is not None, "a file's spec always has a loader"
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    else:
        module = ModuleType(name)
        module.__path__ = [str(folder)]
        sys.modules[name] = module
