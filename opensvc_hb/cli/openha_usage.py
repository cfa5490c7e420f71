"""The usage texts of OpenHA's commands, of both its layouts. Data only.

The legacy layout's commands are called by their path, those of the later layout through `openha`;
the compatible tree's launchers say by which path they were called.
"""

from __future__ import annotations

import os
from typing import Mapping, Optional

from opensvc_hb.cli.openha_console import CALLED_AS

_SERVICE = """\
Usage: openha service [options]

Options:
 -s                                                   display services states
 -s -c                                                display columned services states
 -i service                                           display service info
 -A service action                                    trigger an action
 -r service                                           remove a service
 -a service script primary secondary check_up_script  add a service

Where:
 service         = name of the service
 action          = start, stop, freeze-stop, freeze-start, unfreeze, force-stop or force-start
 script          = service launcher script fullpath
 primary         = the node considered primary for the service
 secondary       = the node considered secondary for the service
 check_up_script = the pre-start sanity check script fullpath
"""

_SERVICE_LEGACY = """\
Usage: {path} [-s] [-i Service] [-A Service Action] [-r Service] [-a service script primary secondary check_up_script]
Action in start|stop|freeze-stop|freeze-start|unfreeze|force-stop|force-start
  try to change state of service on this node
    start: start service
    stop: stop service...if other nodes are in stopped state, they will try a takeover
                      ...if other nodes are in frozen-stopped state, no takeover occur
    freeze-stop: set service to frozen-stop state(no takeover can occur...)
    freeze-start: not implemented...
    unfreeze: change from [start|stop]-freeze to started|stopped...
    force-start|force-stop: force state change to [start|stop]"""  # noqa: E501  # as OpenHA prints it

_HB = """\
Usage: openha hb [options]

Options:
 -s                                                             show heartbeat status
 -r -n node -t type -i interface -d address -p port             remove heartbeat link
 -a -n node -t type -i interface -d address -p port -T timeout  add heartbeat link

Where: 
 node      = hostname of the host involved
 type      = net, dio (Linux only) or disk
 interface = network device or device fullpath
 address   = multicast address or block offset on device
 port      = udp port or nothing for a device
 timeout   = timeout before declaring the node down
"""  # noqa: W291  # as OpenHA prints it

_HB_LEGACY = """\
Usage: hb [options] [target] ...

Options: -s                                            show heartbeat status
         -r [-n node -t type -i interface -d address -p port]     remove heartbeat link
         -a [-n node -t type -i interface -d address -p port -T timeout]  add heartbeat link
      where: 
            node      = hostname of the host involved
            type      = net, dio (Linux only) or disk
            interface = network device or device fullpath
            address   = multicast address or block offset on device
            port      = udp port or nothing for a device
            timeout   = timeout before declaring the node down"""  # noqa: W291  # as OpenHA prints it


def service_usage(environment: Optional[Mapping[str, str]] = None) -> str:
    """Return the usage of `service`, without its last line end."""
    path = (os.environ if environment is None else environment).get(CALLED_AS)
    return _SERVICE_LEGACY.format(path=path) if path else _SERVICE


def hb_usage(environment: Optional[Mapping[str, str]] = None) -> str:
    """Return the usage of `hb`, without its last line end."""
    return _HB_LEGACY if (os.environ if environment is None else environment).get(CALLED_AS) else _HB
