"""Which files `perdure ingest PATH…` means. It looks at names and kinds of files and never reads one."""

from __future__ import annotations

import glob
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from perdure.cli.text import counted
from perdure.domain import validation
from perdure.domain.errors import InvalidInput

_MAGIC: Final = frozenset("*?[")


@dataclass(frozen=True)
class Found:
    """A file to ingest.

    Attributes:
        path: absolute.
        size: in bytes, when it was found.
    """

    path: Path
    document_id: str
    size: int


@dataclass(frozen=True)
class Problem:
    """A path that cannot be ingested, and what to do about it."""

    path: str
    message: str


@dataclass
class PassedOver:
    """What folders held besides the files that were taken.

    Attributes:
        unknown: files of no known format, by suffix.
        hidden: files and folders whose names begin with a dot.
        outside: links that lead out of the folder.
        special: what is no file: sockets, devices, links to nothing.
        folders: folders that may not be read.
    """

    unknown: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    outside: int = 0
    special: int = 0
    folders: int = 0

    def remark(self) -> str:
        """All of it in one line; empty if nothing was passed over."""
        ranked = sorted(self.unknown.items(), key=lambda item: (-item[1], item[0]))
        kinds = ", ".join(f"{suffix} ×{number}" for suffix, number in ranked)
        parts = (
            (self.unknown.total(), "file of unknown format", "files of unknown format", f": {kinds}"),
            (self.hidden, "hidden file or folder", "hidden files or folders", ""),
            (self.outside, "link that leads outside", "links that lead outside", ""),
            (self.special, "link to nothing or special file", "links to nothing or special files", ""),
            (self.folders, "folder that may not be read", "folders that may not be read", ""),
        )
        said = [counted(number, one, many) + more for number, one, many, more in parts if number]
        return f"passed over {'; '.join(said)}" if said else ""


@dataclass
class FileSearch:
    """Gathers the files that the user's paths mean, each once.

    Attributes:
        suffixes: what folders are searched for: lower case, with the dot. A file named on its own is always taken.
        base: document ids are paths relative to it. None: relative to the working folder, absolute outside it.
        patterns: in folders, take only files whose path below the folder, or name, matches one; of any suffix.
    """

    suffixes: Collection[str]
    base: Path | None = None
    patterns: Sequence[str] = ()
    files: list[Found] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    passed_over: PassedOver = field(default_factory=PassedOver)
    _seen: set[Path] = field(default_factory=set)

    def add_all(self, named: Iterable[str]) -> None:
        """Take in all that was named; see `add`."""
        for one in named:
            self.add(one)

    def add(self, named: str) -> None:
        """Take in a file, a folder with all that is in it, or what a pattern in quotes matches."""
        if _MAGIC.isdisjoint(named) or os.path.lexists(named):
            self._add(_absolute(named), named)
            return
        # Path.glob knows neither absolute patterns nor that hidden files are left out.
        matches = sorted(glob.glob(named, recursive=True))  # noqa: PTH207
        if not matches:
            self._refuse(named, "nothing matches this pattern; check it and the folder you are in")
        for match in matches:
            self._add(_absolute(match), match)

    def _add(self, path: Path, named: str) -> None:
        if path.is_dir():
            for file in self._walk(path):
                self._take(file, str(file))
        else:
            self._take(path, named)

    def _walk(self, root: Path) -> Iterator[Path]:
        """Yield the files in the folder that are meant, sorted; count the others."""
        inside = root.resolve()
        for folder, folders, names in os.walk(root, onerror=self._note_folder):
            folders[:] = sorted(name for name in folders if self._enters(Path(folder, name), inside))
            for name in sorted(names):
                path = Path(folder, name)
                if self._is_meant(path, root, inside):
                    yield path

    def _note_folder(self, _error: OSError) -> None:
        self.passed_over.folders += 1

    def _enters(self, folder: Path, inside: Path) -> bool:
        if folder.name.startswith("."):
            self.passed_over.hidden += 1
            return False
        if folder.is_symlink():
            # What it holds, if that lies inside, comes under its own name; and links may go in circles.
            self.passed_over.outside += not folder.resolve().is_relative_to(inside)
            return False
        return True

    def _is_meant(self, path: Path, root: Path, inside: Path) -> bool:
        suffix = path.suffix.lower()
        if path.name.startswith("."):
            self.passed_over.hidden += 1
        elif path.is_symlink() and not path.resolve().is_relative_to(inside):
            self.passed_over.outside += 1
        elif not path.is_file():
            self.passed_over.special += 1
        elif self.patterns:
            below = path.relative_to(root).as_posix()
            return any(fnmatchcase(below, one) or fnmatchcase(path.name, one) for one in self.patterns)
        elif suffix not in self.suffixes:
            self.passed_over.unknown[suffix or "no suffix"] += 1
        else:
            return True
        return False

    def _take(self, path: Path, named: str) -> None:
        """Keep the file with its document id, or note why it cannot be ingested."""
        if path in self._seen:
            return
        self._seen.add(path)
        try:
            status = path.stat()
            document_id = self._document_id(path)
        except FileNotFoundError:
            self._refuse(named, "there is no such file or folder; check the path")
        except OSError as error:
            self._refuse(named, f"cannot be looked at: {error.strerror}; check its permissions")
        except InvalidInput as error:
            self._refuse(named, str(error))
        else:
            if not stat.S_ISREG(status.st_mode):
                self._refuse(named, "is no regular file; save its content to a file first")
            elif not os.access(path, os.R_OK):
                self._refuse(named, "may not be read; give yourself read permission")
            else:
                self.files.append(Found(path, document_id, status.st_size))

    def _document_id(self, path: Path) -> str:
        base = Path.cwd() if self.base is None else _absolute(self.base)
        if path.is_relative_to(base):
            document_id = path.relative_to(base).as_posix()
        elif self.base is None:
            document_id = path.as_posix()
        else:
            raise InvalidInput(
                f"lies outside the base {base}; give --base a folder above it, or leave it out"
            )
        return validation.text(document_id, "its name as a document id")

    def _refuse(self, named: str, message: str) -> None:
        # A name that is no UTF-8 could not be written as JSON.
        shown = os.fsencode(named).decode(errors="replace")
        self.problems.append(Problem(shown, message))


def _absolute(path: str | Path) -> Path:
    # Not resolve(): a document is named by the path that the user sees, links and all.
    return Path(os.path.abspath(path))  # noqa: PTH100
