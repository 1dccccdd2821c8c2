"""A benchmark without a config file: methods by name, and a folder as the source."""

from pathlib import Path

import pytest
import yaml

from lit_ad.benchmark.own_folder import find_config_of, list_sources, make_method_specs, save_config
from lit_ad.benchmark.plan import Budget, MethodSpec
from lit_ad.errors import UserError
from lit_ad.methods import __all__ as METHODS


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_config_file(method: str) -> None:
    assert yaml.safe_load(find_config_of(method).read_text())["model"]["class_path"] == f"lit_ad.methods.{method}"


def test_methods_are_given_by_name_or_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    specs = make_method_specs(["L2BT", str(file)])
    assert list(specs) == ["L2BT", "mine"] and specs["mine"].config == str(file)
    assert make_method_specs({"a": MethodSpec(str(file))}) == {"a": MethodSpec(str(file))}
    with pytest.raises(UserError, match="methods has a name twice: L2BT, L2BT"):
        make_method_specs(["L2BT", "L2BT"])


def test_the_message_about_another_layout_names_the_remedy(parts: Path) -> None:
    for root in (parts, parts / "nut"):
        assert list_sources(root, {})[root.name]["init_args"] == {"root": str(root)}
    with pytest.raises(UserError, match=r"has no folder train/good .*class_path: Folder"):
        list_sources(parts / "nut/train", {})


def test_the_config_file_has_all_arguments(tmp_path: Path) -> None:
    asked = {"output": tmp_path, "seeds": (0, 1), "budget": Budget(minutes=5), "only": ()}
    file = save_config(tmp_path, {**asked, "methods": {"a": MethodSpec(str(tmp_path / "a.yaml"))}})
    saved = yaml.safe_load(file.read_text())
    assert saved == {
        "output": str(tmp_path),
        "seeds": [0, 1],
        "budget": {"minutes": 5},
        "methods": {"a": {"config": str(tmp_path / "a.yaml")}},
    }


def test_a_misspelt_method_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"there is no method STFPN with a config file in .*: did you mean STFPM\?"):
        make_method_specs(["STFPN"])
    with pytest.raises(UserError, match=r"there is no method Nothing .*: give its config file, FILE.yaml"):
        make_method_specs(["Nothing"])
