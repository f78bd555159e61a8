from __future__ import annotations


def test_the_page_is_written_into_the_folder_or_where_told(run, tmp_path):
    (tmp_path / "a.csv").write_text("rates,wer\n4,0.5\n")
    result = run("report", tmp_path)
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'report.html'}\n")
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    run("report", tmp_path, "--out", tmp_path / "b.html")
    assert (tmp_path / "b.html").read_text() == page, "an earlier page is no result"


def test_what_cannot_be_read_or_written_is_refused(refused, tmp_path):
    assert "missing is not a folder" in refused("report", tmp_path / "missing")
    (tmp_path / "a.csv").write_text("rates,wer\n")
    assert "is a folder: give the name of a file" in refused("report", tmp_path, "--out", tmp_path)
