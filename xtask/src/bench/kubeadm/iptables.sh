#!/bin/sh
# flanneld gives up without any iptables, even where it makes rules with nft.
[ "$1" = --version ] && echo 'iptables v1.8.0 (nf_tables)' && exit 0
exit 1
