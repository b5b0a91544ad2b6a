#!/usr/bin/env bash
# Makes the binaries of SPIRE, with which tests/it/spire.rs is run, in target/tools/bin: scripts/spire.sh
#
# Needs Go and a C compiler, some 2 GB and ten minutes, once. Does nothing if that version is there. Then: scripts/test.sh, or
# cargo test --test it -- --ignored spire::
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=1.13.3
bin=$PWD/target/tools/bin
if "$bin/spire-server" --version 2>&1 | grep -qF "$version" && [ -x "$bin/spire-agent" ]; then
  echo "SPIRE $version is in $bin"
  exit 0
fi
command -v go >/dev/null || { echo "go is missing: https://go.dev/doc/install, or SPIRE's own release: https://github.com/spiffe/spire/releases, with spire-server and spire-agent on the PATH"; exit 1; }

module=$PWD/target/tools/spire
mkdir -p "$module" "$bin"
cd "$module"
rm -f go.mod go.sum
go mod init tools >/dev/null 2>&1
package=github.com/spiffe/spire/cmd
go get -tool "$package/spire-server@v$version" "$package/spire-agent@v$version"
echo "building; this takes minutes"
GOBIN=$bin go install -ldflags "-X github.com/spiffe/spire/pkg/common/version.gittag=$version" "$package/spire-server" "$package/spire-agent"
"$bin/spire-server" --version
