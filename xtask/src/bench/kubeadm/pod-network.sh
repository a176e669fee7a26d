# flannel's own CNI plugin is not among the components; bridge takes its place.
until [ -s /run/flannel/subnet.env ]; do sleep 0.2; done
. /run/flannel/subnet.env
mkdir -p /etc/cni/net.d
cat > /etc/cni/net.d/10-flannel.conflist <<END
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "isDefaultGateway": true,
   "hairpinMode": true, "mtu": $FLANNEL_MTU,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$(echo $FLANNEL_SUBNET | sed 's/\.1\//.0\//')"}]]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
END
