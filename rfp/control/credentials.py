"""Credentials of one side of a network connection: a shared secret, certificates.

They also state the proof that the side requires of its peer.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rfp.errors import InvalidArgument, WrongType

if TYPE_CHECKING:
    import ssl  # imported at run time only where needed: few connections use TLS

LEAST, MOST = 16, 4096  # bytes of a secret: a shorter one could be guessed from a captured proof
SECRET_FILE_VARIABLE = "RFP_SECRET_FILE"  # environment variable, used if no secret is given
SYSTEM = "system"  # as tls_ca: the certificate authorities that this system trusts


@dataclass(frozen=True)
class Credentials:
    """Secret and certificates of one side.

    Attributes:
        secret: the secret that both sides know.
        certificate: PEM file of this side's own certificate.
        key: PEM file of its key.
        authorities: PEM file of the authorities whose certificates this side accepts.  A client
            then uses TLS and verifies the server's certificate; a server requires one of its
            clients.
    """

    secret: bytes | None = field(default=None, repr=False)
    certificate: str | None = None
    key: str | None = None
    authorities: str | None = None

    @classmethod
    def of(
        cls,
        secret: str | bytes | None = None,
        secret_file: str | os.PathLike[str] | None = None,
        tls_cert: str | os.PathLike[str] | None = None,
        tls_key: str | os.PathLike[str] | None = None,
        tls_ca: str | os.PathLike[str] | None = None,
    ) -> Credentials:
        """Return the credentials of a caller's arguments, checked.

        Raises:
            InvalidArgument: the arguments are not valid; the hint is the remedy.
        """
        if secret is not None and secret_file is not None:
            raise InvalidArgument("cannot use both secret and secret_file")
        if secret is None and secret_file is None:
            secret_file = os.environ.get(SECRET_FILE_VARIABLE) or None
        if (tls_cert is None) != (tls_key is None):
            raise InvalidArgument(
                "cannot use tls_cert without tls_key, or the reverse",
                hint="give the certificate and its private key",
            )
        return cls(
            read_secret(secret_file) if secret_file is not None else _checked(secret, "the secret"),
            *(None if path is None else os.fspath(path) for path in (tls_cert, tls_key, tls_ca)),
        )

    def server_context(self) -> ssl.SSLContext | None:
        """Return the TLS context of a server, or None if it has no certificate."""
        if self.certificate is None:
            if self.authorities is not None:
                raise InvalidArgument("a server that requires client certificates "
                                      "needs a certificate itself",
                                      hint="give tls_cert and tls_key too")  # fmt: skip
            return None
        if self.authorities is not None and _public(self.authorities):
            # They sign for any owner, and names in clients' certificates are not checked.
            raise InvalidArgument(
                f"tls_ca={self.authorities!r} at a server would accept "
                "every certificate of a public authority",
                hint=(
                    "give the PEM file of an authority that signs certificates for these clients "
                    "only"
                ),
            )
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load(context)
        if self.authorities is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_context(self) -> ssl.SSLContext | None:
        """Return the TLS context of a client, or None for no TLS.

        It verifies the server's certificate and name.
        """
        if self.authorities is None:
            if self.certificate is not None:
                raise InvalidArgument(
                    "a client with a certificate also needs the server's CA", hint="give tls_ca too"
                )
            return None
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and name
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._load(context)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            if self.authorities == SYSTEM:
                context.load_default_certs()
            elif self.authorities is not None:
                context.load_verify_locations(self.authorities)
        except (OSError, ValueError) as error:
            hint = "give a PEM file of certificates"
            raise InvalidArgument(
                f"cannot use tls_ca={self.authorities!r}: {error}", hint=hint
            ) from None
        try:
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (OSError, ValueError) as error:
            raise InvalidArgument(
                f"cannot use tls_cert={self.certificate!r} with tls_key={self.key!r}: {error}",
                hint="give PEM files of a certificate and of its private key, without a password",
            ) from None

    def binding(self) -> bytes:
        """The SHA-256 of the server's certificate, as clients see it; proofs are bound to it."""
        if self.certificate is None:
            return b""
        import ssl

        with open(self.certificate, encoding="ascii", errors="replace") as file:
            text = file.read()
        begin, end = (
            text.find("-----BEGIN CERTIFICATE-----"),
            text.find("-----END CERTIFICATE-----"),
        )
        return hashlib.sha256(
            ssl.PEM_cert_to_DER_cert(text[begin : end + len("-----END CERTIFICATE-----")])
        ).digest()


def _public(authorities: str) -> bool:
    """Return whether these are the system's trusted authorities, by that name or as their file."""
    import ssl

    known = ssl.get_default_verify_paths()
    bundles = [
        path for path in (known.cafile, known.openssl_cafile) if path and os.path.exists(path)
    ]
    return authorities == SYSTEM or (
        os.path.exists(authorities) and any(os.path.samefile(authorities, each) for each in bundles)
    )


def _no_password() -> str:
    # Without this, the terminal would prompt for the password.
    raise ValueError("the private key is encrypted")


def read_secret(path: str | os.PathLike[str]) -> bytes:
    """Return the secret in a file, without the newline at its end.

    Raises:
        InvalidArgument: other users can read the file, or it contains no secret.
    """
    name = os.fspath(path)
    make = f"create one: (umask 077; head -c 32 /dev/urandom | base64 > {name})"
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidArgument(f"cannot read the secret in {name!r}: {reason}", hint=make) from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidArgument(f"the secret's file {name!r} is not a regular file", hint=make)
        if found.st_uid not in (os.geteuid(), 0):
            raise InvalidArgument(f"the secret's file {name!r} belongs to user "
                                  f"{found.st_uid}, not to user {os.geteuid()}",
                                  hint="use a file of your own")  # fmt: skip
        if found.st_mode & 0o077:
            raise InvalidArgument(f"the secret's file {name!r} has mode "
                                  f"{stat.S_IMODE(found.st_mode):04o}: other users can access it",
                                  hint=f"run `chmod 600 {name}`")  # fmt: skip
        content = os.read(fd, MOST + 3)
    finally:
        os.close(fd)
    return (
        _checked(content.removesuffix(b"\n").removesuffix(b"\r"), f"the secret in {name!r}") or b""
    )


def _checked(secret: str | bytes | None, what: str) -> bytes | None:
    if secret is None:
        return None
    if isinstance(secret, str):
        try:
            secret = secret.encode()
        except UnicodeEncodeError:
            raise InvalidArgument(f"cannot encode {what} as UTF-8", hint="give bytes") from None
    if not isinstance(secret, (bytes, bytearray)):
        raise WrongType(f"{what} must be bytes or str, not {type(secret).__name__}")
    if not LEAST <= len(secret) <= MOST:
        raise InvalidArgument(
            f"the length of {what} must be between {LEAST} and {MOST} bytes, got {len(secret)}",
            hint="create a random one: head -c 32 /dev/urandom | base64",
        )
    return bytes(secret)
