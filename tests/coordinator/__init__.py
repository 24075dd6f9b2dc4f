"""One suite for both drivers of a coordinator, against real etcd and ZooKeeper servers."""
