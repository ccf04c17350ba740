#!/bin/sh
# Compiles the kernels: kernels/build.sh LIBRARY. CC names another compiler, and CFLAGS adds to what it is told.
set -eu
here=$(dirname "$0")
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT

compile() { # SOURCE OBJECT FLAG...
    source=$1 object=$2
    shift 2
    ${CC:-cc} -std=gnu11 -O3 -fopenmp-simd -fno-math-errno -fno-trapping-math -ffinite-math-only -fno-signed-zeros \
        -fno-strict-aliasing -fPIC -fvisibility=hidden -Wall -Wextra "$@" ${CFLAGS:-} \
        -c "$here/$source.c" -o "$objects/$object.o"
}

for source in operators scratch rows attention attention_tiles product product_tiles product_vnni; do
    compile $source $source
done
case $(uname -m) in
x86_64)
    for level in x86-64 x86-64-v3 x86-64-v4; do
        compile vectors $level -march=$level -mprefer-vector-width=512 -DLEVEL=$(echo $level | tr - _)
    done
    compile vectors vnni -march=x86-64-v4 -mavx512vnni -mprefer-vector-width=512 -DLEVEL=x86_64_v4_vnni
    ;;
*) compile vectors generic -DLEVEL=generic ;;
esac
${CC:-cc} -shared -s -pthread -Wl,--no-undefined "$objects"/*.o -o "$1.new" -lm
mv "$1.new" "$1" # at once: a process may have the former one open
