CHECK_CRC: int
CHECK_LSN: int
CHECK_EPOCH: int

checks: int

def _skip_checks(skipped: int) -> None: ...
