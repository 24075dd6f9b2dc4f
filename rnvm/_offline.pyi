from rnvm.frontend._structure import Registered
from rnvm.pool._pool import Pool

kinds: dict[int, Registered]

def known(pool: Pool, name: bytes) -> bool: ...
def examine(pool: Pool, name: bytes) -> str | None: ...
