"""A virtual machine that runs one command on this machine's file tree.

It has a soft-RoCE device and persistent memory.

`kernel` finds the guest's kernel, `initramfs` packs the files that the guest needs to mount this
machine's file tree, `guest/` runs in the guest, `job` contains the command, `pmem` and `link` are
the guest's hardware, and `machine` boots it and waits for its end.  `scripts/softroce` is the
command line.  Only the standard library is used, so that it runs before any package is installed.
"""
