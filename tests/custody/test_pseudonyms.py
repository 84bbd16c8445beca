"""The secret of pseudonyms: made once and told, its owner's alone, and never a part of one taken for it."""

import stat

import pytest

from privae.custody import pseudonyms
from privae.custody.pseudonyms import pseudonym_key
from privae.errors import ArtifactError, UsageError


def test_the_secret_is_made_once_and_kept(tmp_path, monkeypatch):
    place = tmp_path / "x" / "p.key"
    made, again = pseudonym_key(place), pseudonym_key(place)
    assert (made.created, again.created) == (True, False)
    assert made.secret == again.secret
    assert len(made.secret) == 32
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert made.secret.hex() not in repr(made)
    monkeypatch.setenv(pseudonyms.PLACE, str(place))
    assert pseudonym_key().secret == made.secret


def test_another_is_not_made_where_the_old_one_is_needed(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        pseudonym_key(tmp_path / "p.key", make=False)
    assert not (tmp_path / "p.key").exists()


@pytest.mark.parametrize("content", [b"", b"ab" * 31, b"AB" * 32, b"ab" * 32 + b"\n\n", b"\xff" * 64])
def test_what_is_no_secret_is_refused_and_not_shown(tmp_path, content):
    place = tmp_path / "p.key"
    place.write_bytes(content)
    place.chmod(0o600)
    with pytest.raises(ArtifactError, match="64 hexadecimal digits"):
        pseudonym_key(place)
    place.chmod(0o644)
    with pytest.raises(UsageError, match="others may read"):
        pseudonym_key(place)
