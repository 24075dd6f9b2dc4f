PROMISE_GATE: int
PROMISE_STATE: int
PROMISE_OWN: int
PROMISE_CACHED: int
PROMISE_ORDER: int
PROMISE_SERVES: int

def _skip_steps(skipped: int) -> None: ...
