"""TLS to a coordination service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rfp.control.credentials import _no_password
from rfp.errors import FabricError
from rnvm.coordinator.address import CoordinatorAddress

if TYPE_CHECKING:
    import ssl


def tls_context(address: CoordinatorAddress) -> ssl.SSLContext:
    """Return the context for the options of an address.

    Raises:
        FabricError: a file cannot be read, or is none of TLS.
    """
    import ssl

    options = address.options
    try:
        context = ssl.create_default_context(cafile=options.ca or None)
        if options.cert:
            context.load_cert_chain(options.cert, options.key, password=_no_password)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in a name, or _no_password
        raise FabricError(
            f"cannot use TLS for {address.hosts}: {error}",
            hint="check ca=, cert= and key= of the address: PEM files, the key without a password",
        ) from error
    return context
