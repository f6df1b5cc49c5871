from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from perdure.cli.files import FileSearch

SUFFIXES = frozenset({".txt", ".md"})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return here


def write(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")


def search(*named: str | Path, base: Path | None = None, patterns: tuple[str, ...] = ()) -> FileSearch:
    found = FileSearch(suffixes=SUFFIXES, base=base, patterns=patterns)
    for one in named:
        found.add(str(one))
    return found


def ids(found: FileSearch) -> list[str]:
    return [file.document_id for file in found.files]


def test_a_folder_gives_its_files_of_known_formats_in_order(folder: Path) -> None:
    write(folder / "docs/b.txt", folder / "docs/a.MD", folder / "docs/sub/c.txt")
    assert ids(search("docs")) == ["docs/a.MD", "docs/b.txt", "docs/sub/c.txt"]


def test_sizes_are_kept_for_the_progress(folder: Path) -> None:
    (folder / "a.txt").write_text("four")
    assert [file.size for file in search("a.txt").files] == [4]


def test_unknown_formats_in_folders_are_counted_and_said(folder: Path) -> None:
    write(*(folder / "docs" / name for name in ("a.txt", "1.png", "2.PNG", "x.bin", "Makefile")))
    found = search("docs")
    assert ids(found) == ["docs/a.txt"]
    assert (
        found.passed_over.remark() == "passed over 4 files of unknown format: .png ×2, .bin ×1, no suffix ×1"
    )


def test_a_file_named_on_its_own_is_taken_whatever_its_format(folder: Path) -> None:
    write(folder / "notes.weird", folder / ".hidden")
    assert ids(search("notes.weird", ".hidden")) == ["notes.weird", ".hidden"]


def test_hidden_files_and_folders_are_passed_over(folder: Path) -> None:
    write(folder / "docs/.secret.txt", folder / "docs/.git/a.txt", folder / "docs/a.txt")
    found = search("docs")
    assert ids(found) == ["docs/a.txt"]
    assert found.passed_over.remark() == "passed over 2 hidden files or folders"


def test_links_are_followed_only_inside_the_folder(folder: Path) -> None:
    write(folder / "outside.txt", folder / "away/b.txt", folder / "docs/sub/a.txt")
    (folder / "docs/out.txt").symlink_to(folder / "outside.txt")
    (folder / "docs/away").symlink_to(folder / "away")
    (folder / "docs/in.txt").symlink_to("sub/a.txt")
    (folder / "docs/loop").symlink_to(folder / "docs")
    found = search("docs")
    assert ids(found) == ["docs/in.txt", "docs/sub/a.txt"]
    assert found.passed_over.remark() == "passed over 2 links that lead outside"


def test_links_to_nothing_and_special_files_are_passed_over(folder: Path) -> None:
    write(folder / "docs/a.txt")
    (folder / "docs/broken.txt").symlink_to("gone.txt")
    os.mkfifo(folder / "docs/pipe.txt")
    found = search("docs")
    assert ids(found) == ["docs/a.txt"]
    assert found.passed_over.remark() == "passed over 2 links to nothing or special files"


def test_a_folder_that_is_itself_a_link_was_named_on_purpose(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/a.txt")
    (folder / "docs").symlink_to(tmp_path / "elsewhere")
    assert ids(search("docs")) == ["docs/a.txt"]


def test_patterns_narrow_folders_and_take_any_format(folder: Path) -> None:
    write(*(folder / "docs" / name for name in ("a.log", "a.txt", "old/b.log", "old/c.txt")))
    assert ids(search("docs", patterns=("*.log",))) == ["docs/a.log", "docs/old/b.log"]
    assert ids(search("docs", patterns=("old/*.txt", "a.log"))) == ["docs/a.log", "docs/old/c.txt"]


def test_a_quoted_glob_is_expanded_here(folder: Path) -> None:
    write(folder / "docs/a.md", folder / "docs/x.bin", folder / "docs/sub/b.md")
    assert ids(search("docs/**/*.md")) == ["docs/a.md", "docs/sub/b.md"]
    assert ids(search("docs/x*")) == ["docs/x.bin"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(folder: Path) -> None:
    write(folder / "a[1].txt", folder / "a1.txt")
    assert ids(search("a[1].txt")) == ["a[1].txt"]


def test_each_file_comes_once(folder: Path) -> None:
    write(folder / "docs/a.txt")
    assert ids(search("docs", "docs/a.txt", "docs/../docs/a.txt", "docs/*.txt")) == ["docs/a.txt"]


def test_outside_the_working_folder_the_id_is_the_absolute_path(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "other/a.txt")
    assert ids(search(tmp_path / "other")) == [(tmp_path / "other/a.txt").as_posix()]


def test_ids_are_relative_to_the_base(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "other/sub/a.txt", folder / "b.txt")
    found = search(tmp_path / "other/sub", "b.txt", base=tmp_path / "other")
    assert ids(found) == ["sub/a.txt"]
    assert [problem.path for problem in found.problems] == ["b.txt"]
    assert "outside the base" in found.problems[0].message


def test_what_is_not_there_is_a_problem_and_the_others_go_on(folder: Path) -> None:
    write(folder / "a.txt")
    found = search("gone.txt", "none/*.md", "a.txt")
    assert ids(found) == ["a.txt"]
    assert [(problem.path, problem.message.partition(";")[0]) for problem in found.problems] == [
        ("gone.txt", "there is no such file or folder"),
        ("none/*.md", "nothing matches this pattern"),
    ]


def test_what_is_no_file_cannot_be_ingested(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    assert "is no regular file" in search("pipe").problems[0].message


@pytest.mark.parametrize("where", ["named", "in a folder"])
def test_a_name_that_is_no_text_is_a_problem_of_its_own(folder: Path, where: str) -> None:
    if sys.platform == "darwin":  # its file system refuses such names to begin with
        return
    odd = os.fsdecode(b"docs/\xff.txt")
    write(folder / "docs/a.txt", folder / odd)
    found = search("docs") if where == "in a folder" else search(odd, "docs/a.txt")
    assert ids(found) == ["docs/a.txt"]
    assert "lone surrogate" in found.problems[0].message
    assert found.problems[0].path.endswith("\ufffd.txt")


def test_a_folder_without_files_gives_nothing(folder: Path) -> None:
    (folder / "docs").mkdir()
    found = search("docs")
    assert (found.files, found.problems, found.passed_over.remark()) == ([], [], "")
