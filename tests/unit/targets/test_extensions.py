"""Targets of other packages: found, loaded only when asked for, and what is broken in one hides no other."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from effc.compiler.settings import load_settings
from effc.errors import ConfigError, EffcWarning, MissingDependencyError
from effc.targets import Origin, Package, all_targets, extensions_found, find_target
from tests.unit.targets.extension_packages import Install, packages_on_the_path

SOUND = """
from dataclasses import replace
from effc.targets import Extension, find_target
EXTENSION = Extension("{name}", (replace(find_target("cpu"), name="{target}", family="{family}"),), "{hooks}")
"""


def sound(name: str, target: str = "", family: str = "cpu", hooks: str = "") -> str:
    return SOUND.format(name=name, target=target or name, family=family, hooks=hooks)


@pytest.fixture
def install(tmp_path: Path) -> Iterator[Install]:
    with packages_on_the_path(tmp_path) as function:
        yield function


def test_a_package_is_loaded_only_for_a_target_that_is_not_effcs_own(install: Install) -> None:
    module = install("acme", sound("acme", "acme:one", hooks="acme.hooks:HOOKS"), package="acme-effc")
    assert find_target("cpu").origin is None
    assert module not in sys.modules
    target = find_target("acme:one")
    assert module in sys.modules
    assert target.origin == Origin("acme", Package("acme-effc", "1.0"), "acme.hooks:HOOKS")
    assert "acme:one" not in {one.name for one in all_targets()}


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("1 / 0", "importing .* raises ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "importing .* raises SystemExit: 3"),
        ("EXTENSION = 5", "is a int, not an effc.targets.Extension"),
        (sound("other"), "its name is 'other', that of its entry point 'acme'"),
        (sound("acme", family="quantum"), "target acme is of family 'quantum', but effc has c99, cpu"),
        (sound("acme", "ACME 1"), "the name 'ACME 1' of a target holds more than"),
        (sound("acme", hooks="acme.hooks"), "its hooks, 'acme.hooks', are not written package.module:NAME"),
        ("from effc.targets import Extension\nEXTENSION = Extension('acme', ('cpu',))", "'cpu' among its targets is no Target"),
        ("from effc.targets import Extension\nEXTENSION = Extension('acme', ())", "its targets are no tuple of at least one Target"),
    ],
)
def test_what_is_broken_is_named_when_it_is_chosen_and_hides_nothing(install: Install, source: str, fault: str) -> None:
    install("acme", source)
    install("sound", sound("sound"))
    found = {one.name: one for one in extensions_found()}
    assert found["acme"].targets == () and found["sound"].fault == ""
    assert find_target("sound").name == "sound"
    with pytest.raises(MissingDependencyError, match=f"target acme of package acme 1.0 cannot be used: .*{fault}"):
        find_target("acme")
    with pytest.raises(ConfigError, match=f"no target 'acme-2'(.|\n)*acme 1.0: acme: .*{fault}"):  # it might have been one of its
        find_target("acme-2")


def test_all_that_is_wrong_with_one_is_said_at_once(install: Install) -> None:
    install("acme", sound("other", "x86-64-v3"))
    (found,) = extensions_found()
    assert "its name is 'other'" in found.fault and "'x86-64-v3' is the name of another target" in found.fault


def test_effcs_own_names_stay_effcs(install: Install) -> None:
    install("acme", sound("acme", "riscv64"))
    assert find_target("riscv64").origin is None
    (found,) = extensions_found()
    assert found.fault == "'riscv64' is the name of another target"


def test_of_two_packages_with_a_target_of_one_name_neither_wins(install: Install) -> None:
    install("one", sound("one", "npu"))
    install("two", sound("two", "npu"), version="2.0")
    install("three", sound("three"))
    with pytest.raises(MissingDependencyError, match=r"target npu of package one 1.0 cannot be used: npu is also a name of two 2.0"):
        find_target("npu")
    assert find_target("three").name == "three"


def test_a_configuration_says_where_its_target_came_from(install: Install) -> None:
    with pytest.raises(ConfigError, match=r"no target 'acme' here: it came from the package acme-effc 0.9, which is not installed"):
        find_target("acme", "acme-effc 0.9")
    install("acme", sound("acme"), package="acme-effc")
    with pytest.warns(EffcWarning, match="target acme: the configuration was made with acme-effc 0.9, installed is acme-effc 1.0"):
        find_target("acme", "acme-effc 0.9")
    assert find_target("acme", "acme-effc 1.0").name == "acme"


def test_another_target_than_the_configurations_did_not_come_from_its_package(tmp_path: Path) -> None:
    config = tmp_path / "effc.toml"
    config.write_text('target = "acme"\ntarget-package = "acme-effc 1.0"\n')
    assert load_settings(config, {}).target_package == "acme-effc 1.0"
    assert load_settings(config, {"target": "toy"}).target_package == ""
