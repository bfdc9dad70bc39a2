"""Signatures of saved machines: Ed25519 over the header, which by its digests covers the whole file and its parents.

Keys are files: PEM (as `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` write them), or 32 raw bytes.
"""
from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyvirt.errors import ConfigError, HostError, LoadError
from pyvirt.files.container import ED25519, Reader, Signature

CONTEXT = b"pyvirt saved machine, Ed25519\0"


def _library() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise HostError(2, "signatures need the library cryptography; pip install 'pyvirt[sign]' brings it") from error
    return ed25519


def _key(path: str | os.PathLike[str], *, private: bool) -> Any:
    ed25519 = _library()
    from cryptography.hazmat.primitives import serialization

    kind = ed25519.Ed25519PrivateKey if private else ed25519.Ed25519PublicKey
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise HostError(error.errno, f"key {path}: cannot be read: {error.strerror}") from error
    try:
        if len(data) == 32:
            return kind.from_private_bytes(data) if private else kind.from_public_bytes(data)
        key = serialization.load_pem_private_key(data, None) if private else serialization.load_pem_public_key(data)
    except (ValueError, TypeError) as error:
        what = "private key without a password" if private else "public key"
        raise ConfigError(f"key {path}: is no {what}: expected Ed25519 as PEM, or 32 bytes") from error
    if not isinstance(key, kind):
        raise ConfigError(f"key {path}: is of {type(key).__name__}, expected Ed25519")
    return key


def signer(path: str | os.PathLike[str]) -> Callable[[bytes], Signature]:
    """Return what signs headers with the private key in a file."""
    key = _key(path, private=True)
    return lambda head: Signature(ED25519, key.public_key().public_bytes_raw(), key.sign(CONTEXT + head))


def check_signature(reader: Reader, path: str | os.PathLike[str]) -> None:
    """Raise LoadError unless a file was signed by the holder of the public key in a file."""
    key = _key(path, private=False)
    from cryptography.exceptions import InvalidSignature

    kind, by, value = reader.signature
    if kind != ED25519:
        raise reader.wrong(f"is not signed; expected a signature by the key in {path}")
    if by != key.public_bytes_raw():
        raise reader.wrong(f"is signed by key {by.hex()}, expected {key.public_bytes_raw().hex()} of {path}")
    try:
        key.verify(value, CONTEXT + reader.head)
    except InvalidSignature:
        raise LoadError(f"{reader.path}: its signature by key {by.hex()} is wrong: the file is not what was signed"
                        ) from None
