class Baton:
    holder: int
    keeper: int

class Waiter: ...
