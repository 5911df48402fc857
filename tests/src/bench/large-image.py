#!/usr/bin/env python3
"""Write an OCI archive of six layers with many small files of this machine: large-image.py FILE NAME --mib N --compression C"""
import argparse
import hashlib
import io
import json
import os
import platform
import subprocess
import tarfile
import tempfile

SOURCES = ["/usr/share", "/usr/lib/python3", "/usr/include", "/usr/lib/gcc", "/usr/lib/x86_64-linux-gnu", "/usr/bin"]
LAYERS = 6


def files(limit):
    """Regular files up to `limit` bytes in all."""
    total = 0
    for source in SOURCES:
        for directory, names, entries in os.walk(source):
            names.sort()
            for entry in sorted(entries):
                path = os.path.join(directory, entry)
                if os.path.islink(path) or not os.path.isfile(path):
                    continue
                size = os.path.getsize(path)
                if size > 8 << 20:
                    continue
                total += size
                if total > limit:
                    return
                yield path


def layer(paths, directory):
    """A tar of `paths`, busybox in front of the first: its file and its digest."""
    path = tempfile.mktemp(dir=directory)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in paths:
            tar.add(name, arcname=name.lstrip("/"), recursive=False)
    return path


def digest_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("name")
    parser.add_argument("--mib", type=int, default=300)
    parser.add_argument("--compression", choices=["gzip", "zstd"], default="gzip")
    arguments = parser.parse_args()
    directory = os.path.dirname(os.path.abspath(arguments.file))
    paths = list(files(arguments.mib << 20))
    share = (len(paths) + LAYERS - 1) // LAYERS
    blobs, diff_ids, layers = [], [], []
    for number in range(LAYERS):
        plain = layer(paths[number * share:(number + 1) * share], directory)
        diff_ids.append("sha256:" + digest_of(plain))
        tool = ["gzip", "-6", "-n", plain] if arguments.compression == "gzip" else ["zstd", "-q", "--rm", plain]
        subprocess.run(tool, check=True)
        packed = plain + (".gz" if arguments.compression == "gzip" else ".zst")
        digest = digest_of(packed)
        blobs.append((digest, packed))
        layers.append({"mediaType": f"application/vnd.oci.image.layer.v1.tar+{arguments.compression}",
                       "digest": f"sha256:{digest}", "size": os.path.getsize(packed)})
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    texts = []

    def text(value, media_type):
        data = json.dumps(value).encode()
        digest = hashlib.sha256(data).hexdigest()
        texts.append((digest, data))
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    config = text({"architecture": architecture, "os": "linux", "config": {},
                   "rootfs": {"type": "layers", "diff_ids": diff_ids}}, "application/vnd.oci.image.config.v1+json")
    manifest = text({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                     "config": config, "layers": layers}, "application/vnd.oci.image.manifest.v1+json")
    manifest["platform"] = {"architecture": architecture, "os": "linux"}
    manifest["annotations"] = {"io.containerd.image.name": arguments.name}
    with tarfile.open(arguments.file, "w") as archive:
        def put(name, data):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            archive.addfile(info, io.BytesIO(data))
        put("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        put("index.json", json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode())
        for digest, data in texts:
            put(f"blobs/sha256/{digest}", data)
        for digest, path in blobs:
            archive.add(path, arcname=f"blobs/sha256/{digest}")
            os.remove(path)


if __name__ == "__main__":
    main()
