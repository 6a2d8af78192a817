"""Builds the C++ core beside the package; everything else is in pyproject.toml.

The core has a plain C interface and is loaded with ctypes: it includes neither Python's headers nor torch's, and a C++17 compiler
is all it needs. It goes through `Extension` because that is what puts it into wheels and editable installs alike.
"""

from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("csrc")

setup(
    ext_modules=[
        Extension(
            "graphckpt._core",
            sources=sorted(str(path) for path in SOURCES.glob("*.cpp")),
            depends=sorted(str(path) for path in SOURCES.glob("*.h")),
            include_dirs=[str(SOURCES)],
            extra_compile_args=["-std=c++17", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror=return-type"],
            language="c++",
        )
    ]
)
