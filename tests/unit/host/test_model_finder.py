"""Which model files there are, and where links lead."""

from __future__ import annotations

from pathlib import Path

from agent.host.model_finder import find_model, model_folders, models_beside, pinned


def test_a_link_to_a_model_is_followed_and_a_hub_cache_is_not(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    blob = tmp_path / "blobs/4f2a"
    blob.touch()
    (tmp_path / "snapshots").mkdir()
    hub = tmp_path / "snapshots/m.gguf"
    hub.symlink_to("../blobs/4f2a")
    current = tmp_path / "current.gguf"
    current.symlink_to("snapshots/m.gguf")
    assert pinned(str(current)) == str(hub)
    assert pinned(str(hub)) == str(hub)


def test_a_link_that_leads_nowhere_or_in_a_circle_is_left_alone(tmp_path: Path) -> None:
    lost, one, two = (str(tmp_path / f"{name}.gguf") for name in ("lost", "one", "two"))
    Path(lost).symlink_to("gone.gguf")
    Path(one).symlink_to(two)
    Path(two).symlink_to(one)
    assert [pinned(path) for path in (lost, one, "/no/such.gguf")] == [lost, one, "/no/such.gguf"]


def test_models_lie_beside_those_in_use(tmp_path: Path) -> None:
    store = tmp_path / "store/big"
    store.mkdir(parents=True)
    for name in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "note.txt"):
        (store / name).touch()
    (tmp_path / "small.gguf").touch()
    current = tmp_path / "current.gguf"
    current.symlink_to("store/big/m-00001-of-00002.gguf")
    assert models_beside([str(current)]) == (
        str(tmp_path / "small.gguf"),
        str(store / "m-00001-of-00002.gguf"),
    )
    folders = model_folders([str(current)])
    assert str(tmp_path / "store") in folders
    assert find_model(("other/x.gguf", "big/m-00001-of-00002.gguf"), folders) == str(
        store / "m-00001-of-00002.gguf"
    )
    assert find_model(("x.gguf",), folders) is None
    assert models_beside([str(tmp_path / "gone/x.gguf")]) == ()
