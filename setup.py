"""What pyproject.toml has no word for: a module that is needed to develop the packages and belongs to none of them."""

from setuptools import setup
from setuptools.command.build_py import build_py

DEVELOPMENT = {("protos", "generate")}


class BuildPy(build_py):
    """Leaves out of wheels what only the sdist needs."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Package, name and file of each module of a package."""
        found = super().find_package_modules(package, package_dir)
        return [(owner, name, file) for owner, name, file in found if (owner, name) not in DEVELOPMENT]


setup(cmdclass={"build_py": BuildPy})
