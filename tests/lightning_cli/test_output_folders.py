"""Folders that cannot be written to are refused before a training."""

from pathlib import Path

import pytest
from jsonargparse import Namespace

from lit_ad.errors import UserError
from lit_ad.lightning_cli.output_folders import check_output_folders


def config(checkpoint: str | None = None, profiler: str | None = None, callback: str | None = None) -> Namespace:
    made = [
        Namespace(class_path=name, init_args=Namespace(dirpath=folder))
        for name, folder in (("SimpleProfiler", profiler), ("ModelCheckpoint", callback))
    ]
    return Namespace(
        checkpoint=Namespace(dirpath=checkpoint),
        trainer=Namespace(profiler=made[0], callbacks=[made[1], Namespace(class_path="Timer", init_args=Namespace())]),
    )


@pytest.mark.parametrize(
    ("key", "setting"),
    [
        ("checkpoint", "checkpoint.dirpath"),
        ("profiler", "trainer.profiler: SimpleProfiler.dirpath"),
        ("callback", "trainer.callbacks: ModelCheckpoint.dirpath"),
    ],
)
def test_a_folder_that_cannot_be_written_is_refused_by_its_key(key: str, setting: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match=f"^cannot write {file}/x: Not a directory; give another {setting}$"):
        check_output_folders(config(**{key: str(file / "x")}))
    check_output_folders(config(**{key: str(tmp_path / "new")}))
    assert list(tmp_path.iterdir()) == [file]


def test_missing_settings_and_addresses_are_not_checked() -> None:
    check_output_folders(config("s3://bucket/run"))
    for profiler, callbacks in ((None, None), ("simple", Namespace(class_path="Timer", init_args=Namespace()))):
        trainer = Namespace(profiler=profiler, callbacks=callbacks)
        check_output_folders(Namespace(checkpoint=Namespace(dirpath=None), trainer=trainer))
