PROMISE_GATE: int
PROMISE_STATE: int
PROMISE_OWN: int
PROMISE_CACHED: int
PROMISE_ORDER: int
PROMISE_SERVES: int
PROMISE_STORED: int

def _skip_steps(skipped: int) -> None: ...
def _shift_clock(seconds: float) -> None: ...
