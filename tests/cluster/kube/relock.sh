#!/usr/bin/env bash
# Rewrites go.mod and go.sum for another Kubernetes version: relock.sh 1.35.4
# Kubernetes as a dependency needs each of its staging modules replaced by the published one.
set -euo pipefail
cd "$(dirname "$0")"
version=${1:?usage: relock.sh VERSION}
export GOFLAGS=-mod=mod
rm -f go.mod go.sum
go mod init agentos.dev/tests/cluster/kube
go mod edit -go=1.25.0 -require="k8s.io/kubernetes@v$version"
source_dir=$(go mod download -json "k8s.io/kubernetes@v$version" | python3 -c 'import json,sys; print(json.load(sys.stdin)["Dir"])')
for module in $(sed -n 's|^[[:space:]]*\(k8s.io/[a-z-]*\) => ./staging.*|\1|p' "$source_dir/go.mod" | sort -u); do
  go mod edit -replace="$module=$module@v0.${version#*.}"
done
go get github.com/coredns/coredns@v1.12.4
go mod tidy
