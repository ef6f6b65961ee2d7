#!/bin/sh
# Makes the stubs of ../../proto (or $PROTO) in gen/, with protoc of the distribution and Go's own plugins.
set -eu
cd "$(dirname "$0")"
proto=${PROTO:-../../proto}
set --
for name in objects dispatch observe cluster; do
    set -- "$@" "--go_opt=M$name.proto=example/gen/$name" "--go-grpc_opt=M$name.proto=example/gen/$name"
done
exec protoc "-I$proto" \
    "--plugin=protoc-gen-go=$(go tool -n protoc-gen-go)" \
    "--plugin=protoc-gen-go-grpc=$(go tool -n protoc-gen-go-grpc)" \
    --go_out=. --go_opt=module=example --go-grpc_out=. --go-grpc_opt=module=example "$@" \
    objects.proto dispatch.proto observe.proto cluster.proto
