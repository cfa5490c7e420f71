# OpenHA's environment and shortcuts, answered by opensvc_hb. Use:  . @PREFIX@/env.sh
# Made by: hbmgr compat install. Taken away by: hbmgr compat remove.
: "${EZ:=@PREFIX@}"
EZ_BIN=$EZ/bin
EZ_CONF=$EZ/conf
EZ_NODES=$EZ/conf/nodes
EZ_MONITOR=$EZ/conf/monitor
EZ_SERVICES=$EZ/conf/services
EZ_LOG=$EZ/log
EZ_VAR=$EZ
export EZ EZ_BIN EZ_CONF EZ_NODES EZ_MONITOR EZ_SERVICES EZ_LOG EZ_VAR

# Functions, not aliases: they work in scripts too.
ez_ps() { "$EZ_BIN/openha" ez-ps; }
ez_svc_status() {
    echo "=> Querying OpenHA services status [$EZ_BIN/service -s -c]"
    "$EZ_BIN/service" -s -c
}
ez_hb_status() {
    echo "=> Querying OpenHA heartbeat status [$EZ_BIN/hb -s]"
    "$EZ_BIN/hb" -s
}
