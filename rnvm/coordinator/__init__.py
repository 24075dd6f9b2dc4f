"""The coordinator of a group: one small contract, and its drivers for etcd and ZooKeeper.

contract.py is the contract and its proof; `open_coordinator` of opening.py is the way in.
"""
