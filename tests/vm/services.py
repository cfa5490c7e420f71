"""The services of the VM tier: their files, and the launcher that leaves evidence."""

from __future__ import annotations

LAUNCHER_PLACE = "/root/launcher"
LAUNCHER = """\
#!/bin/sh
# A daemon of the simplest kind: start, stop, status.
pid=/run/$OPENSVC_SVCNAME.pid
case $1 in
start)
    setsid sleep 1000000 </dev/null >/dev/null 2>&1 &
    echo $! >$pid
    ;;
stop)
    kill $(cat $pid)
    rm -f $pid
    ;;
status)
    [ -e $pid ] && kill -0 $(cat $pid) || exit 1
    ;;
esac 2>/dev/null
"""

APP_ONLY = f"""\
[DEFAULT]
service_type = DEV
nodes = deb1.opensvc.com deb2.opensvc.com

[app#1]
script = {LAUNCHER_PLACE}
start = 10
stop = 10
check = 10

[hb#0]
type = OpenHA
"""

STACK = f"""\
[DEFAULT]
service_type = DEV
nodes = deb1.opensvc.com deb2.opensvc.com

[vg#1]
vgname = vgweb
scsireserv = true

[fs#1]
type = ext4
dev = /dev/mapper/vgweb-data
mnt = /srv/web
mnt_opt = rw

[ip#1]
ipname = web.opensvc.com
ipdev = eth0

[app#1]
script = {LAUNCHER_PLACE}
start = 10
stop = 10
check = 10

[hb#0]
type = OpenHA
"""
"""A service with everything below it: reservation, volume group, file system, address, application."""
STACK_DISK = "/dev/shared-registry"
STACK_RESOURCES = ("vg#1pr", "vg#1", "fs#1", "ip#1", "app#1")

MAKE_STACK_DISK = f"""\
set -e
vgcreate --quiet --yes --setautoactivation n vgweb {STACK_DISK}
lvcreate --quiet --yes --wipesignatures n --name data --size 64M vgweb
mkfs.ext4 -q -E nodiscard /dev/vgweb/data
vgchange --quiet --activate n vgweb
"""
"""As an administrator makes it, once: the volume group is the service's to activate, never the boot's."""

LVM_LOCAL = """\
activation { volume_list = [ "ubda", "@*" ] }
tags { hosttags = 1 }
"""
"""lvmlocal.conf on both nodes: LVM itself activates nothing that does not have this node's tag."""
