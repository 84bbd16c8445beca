"""Keys of accounts: 64 digits in a file of the owner's alone or in the environment, and no word of them in an error."""

import os

import pytest

from privae.custody import accounts
from privae.errors import UsageError

KEY = "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318"


def kept(path, text, mode=0o600):
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("text", [KEY, f"0x{KEY}\n", f"  {KEY.upper()} "])
def test_a_key_is_read_from_a_file_or_the_environment(tmp_path, monkeypatch, text):
    monkeypatch.setenv(accounts.PLACE, text)
    assert (
        accounts.private_key(None) == accounts.private_key(kept(tmp_path / "k", text)) == bytes.fromhex(KEY)
    )


@pytest.mark.parametrize(
    "text",
    ["", KEY[:-1], KEY + "0", "z" + KEY[1:], "0" * 64, "f" * 64, f"0X{KEY}", f"{KEY}\n{KEY}", "٣" * 64],
)
def test_what_is_no_key_is_refused_without_a_word_of_it(tmp_path, monkeypatch, text):
    monkeypatch.setenv(accounts.PLACE, text)
    for path in (kept(tmp_path / "k", text), None):
        with pytest.raises(UsageError) as caught:
            accounts.private_key(path)
        assert KEY[:8] not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_key_that_others_may_read_is_refused(tmp_path):
    with pytest.raises(UsageError, match="others may read"):
        accounts.private_key(kept(tmp_path / "k", KEY, 0o644))


def test_links_pipes_folders_and_nothing_are_no_keys(tmp_path):
    kept(tmp_path / "k", KEY)
    (tmp_path / "link").symlink_to(tmp_path / "k")
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, said in [("link", "link"), ("pipe", "regular"), (".", "regular"), ("none", "no such file")]:
        with pytest.raises(UsageError, match=said):
            accounts.private_key(tmp_path / name)


def test_a_key_of_somebody_else_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(accounts.os, "geteuid", lambda: 12345)
    with pytest.raises(UsageError, match="another user"):
        accounts.private_key(kept(tmp_path / "k", KEY))
