#!/bin/sh
# Builds a folder in which PCCL 1.0.0 runs on any Debian or Ubuntu machine (amd64), without root:
#
#     tests/benchmarks/pccl_root.sh ~/.cache/pccl
#     ~/.cache/pccl/python -c 'import pccl'
#     make bench BENCH=allreduce ARGS="--pccl ~/.cache/pccl"
#
# PCCL's wheel needs glibc 2.38 and libcuda.so.1, even for buffers in main memory. So Debian 13's
# Python, numpy and C libraries are unpacked beside each other, the wheel with them (its Python part
# runs on 3.13 as well as on the 3.12 of its name), and a libcuda.so.1 that finds no device.
# Needs: apt-get, dpkg-deb, gcc, nm, pip, unzip. 110 MB, some seconds.
set -eu
test $# = 1 || { echo "usage: $0 FOLDER" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
keyring=${DEBIAN_KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}

apt=$folder/apt usr=$folder/root/usr
rm -rf "$apt" "$folder/root" "$folder/site" "$folder/stub" "$folder/python"
mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$folder/root" "$folder/site" "$folder/stub"
: > "$apt/status"
echo "deb [arch=amd64 signed-by=$keyring] $mirror trixie main" > "$apt/sources.list"
fetch() {
    apt-get -qq -o Dir::State="$apt" -o Dir::State::lists="$apt/lists" \
        -o Dir::State::status="$apt/status" -o Dir::Cache="$apt" \
        -o Dir::Cache::archives="$apt/archives" -o Dir::Etc::sourcelist="$apt/sources.list" \
        -o Dir::Etc::sourceparts=- -o APT::Architecture=amd64 -o APT::Architectures=amd64 \
        -o APT::Install-Recommends=false -o APT::Sandbox::User=root -o Debug::NoLocking=1 "$@"
}
fetch update
fetch --yes --download-only install python3 python3-numpy python3-cffi libgomp1 libstdc++6
for package in "$apt"/archives/*.deb; do dpkg-deb -x "$package" "$folder/root"; done
rm -rf "$apt"

echo "pypccl==1.0.0 --hash=sha256:ca5bb143ef464429ff769886eaa825ba122541bbc2274d89224e1b056e12f327" \
    > "$folder/requirements.txt"
python3 -m pip download --quiet --no-deps --only-binary=:all: --require-hashes \
    --python-version 3.12 --implementation cp --abi cp312 --platform manylinux_2_17_x86_64 \
    --dest "$folder/site" --requirement "$folder/requirements.txt"
unzip -q "$folder"/site/*.whl -d "$folder/site"

nm -D --undefined-only "$folder/site/pccl/libpccl.so" \
    | awk '$2 ~ /^cu[A-Z]/ { print "int " $2 "(void) { return 100; }" }' \
    | gcc -shared -nostdlib -Wl,-soname,libcuda.so.1 -o "$folder/stub/libcuda.so.1" -x c -

libraries=$usr/lib/x86_64-linux-gnu
cat > "$folder/python" <<END
#!/bin/sh
export PYTHONHOME=$usr PYTHONPATH=$folder/site:$usr/lib/python3/dist-packages
exec $usr/lib64/ld-linux-x86-64.so.2 \\
    --library-path $libraries:$libraries/blas:$libraries/lapack:$folder/stub \\
    $usr/bin/python3.13 "\$@"
END
chmod +x "$folder/python"
"$folder/python" -c 'import numpy, pccl; print("pccl is ready:", pccl.__file__)'
