"""The services of the VM tier: their files, their launcher, the disk that one of them stands on."""

from __future__ import annotations

WEB = "web.opensvc.com"
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

_HEAD = """\
[DEFAULT]
service_type = DEV
nodes = deb1.opensvc.com deb2.opensvc.com

"""
_APP = f"""\
[app#1]
script = {LAUNCHER_PLACE}
start = 10
stop = 10
check = 10

[hb#0]
type = OpenHA
"""
APP_ONLY = _HEAD + _APP

IMAGE_PLACE = "/root/web.img"
MOUNT_POINT = "/srv/web"
ON_AN_IMAGE = f"""\
{_HEAD}\
[fs#1]
type = ext4
dev = {IMAGE_PLACE}
mnt = {MOUNT_POINT}
mnt_opt = rw

{_APP}"""
"""With a file system that is each node's own."""

STACK = f"""\
{_HEAD}\
[vg#1]
vgname = vgweb
scsireserv = true

[fs#1]
type = ext4
dev = /dev/mapper/vgweb-data
mnt = {MOUNT_POINT}
mnt_opt = rw

[ip#1]
ipname = {WEB}
ipdev = eth0

{_APP}"""
"""With everything below it: reservation, volume group, file system, address, application."""
STACK_RESOURCES = ("vg#1pr", "vg#1", "fs#1", "ip#1", "app#1")
STACK_DISK = "/dev/shared-registry"
STACK_VOLUME = "/dev/mapper/vgweb-data"

MAKE_STACK_DISK = f"""\
set -e
vgcreate --quiet --yes --setautoactivation n --addtag deb1.opensvc.com vgweb {STACK_DISK}
lvcreate --quiet --yes --wipesignatures n --name data --size 64M vgweb
mkfs.ext4 -q -E nodiscard /dev/vgweb/data
vgchange --quiet --activate n vgweb
vgchange --quiet --deltag deb1.opensvc.com vgweb
"""
"""As an administrator makes it, once: the volume group is the service's to activate, never the boot's."""

LVM_LOCAL = """\
activation { volume_list = [ "@*" ] }
tags { hosttags = 1 }
"""
"""lvmlocal.conf on both nodes: LVM itself activates nothing that does not have this node's tag."""
