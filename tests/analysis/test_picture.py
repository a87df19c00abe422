import pytest
from matplotlib.figure import Figure

from r1lab.analysis.picture import write_picture


def test_the_picture_is_whole_or_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    write_picture(Figure(), path)
    old = path.read_bytes()
    assert old.startswith(b"\x89PNG")

    def dies(figure, file):
        file.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", dies)
    with pytest.raises(KeyboardInterrupt):
        write_picture(Figure(), path)
    assert path.read_bytes() == old
