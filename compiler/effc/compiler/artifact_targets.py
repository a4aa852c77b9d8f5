"""What an artifact's code is for: its target in this effc's tables and in those of installed packages, which say what emulates it.

Of the artifact only the name is taken: what it says itself of tools and their options is never run.
"""

from __future__ import annotations

from effc.errors import MissingDependencyError
from effc.runtime import Artifact
from effc.targets import Target, known_target

__all__ = ["target_of"]


def target_of(artifact: Artifact) -> Target | None:
    """The target; None where it is of an effc that has others.

    Raises:
        MissingDependencyError: it is of a package that is not installed, or broken.
    """
    described = artifact.manifest.data["target"]
    name, extension = str(described.get("name")), described.get("extension")
    target = known_target(name)
    if target is None and isinstance(extension, dict):
        package, version = extension.get("package"), extension.get("version")
        raise MissingDependencyError(
            f"target {name} is of the package {package} {version}, not installed here; pip install {package}=={version}"
        )
    return target
