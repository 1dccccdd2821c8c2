"""A user's error is its message, wherever it is raised."""

import pytest
import torch

from lit_ad.errors import UserError


def test_an_error_of_a_loaders_worker_is_its_message() -> None:
    """torch hands it over as the text of a traceback."""

    class Broken(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> int:
            raise UserError(f"cannot read {index}.png")

    with pytest.raises(UserError) as error:
        list(torch.utils.data.DataLoader(Broken(), num_workers=1))
    assert str(error.value) == "cannot read 0.png"
