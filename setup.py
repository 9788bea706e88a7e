"""Builds the native data plane: the Rust crate with cargo, then the Cython modules; only one of them links the crate.

Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
SOURCES = Path("src/_fastpath")
CRATE = ROOT / SOURCES
MODULES = ("native", "hashing", "verify", "log", "frames", "pool", "coin")
LINKING_MODULE = "native"
OLDEST_RUST = (1, 85)
# From this version on the compiler has stable AVX-512 intrinsics; hashing and curve code then pick them at run time.
AVX512_RUST = (1, 89)
LIMITED_API = "0x030B0000"  # CPython 3.11
# What a Rust static library needs from the system (`rustc --print native-static-libs`).
SYSTEM_LIBRARIES = {"linux": ["dl", "pthread", "m"], "darwin": ["iconv"]}

COMPILE_FLAGS = [
    *("-O2", "-ffunction-sections", "-fdata-sections", "-fvisibility=hidden"),
    *("-Wno-sign-compare", "-Wno-discarded-qualifiers"),  # what Cython writes, not what we wrote
]

PROBE = "#include <Python.h>\n#include <stdint.h>\n_Static_assert(sizeof(uint64_t) == 8, \"C11\");\n"


def fail(message: str) -> NoReturn:
    """End the build with one line instead of a traceback."""
    raise SystemExit(f"smartbft: {message}")


def check_c_compiler(compiler: Any, work: Path) -> None:
    """See that there is a C11 compiler and that it finds Python's headers."""
    command = getattr(compiler, "compiler_so", None)
    if command and shutil.which(command[0]) is None:
        fail(f"no C compiler ('{command[0]}' is not on the PATH): install one, e.g. 'apt install gcc libc6-dev'")
    work.mkdir(parents=True, exist_ok=True)
    probe = work / "probe.c"
    probe.write_text(PROBE)
    if not command:
        return
    includes = [f"-I{folder}" for folder in compiler.include_dirs]
    command_line = [*command, *includes, "-std=c11", "-c", str(probe), "-o", os.devnull]
    done = subprocess.run(command_line, capture_output=True, text=True)
    if done.returncode == 0:
        return
    if "Python.h" in done.stderr:
        fail("Python.h is missing: install Python's development headers, e.g. 'apt install python3-dev'")
    fail(f"'{command[0]}' cannot compile a C11 program: install a current C compiler, e.g. 'apt install gcc libc6-dev'")


def check_rust() -> tuple[int, int]:
    """The version of the Rust compiler, which must be new enough, with cargo beside it."""
    wanted = ".".join(map(str, OLDEST_RUST))
    advice = f"install Rust {wanted} or newer with cargo, e.g. with rustup or your distribution's packages"
    if shutil.which("cargo") is None:
        fail(f"cargo is not on the PATH: {advice}")
    for tool in ("cargo", os.environ.get("RUSTC", "rustc")):
        try:
            answer = subprocess.run([tool, "--version"], capture_output=True, text=True, cwd=CRATE)
        except OSError:
            fail(f"{tool} cannot be run: {advice}")
        found = re.search(r"(\d+)\.(\d+)\.\d+", answer.stdout)
        if answer.returncode != 0 or found is None:
            fail(f"'{tool} --version' failed: {advice}")
        version = (int(found[1]), int(found[2]))
        if version < OLDEST_RUST:
            fail(f"{tool} {found[0]} is too old: {advice}")
    return version


def cargo_environment(version: tuple[int, int]) -> dict[str, str]:
    """Cargo's environment: AVX-512 code compiled in where the compiler can, used where the CPU can."""
    environment = dict(os.environ)
    target = environment.get("CARGO_BUILD_TARGET", "")
    for_x86 = target.startswith("x86_64") if target else os.uname().machine in ("x86_64", "amd64")
    if version >= AVX512_RUST and for_x86:
        flags = environment.get("RUSTFLAGS", "")
        environment["RUSTFLAGS"] = f'{flags} --cfg fastpath_avx512 --cfg curve25519_dalek_backend="avx512"'.strip()
    return environment


def build_crate(target_folder: Path) -> Path:
    """Build the crate and return the path of its static library, as cargo reports it."""
    environment = cargo_environment(check_rust())
    command = ["cargo", "build", "--release", "--locked", "--target-dir", str(target_folder)]
    command += ["--message-format", "json-render-diagnostics"]
    done = subprocess.run(command, cwd=CRATE, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        fail("cargo could not build the native crate; its messages are above")
    for line in done.stdout.splitlines():
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("reason") == "compiler-artifact" and message["target"]["name"] == "fastpath":
            archives = [name for name in message["filenames"] if name.endswith((".a", ".lib"))]
            if archives:
                return Path(archives[0])
    fail("cargo reported no static library for the native crate")


class BuildFastpath(build_ext):
    """`build_ext` that compiles the crate first and hands it to the one extension that links it."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # A fixed place per interpreter (editable builds would use a temporary one), so that rebuilds are quick.
        self.build_temp = str(ROOT / "build" / f"temp-{sys.implementation.cache_tag}")

    def build_extensions(self) -> None:
        from Cython.Build import cythonize

        check_c_compiler(self.compiler, ROOT / "build" / "probe")
        archive = build_crate(ROOT / "build" / "cargo")
        for extension in self.extensions:
            (translated,) = cythonize(
                [extension],
                build_dir="build/cython",
                include_path=["src"],
                compiler_directives={"language_level": "3", "embedsignature": False, "freethreading_compatible": False},
                show_all_warnings=False,
                quiet=True,
            )
            extension.sources = translated.sources
            extension.depends = [str(SOURCES / "include" / "fastpath.h")]
            if extension.name.endswith("." + LINKING_MODULE):
                extension.extra_objects = [str(archive)]
                extension.depends.append(str(archive))
                extension.libraries = SYSTEM_LIBRARIES.get(sys.platform, [])
        super().build_extensions()


def extension(module: str) -> Extension:
    linux = sys.platform == "linux"
    return Extension(
        f"smartbft._fastpath.{module}",
        [str(SOURCES / f"{module}.pyx")],
        include_dirs=[str(SOURCES / "include")],
        define_macros=[("Py_LIMITED_API", LIMITED_API)],
        py_limited_api=True,
        extra_compile_args=COMPILE_FLAGS if linux else [],
        extra_link_args=["-Wl,--exclude-libs,ALL", "-Wl,--gc-sections", "-Wl,-s"] if linux else [],
    )


setup(
    ext_modules=[extension(module) for module in MODULES],
    cmdclass={"build_ext": BuildFastpath},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
