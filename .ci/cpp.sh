#!/usr/bin/env bash
# Install what `make cpp` needs, on Debian as root: CMake, a compiler, OpenCV, nlohmann's JSON, and ONNX Runtime's headers.
# Debian 12 has no package of ONNX Runtime, so its headers (and nothing else) come from the package of Debian 13. The
# library itself is that of the Python package onnxruntime, which also runs programs that were built with older headers.
set -euo pipefail
[ "$(id -u)" = 0 ] && command -v apt-get > /dev/null || { echo "run this as root on Debian"; exit 1; }
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq --no-install-recommends cmake g++ pkg-config libopencv-dev nlohmann-json3-dev zlib1g-dev > /dev/null
if apt-cache show libonnxruntime-dev > /dev/null 2>&1; then
  apt-get install -qq --no-install-recommends libonnxruntime-dev > /dev/null
elif [ ! -e /usr/local/include/onnxruntime/onnxruntime_cxx_api.h ]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  mkdir -p "$folder/lists" "$folder/cache/archives/partial"
  sed -e 's/bookworm-updates//; s/bookworm-security//; s/bookworm/trixie/' /etc/apt/sources.list.d/debian.sources \
    | awk -v RS= '/Suites: *trixie/' ORS='\n\n' > "$folder/next.sources"
  cat > "$folder/apt.conf" <<EOF
Dir::Etc::SourceList "$folder/next.sources";
Dir::Etc::SourceParts "-";
Dir::State::Lists "$folder/lists";
Dir::Cache "$folder/cache";
APT::Sandbox::User "root";
EOF
  export APT_CONFIG=$folder/apt.conf
  apt-get update -qq
  (cd "$folder" && apt-get download -qq libonnxruntime-dev > /dev/null && dpkg -x libonnxruntime-dev_*.deb unpacked)
  cp -r "$folder/unpacked/usr/include/onnxruntime" /usr/local/include/
fi
