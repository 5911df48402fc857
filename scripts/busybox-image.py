#!/usr/bin/env python3
"""Write an OCI archive with one busybox layer: busybox-image.py FILE.tar NAME [--seed TEXT] [--layers N]

The layer holds /bin/busybox with its applets as links, and just enough of /etc for user look-ups.
--seed adds a file with TEXT, so that two images do not share their layer.
--layers puts N layers on top. Layer I, from 1 on, writes /top anew, adds /layers/I without naming /layers, takes away /layers/I-1 when I is
even, and makes /only a directory of nothing but the file I.
"""
import argparse
import gzip
import hashlib
import io
import json
import platform
import subprocess
import tarfile


def layer(seed):
    out = io.BytesIO()
    tar = tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT)

    def add(name, data=None, kind=tarfile.REGTYPE, mode=0o755, link=""):
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.linkname = kind, mode, link
        info.size = len(data) if data is not None else 0
        tar.addfile(info, io.BytesIO(data) if data is not None else None)

    for name, mode in [("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("proc", 0o555),
                       ("sys", 0o555), ("dev", 0o755), ("usr", 0o755), ("var", 0o755)]:
        add(name, kind=tarfile.DIRTYPE, mode=mode)
    with open("/bin/busybox", "rb") as binary:
        add("bin/busybox", binary.read())
    applets = subprocess.run(["/bin/busybox", "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            add(f"bin/{applet}", kind=tarfile.SYMTYPE, link="busybox")
    add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n", mode=0o644)
    add("etc/group", b"root:x:0:\nnogroup:x:65534:\n", mode=0o644)
    if seed:
        add("etc/seed", seed.encode(), mode=0o644)
    tar.close()
    return out.getvalue()


def upper_layer(number):
    out = io.BytesIO()
    tar = tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT)

    def add(name, data=b"", kind=tarfile.REGTYPE):
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.size = kind, 0o755, len(data)
        tar.addfile(info, io.BytesIO(data))

    add("top", f"{number}\n".encode())
    add(f"layers/{number}")
    if number % 2 == 0:
        add(f"layers/.wh.{number - 1}")
    add("only", kind=tarfile.DIRTYPE)
    add("only/.wh..wh..opq")
    add(f"only/{number}")
    tar.close()
    return out.getvalue()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("name")
    parser.add_argument("--seed", default="")
    parser.add_argument("--layers", type=int, default=0)
    arguments = parser.parse_args()
    layers = [layer(arguments.seed)] + [upper_layer(number) for number in range(1, arguments.layers + 1)]
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    blobs = {}

    def blob(data, media_type):
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    config = blob(json.dumps({
        "architecture": architecture, "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(raw).hexdigest() for raw in layers]},
        "history": [{"created_by": "busybox-image.py"} for _ in layers],
    }).encode(), "application/vnd.oci.image.config.v1+json")
    manifest = blob(json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config,
        "layers": [blob(gzip.compress(raw, compresslevel=6, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
                   for raw in layers],
    }).encode(), "application/vnd.oci.image.manifest.v1+json")
    manifest["platform"] = {"architecture": architecture, "os": "linux"}
    manifest["annotations"] = {"io.containerd.image.name": arguments.name,
                               "org.opencontainers.image.ref.name": arguments.name.rsplit(":", 1)[-1]}
    with tarfile.open(arguments.file, "w") as archive:
        def put(name, data):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
        put("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        put("index.json", json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode())
        for digest, data in blobs.items():
            put(f"blobs/sha256/{digest}", data)


if __name__ == "__main__":
    main()
