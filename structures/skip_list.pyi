from structures.ordered_mapping import OrderedMapping

class SkipList(OrderedMapping):
    KIND: int
