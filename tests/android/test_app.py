"""The app's sources by Kotlin's own compiler with Compose's plugin, against declared stubs; manifest and resources by
aapt2."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Protocol
from xml.etree import ElementTree

import pytest

from gemma_mtp.export.bundle.metadata import MIN_RUNTIME_VERSION
from tests.android.tools import DEMO

APP = DEMO / "app" / "src" / "main"
SOURCES = APP / "kotlin" / "dev" / "gemmamtp" / "demo"
STUBS = Path(__file__).parent / "stubs"
# What runs the app's sources, with an engine that stands in for its stub.
CHECKS = Path(__file__).parent / "checks"
ANDROID = "{http://schemas.android.com/apk/res/android}"
# Compose's plugin has checked the sources when it says so: stubs have no runtime that it could generate code for.
CHECKED = "The Compose Compiler requires the Compose Runtime"
# The others run without Compose.
SCREENS = ("DemoScreen.kt", "MainActivity.kt", "Panels.kt")


class Compile(Protocol):
    """Compiles sources into `classes` in a folder, with these resources' strings; returns what the compiler says."""

    def __call__(self, sources: Path, resources: Path, out: Path, *, compose: bool = True) -> str: ...


def write_stubs(folder: Path, resources: Path, stubs: Iterable[Path]) -> None:
    """Every package of the stubs as a file of its own, and what Android's build generates of the app."""
    folder.mkdir()
    for stub in stubs:
        head, *packages = re.split(r"^//: ([\w.]+)\n", stub.read_text("utf-8"), flags=re.MULTILINE)
        if not packages:
            shutil.copy(stub, folder)
        for name, content in zip(packages[::2], packages[1::2], strict=True):
            # The head has the file's annotations, before its own package.
            (folder / f"{name}.kt").write_text(f"{head.partition('package ')[0]}\npackage {name}\n\n{content}", "utf-8")
    strings = ElementTree.parse(resources / "values" / "strings.xml").getroot()
    names = "\n".join(f"const val {entry.get('name')} = {n}" for n, entry in enumerate(strings, 1))
    (folder / "generated.kt").write_text(
        "package dev.gemmamtp.demo\n"
        f"object R {{ object string {{\n{names}\n}} }}\n"
        'object BuildConfig { const val LITERT_LM = "0.0.0" }\n'
    )


@pytest.fixture(scope="session")
def compile_app(need: Callable[..., Path]) -> Compile:
    library = need("kotlin", "kotlin", "node_modules", "kotlin-compiler", "lib")

    def run(sources: Path, resources: Path, out: Path, *, compose: bool = True) -> str:
        stubs = {stub.name: stub for place in (STUBS, *([] if compose else [CHECKS])) for stub in place.glob("*.kt")}
        write_stubs(out / "stubs", resources, stubs.values())
        command = ["java", "-Xmx1g", "-cp", str(library / "kotlin-compiler.jar")]
        command += ["org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-no-reflect", "-nowarn", "-jvm-target", "17"]
        command += ["-kotlin-home", str(library.parent), "-classpath", str(library / "kotlinx-coroutines-core-jvm.jar")]
        command += [f"-Xplugin={library / 'compose-compiler-plugin.jar'}"] * compose
        command += ["-d", str(out / "classes"), str(sources), str(out / "stubs")]
        return subprocess.run(command, capture_output=True, text=True, check=False).stderr

    return run


def errors(messages: str) -> list[str]:
    return [line for line in messages.splitlines() if ": error:" in line]


def test_sources_pass_kotlins_and_composes_checks(compile_app: Compile, tmp_path: Path) -> None:
    messages = compile_app(SOURCES, APP / "res", tmp_path)
    assert errors(messages) == []
    assert CHECKED in messages


def test_what_needs_no_android_computes(compile_app: Compile, need: Callable[..., Path], tmp_path: Path) -> None:
    sources = shutil.copytree(SOURCES, tmp_path / "sources", ignore=shutil.ignore_patterns(*SCREENS))
    messages = compile_app(sources, APP / "res", tmp_path, compose=False)
    library = need("kotlin", "kotlin", "node_modules", "kotlin-compiler", "lib")
    path = [tmp_path / "classes", library / "kotlin-stdlib.jar", library / "kotlinx-coroutines-core-jvm.jar"]
    command = ["java", "-cp", ":".join(map(str, path)), "checks.ChecksKt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, messages + done.stderr


def test_renamed_calls_and_missing_resources_are_seen(compile_app: Compile, tmp_path: Path) -> None:
    sources = shutil.copytree(SOURCES, tmp_path / "sources")
    faults = {
        "engine/BundleFacts.kt": ("hasSpeculativeDecodingSupport", "supportsSpeculativeDecoding"),
        "engine/LoadedBundle.kt": ("enableSpeculativeDecoding = mtp", "speculativeDecoding = mtp"),
        # Compose's own rule: drawing is for functions that draw.
        "ui/Panels.kt": ("@Composable\nprivate fun Side", "private fun Side"),
        "bench/Measurement.kt": ("lastDecodeTokenCount", "decodeTokenCount"),
        "ui/DemoViewModel.kt": ("conversation.answer(message)", "conversation.answer()"),
        "bench/BenchmarkViewModel.kt": (
            "LoadedBundle.load(bundle, request.settings(bundle), ",
            "LoadedBundle.load(bundle, ",
        ),
    }
    for name, (old, new) in faults.items():
        content = (sources / name).read_text("utf-8")
        assert old in content
        (sources / name).write_text(content.replace(old, new), "utf-8")
    resources = shutil.copytree(APP / "res", tmp_path / "res")
    strings = resources / "values" / "strings.xml"
    strings.write_text(re.sub(r'.*name="no_gpu".*\n', "", strings.read_text("utf-8")), "utf-8")
    found = errors(compile_app(sources, resources, tmp_path))
    for name in [*faults, "ui/Say.kt"]:
        assert any(name in line for line in found), (name, found)


def link(aapt2: Path, main: Path, framework: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Compile and link the manifest and resources below `main`."""
    compiled, placed = out / "compiled.zip", out / "AndroidManifest.xml"
    done = subprocess.run([aapt2, "compile", "--dir", main / "res", "-o", compiled], capture_output=True, text=True)
    if done.returncode:
        return done
    # The build puts the package in from `namespace`; Debian's aapt2 is older than `uses-native-library` (Android 12).
    manifest = re.sub(r"<uses-native-library [^>]*/>", "", (main / "AndroidManifest.xml").read_text("utf-8"))
    placed.write_text(manifest.replace("<manifest ", '<manifest package="dev.gemmamtp.demo" ', 1), "utf-8")
    command = [aapt2, "link", "-o", out / "app.apk", "-I", framework, "--manifest", placed, compiled]
    command += ["--min-sdk-version", "26", "--target-sdk-version", "29"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_manifest_and_resources_link(need: Callable[..., Path], tmp_path: Path) -> None:
    aapt2 = need("aapt2", "aapt2")
    framework = need("aapt2", "debian", "usr", "share", "android-framework-res", "framework-res.apk")
    (tmp_path / "good").mkdir()
    done = link(aapt2, APP, framework, tmp_path / "good")
    assert done.returncode == 0, done.stderr
    for fault in ("name", "theme", "attribute"):
        main = shutil.copytree(APP, tmp_path / fault)
        path, old, new = {
            "name": (main / "res" / "values" / "strings.xml", 'name="app_name"', 'name="app_title"'),
            "theme": (main / "res" / "values" / "themes.xml", "Theme.Material.Light", "Theme.Materiel.Light"),
            "attribute": (main / "AndroidManifest.xml", "windowSoftInputMode", "softInput"),
        }[fault]
        path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")
        assert link(aapt2, main, framework, main).returncode, fault


def test_manifest_names_classes_that_exist_and_asks_for_nothing() -> None:
    manifest = ElementTree.parse(APP / "AndroidManifest.xml").getroot()
    assert manifest.findall("uses-permission") == []
    application = manifest.find("application")
    assert application is not None
    libraries = {
        entry.get(ANDROID + "name"): entry.get(ANDROID + "required")
        for entry in application.findall("uses-native-library")
    }
    assert libraries == {"libOpenCL.so": "false", "libvndksupport.so": "false"}
    for activity in application.findall("activity"):
        name = activity.get(ANDROID + "name") or ""
        path = APP / "kotlin" / Path(*name.split(".")).with_suffix(".kt")
        assert f"class {name.rpartition('.')[2]} " in path.read_text("utf-8")
    assert not (APP / "assets").exists()


def test_catalog_has_what_the_build_uses() -> None:
    catalog = tomllib.loads((DEMO / "gradle" / "libs.versions.toml").read_text("utf-8"))
    known = {name.replace("-", ".") for name in catalog["libraries"]}
    build = (DEMO / "app" / "build.gradle.kts").read_text("utf-8")
    assert set(re.findall(r"libs\.([\w.]+)\)", build)) - {"versions.litertlm.get("} <= known | {
        f"plugins.{name.replace('-', '.')}" for name in catalog["plugins"]
    }
    # The line of the runtime that bundles are tested on, and no older than they ask for: the app would refuse them.
    used = catalog["versions"]["litertlm"].split(".")
    assert used[:2] == version("litert-lm").split(".")[:2]
    assert [*map(int, used)] >= [*map(int, MIN_RUNTIME_VERSION.split("."))]
