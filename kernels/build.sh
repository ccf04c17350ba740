#!/bin/sh
# Compiles the kernels: kernels/build.sh LIBRARY. CC names the compiler, by default the first of cc, gcc and clang. It may
# compile for another processor (CC=aarch64-linux-gnu-gcc). CFLAGS and LDFLAGS add flags.
set -eu
here=$(dirname "$0")
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT

find_compiler() {
    for compiler in cc gcc clang; do
        if command -v $compiler >/dev/null; then return; fi
    done
    echo "kernels/build.sh: found none of cc, gcc and clang; install one, or name a compiler in CC" >&2
    exit 1
}

compiler=${CC:-}
[ -n "$compiler" ] || find_compiler

compile() { # SOURCE OBJECT FLAG...
    source=$1 object=$2
    shift 2
    $compiler -std=gnu11 -O3 -fopenmp-simd -fno-math-errno -fno-trapping-math -ffinite-math-only -fno-signed-zeros \
        -fno-strict-aliasing -fPIC -fvisibility=hidden -Wall -Wextra "$@" ${CFLAGS:-} \
        -c "$here/$source.c" -o "$objects/$object.o"
}

for source in operators scratch row_operators attention attention_amx matmul matmul_amx matmul_vnni; do
    compile $source $source
done
case $($compiler -dumpmachine) in # not uname: the compiler may target another processor
x86_64*)
    for level in x86-64 x86-64-v3 x86-64-v4; do
        compile vectors $level -march=$level -mprefer-vector-width=512 -DLEVEL=$(echo $level | tr - _)
    done
    compile vectors vnni -march=x86-64-v4 -mavx512vnni -mprefer-vector-width=512 -DLEVEL=x86_64_v4_vnni
    ;;
*) compile vectors generic -DLEVEL=generic ;;
esac
# ONNX Runtime may unload the library with its last session, but operators and domain must stay (nodelete).
$compiler -shared -s -pthread -Wl,--no-undefined,-z,nodelete ${LDFLAGS:-} "$objects"/*.o -o "$1.new" -lm
mv "$1.new" "$1" # atomically: a process may have the old one open
