DISTRIBUTIONS: dict[str, int]

class Generator:
    last: int
    def __init__(
        self,
        distribution: str,
        count: int,
        *,
        first: int = 0,
        expected: int = 0,
        seed: int = 1,
        hot_data: float = 0.2,
        hot_share: float = 0.8,
        percentile: float = 95.0,
        fraction: float = 0.8571428571,
    ) -> None: ...
    def next(self, last: int | None = None) -> int: ...
    def sample(self, n: int) -> list[int]: ...
    def rate(self, n: int) -> float: ...

def check_distribution(distribution: str) -> None: ...
def ycsb_hash(number: int) -> int: ...
def key_name(number: int, *, padding: int = 1, hashed: bool = True) -> bytes: ...
