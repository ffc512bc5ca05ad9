#!/usr/bin/env bash
# Fetch what `make test-android` runs things with, into one folder, without root: an ARM64 compiler and emulator, aapt2
# with Android's framework resources (Debian's packages, unpacked), the Kotlin compiler (npm), LiteRT-LM's engine for
# ARM64 Linux and for Android, and in the oldest version that bundles ask for (PyPI). What cannot be had is named; the
# tests that need it then skip and say so.
#
# usage: fetch-tools.sh FOLDER PYTHON
set -uo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
python=$2
here=$(cd "$(dirname "$0")" && pwd)
root=$folder/debian
missing=()

LITERT_LM=$("$python" -c 'from importlib.metadata import version; print(version("litert-lm-api"))')
OLDEST=$(sed -n 's/^MIN_RUNTIME_VERSION = "\(.*\)"/\1/p' "$here/../../export/bundle/metadata.py")
KOTLIN=$(sed -n 's/^kotlin = "\(.*\)"/\1/p' "$here/../../android_demo/gradle/libs.versions.toml")

# part NAME FUNCTION VERSION: run it once per version; its mark is made when all of it was done.
part() {
  local mark=$folder/.done-$1
  [ -e "$mark" ] && [ "$(cat "$mark")" = "$3" ] && return
  rm -f "$mark"
  echo "== android tools: $1"
  # Not as a condition: there, the shell would go on after an error.
  (set -e; "$2")
  if [ $? -eq 0 ]; then
    echo "$3" > "$mark"
    return
  fi
  echo "!! android tools: $1 cannot be had here; its tests will be skipped" >&2
  missing+=("$1")
}

# debian PACKAGE...: unpack Debian's packages below $root.
debian() {
  command -v apt-get dpkg > /dev/null
  local packages
  packages=$(mktemp -d)
  chmod 755 "$packages"
  (cd "$packages" && { apt-get download -q "$@" || { apt-get update -q && apt-get download -q "$@"; }; }) > "$folder/apt.log" 2>&1 ||
    { tail -3 "$folder/apt.log" >&2; return 1; }
  mkdir -p "$root"
  for package in "$packages"/*.deb; do dpkg -x "$package" "$root"; done
  rm -rf "$packages"
}

# Runs aarch64 programs: the emulator, their libraries, and the processor that the engine is to see. Without the last, its
# choice of kernels goes by this machine's /proc/cpuinfo and ends in SIGILL.
emulator() {
  debian qemu-user-static libc6-arm64-cross libgcc-s1-arm64-cross
  find "$root/usr/bin" -name 'qemu-*' ! -name qemu-aarch64-static -delete
  mkdir -p "$folder/prefix/proc"
  cp -r "$root/usr/aarch64-linux-gnu/lib" "$folder/prefix/"
  for core in 0 1 2 3; do
    printf 'processor\t: %s\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp\n' "$core"
    printf 'CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\nCPU revision\t: 1\n\n'
  done > "$folder/prefix/proc/cpuinfo"
  "$root/usr/bin/qemu-aarch64-static" --version > /dev/null
}

compiler() {
  local version
  version=$(apt-cache depends gcc-aarch64-linux-gnu | sed -n 's/.*Depends: gcc-\([0-9]*\)-aarch64-linux-gnu$/\1/p')
  if [ -z "$version" ]; then
    apt-get update -q > /dev/null 2>&1
    version=$(apt-cache depends gcc-aarch64-linux-gnu | sed -n 's/.*Depends: gcc-\([0-9]*\)-aarch64-linux-gnu$/\1/p')
  fi
  debian "gcc-$version-aarch64-linux-gnu" "cpp-$version-aarch64-linux-gnu" "libgcc-$version-dev-arm64-cross" \
    binutils-aarch64-linux-gnu libc6-dev-arm64-cross libc6-arm64-cross linux-libc-dev-arm64-cross libgcc-s1-arm64-cross
  cat > "$folder/aarch64-cc" << END
#!/bin/sh
LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu exec $root/usr/bin/aarch64-linux-gnu-gcc-$version --sysroot=$root \\
  -B$root/usr/bin -B$root/usr/bin/aarch64-linux-gnu- "\$@"
END
  chmod +x "$folder/aarch64-cc"
  echo 'int main(void) { return 0; }' | "$folder/aarch64-cc" -x c - -o /dev/null
}

aapt2() {
  debian aapt android-libaapt android-libandroidfw android-libbase android-liblog android-libutils android-libcutils \
    android-libziparchive android-libbacktrace android-framework-res libprotobuf-lite32 p7zip p7zip-full
  cat > "$folder/aapt2" << END
#!/bin/sh
LD_LIBRARY_PATH=\$(echo $root/usr/lib/x86_64-linux-gnu/android $root/usr/lib/x86_64-linux-gnu $root/usr/lib/p7zip | tr ' ' :) \\
  exec $root/usr/bin/aapt2 "\$@"
END
  chmod +x "$folder/aapt2"
  "$folder/aapt2" version > /dev/null 2>&1
}

kotlin() {
  command -v java npm > /dev/null
  npm install --prefix "$folder/kotlin" --no-audit --no-fund --loglevel=error "kotlin-compiler@$KOTLIN"
}

# engine FOLDER PLATFORM [VERSION]: the engine's library from the wheel for a platform.
engine() {
  local wheel
  wheel=$(mktemp -d)
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --platform "$2" \
    --dest "$wheel" "litert-lm-api==${3:-$LITERT_LM}"
  mkdir -p "$folder/engines/$1"
  "$python" -m zipfile -e "$wheel"/*.whl "$wheel/unpacked"
  mv "$wheel/unpacked/litert_lm/liblitert-lm.so" "$folder/engines/$1/"
  rm -rf "$wheel"
}
engine_linux() { engine aarch64-linux manylinux_2_27_aarch64; }
engine_android() { engine arm64-v8a android_23_arm64_v8a; }
# For this machine, of the version that bundles ask for.
engine_oldest() { engine oldest "manylinux_2_27_$(uname -m)" "$OLDEST"; }

part emulator emulator 1
part compiler compiler 1
part aapt2 aapt2 1
part kotlin kotlin "$KOTLIN"
part engine-linux engine_linux "$LITERT_LM"
part engine-android engine_android "$LITERT_LM"
part engine-oldest engine_oldest "$OLDEST"
[ ${#missing[@]} -eq 0 ] || echo "!! android tools: without ${missing[*]}" >&2
exit 0
