"""Package metadata comes from settings.ini, the one place where it is written."""
from configparser import ConfigParser
from pathlib import Path
from shlex import split

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(here / "settings.ini", encoding="utf8")
cfg = parser["DEFAULT"]

setup(
    name=cfg["lib_name"], version=cfg["version"], description=cfg["description"], license="Apache-2.0",
    long_description=(here / "README.md").read_text(encoding="utf8"), long_description_content_type="text/markdown",
    url=cfg["git_url"], author=cfg["author"], keywords=cfg["keywords"], python_requires=f">={cfg['min_python']}",
    # what the repository ships under data/ (core.embedded finds it) becomes hotseg/embedded/ in a wheel
    packages=find_packages(include=["hotseg", "hotseg.*"]) + ["hotseg.embedded"], package_dir={"hotseg.embedded": "data"},
    package_data={"hotseg.embedded": ["README.md", "splits/**/*", "small/**/*", "models/**/*"], "hotseg.explore": ["*.js", "*.css"]},
    install_requires=split(cfg["requirements"]), 
    extras_require={extra: split(cfg[f"{extra}_requirements"]) for extra in ("dev", "sweep", "track", "app", "onnx")},
    entry_points={"console_scripts": split(cfg["console_scripts"])},
)
