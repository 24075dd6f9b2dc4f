CHECK_CRC: int
CHECK_EPOCH: int
CHECK_ORDER: int
CHECK_HEAD: int
CHECK_DURABLE: int

def _skip_checks(skipped: int) -> None: ...
