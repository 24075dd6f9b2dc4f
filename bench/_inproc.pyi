from bench._driver import Connection

class Table:
    def __len__(self) -> int: ...
    def connect(
        self,
        *,
        window: int = 256,
        takes: int | None = None,
        delay: int = 0,
        stall_at: int = 0,
        stall: int = 0,
        lost_at: int = 0,
    ) -> TableConnection: ...

class TableConnection(Connection): ...
