"""Which folders are packages; everything else stands in setup.cfg."""

from setuptools import find_packages, setup

# configs/ stays at the top of the repository, and is installed as the data of stmoe_hf.configs.
setup(
    packages=[*find_packages(include=["stmoe_hf*"]), "stmoe_hf.configs"],
    package_dir={"stmoe_hf.configs": "configs"},
)
