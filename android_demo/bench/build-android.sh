#!/bin/sh
# Build the bench program for Android with the NDK: build-android.sh [ABI]
set -eu
abi=${1:-arm64-v8a}
here=$(cd "$(dirname "$0")" && pwd)
ndk=${ANDROID_NDK_HOME:-${ANDROID_NDK:-}}
toolchain=$ndk/build/cmake/android.toolchain.cmake
if [ ! -f "$toolchain" ]; then
  echo "no NDK: install it (Android Studio: SDK Manager, SDK Tools, NDK) and set ANDROID_NDK_HOME to its folder" >&2
  exit 2
fi
cmake -S "$here" -B "$here/build/$abi" -DCMAKE_TOOLCHAIN_FILE="$toolchain" -DANDROID_ABI="$abi" \
  -DANDROID_PLATFORM=android-23 -DCMAKE_BUILD_TYPE=Release
cmake --build "$here/build/$abi"
echo "$here/build/$abi/mtp-bench"
