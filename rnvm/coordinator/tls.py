"""TLS to a coordination service."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
            context.load_cert_chain(options.cert, options.key)
    except OSError as error:
        raise FabricError(
            f"cannot use TLS for {address.hosts}: {error}",
            hint="check ca=, cert= and key= of the address",
        ) from error
    return context
