"""A virtual machine that runs one command on this machine's own file tree, with a soft-RoCE device and persistent memory.

`kernel` finds the guest's kernel, `initramfs` packs what brings it as far as this machine's file tree, `guest/` is what runs
in the guest, `job` tells it what to run, `pmem` and `link` are its hardware, `machine` boots it and follows it to its end.
`scripts/softroce` is the command line.  Standard library only, so that it runs before anything is installed.
"""
