#!/usr/bin/env python3
"""Compile kernels/cuda/*.cu with NVRTC to cubins and PTX: no nvcc, no GPU.

Writes OUT/<source>.<arch>.cubin for the real architectures and
OUT/<source>.<arch>.ptx for the virtual ones, which the driver compiles at load.
An output whose sources, options and compiler are unchanged is kept (the hash
is in OUT/stamp.json). --report prints registers and spills of every kernel.
"""
import argparse
import ctypes
import glob
import hashlib
import json
import os
import re
import sys

ARCHS = ["sm_80", "sm_89", "sm_90", "compute_90", "compute_80"]


def find_nvrtc(root):
    """The newest libnvrtc under an unpacked wheel folder or a CUDA toolkit."""
    patterns = ["nvidia/*/lib/libnvrtc.so.1*", "lib64/libnvrtc.so.1*", "lib/libnvrtc.so.1*", "targets/*/lib/libnvrtc.so.1*"]
    found = [p for pattern in patterns for p in glob.glob(os.path.join(root, pattern)) if ".alt." not in p]
    if not found:
        sys.exit(f"no libnvrtc.so.12 or .13 under {root}")
    return sorted(found)[-1]


class Compiler:
    def __init__(self, path):
        builtins = glob.glob(os.path.join(os.path.dirname(path), "libnvrtc-builtins.so.1*"))
        if builtins:  # NVRTC looks it up by name
            ctypes.CDLL(sorted(builtins)[-1], mode=ctypes.RTLD_GLOBAL)
        self.lib = ctypes.CDLL(path)
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.lib.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{major.value}.{minor.value}"

    def text(self, program, kind):
        size = ctypes.c_size_t()
        getattr(self.lib, f"nvrtcGet{kind}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        if getattr(self.lib, f"nvrtcGet{kind}")(program, buffer):
            sys.exit(f"nvrtc gave no {kind}")
        return buffer.raw

    def compile(self, source, arch, options):
        program = ctypes.c_void_p()
        with open(source, "rb") as f:
            code = f.read()
        self.lib.nvrtcCreateProgram(ctypes.byref(program), code, os.path.basename(source).encode(), 0, None, None)
        args = [f"--gpu-architecture={arch}"] + options
        array = (ctypes.c_char_p * len(args))(*[a.encode() for a in args])
        failed = self.lib.nvrtcCompileProgram(program, len(args), array)
        log = self.text(program, "ProgramLog").rstrip(b"\0").decode()
        if failed:
            sys.exit(f"{source} for {arch}:\n{log}")
        out = self.text(program, "PTX" if arch.startswith("compute") else "CUBIN")
        self.lib.nvrtcDestroyProgram(ctypes.byref(program))
        return (out.rstrip(b"\0") if arch.startswith("compute") else out), log


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", required=True, help="unpacked wheels or a CUDA 12/13 toolkit, with NVRTC")
    parser.add_argument("--source", default="kernels/cuda")
    parser.add_argument("--out", default="kernels/cuda/compiled")
    parser.add_argument("--arch", nargs="*", default=ARCHS)
    parser.add_argument("--only", nargs="*", help="sources to compile, without .cu")
    parser.add_argument("--report", action="store_true")
    a = parser.parse_args()

    compiler = Compiler(find_nvrtc(a.root))
    options = ["--std=c++17", "--device-as-default-execution-space", f"-I{a.source}"] + (["--ptxas-options=-v"] if a.report else [])
    headers = b"".join(open(h, "rb").read() for h in sorted(glob.glob(os.path.join(a.source, "*.cuh"))))
    os.makedirs(a.out, exist_ok=True)
    stamp_path = os.path.join(a.out, "stamp.json")
    stamp = json.load(open(stamp_path)) if os.path.exists(stamp_path) else {}
    for source in sorted(glob.glob(os.path.join(a.source, "*.cu"))):
        name = os.path.basename(source)[:-3]
        if a.only and name not in a.only:
            continue
        for arch in a.arch:
            virtual = arch.startswith("compute")
            path = os.path.join(a.out, f"{name}.{arch}.{'ptx' if virtual else 'cubin'}")
            key = hashlib.sha256(headers + open(source, "rb").read() + "|".join([compiler.version, arch] + options[:2]).encode()).hexdigest()
            if stamp.get(os.path.basename(path)) == key and os.path.exists(path) and not a.report:
                continue
            image, log = compiler.compile(source, arch, options)
            with open(path + ".tmp", "wb") as f:
                f.write(image)
            os.replace(path + ".tmp", path)
            stamp[os.path.basename(path)] = key
            print(f"nvrtc {compiler.version} {os.path.basename(path)} {len(image)} bytes", flush=True)
            if a.report:
                report(log)
    with open(stamp_path + ".tmp", "w") as f:
        json.dump(stamp, f, indent=1, sort_keys=True)
    os.replace(stamp_path + ".tmp", stamp_path)


def report(log):
    for name, body in re.findall(r"Compiling entry function '(\w+)'.*?\n(.*?)(?=ptxas info\s+: Compiling|\Z)", log, re.S):
        registers = re.search(r"Used (\d+) registers", body)
        shared = re.search(r"(\d+) bytes smem", body)
        spills = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", body)
        print(f"  {name:36} {registers.group(1) if registers else '?':>4} registers {shared.group(1) if shared else 0:>6} shared  stack {spills.group(1) if spills else '?'} spill {spills.group(2) if spills else '?'}")


if __name__ == "__main__":
    main()
