//! Sockets that listen, and whose they are.

use crate::agent::root::Root;
use crate::facts::ListeningSocket;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Tables of sockets, their protocol, and the state in which one of them
/// waits for others: LISTEN for TCP, unconnected for UDP.
const TABLES: [(&str, &str, &str); 4] = [
    ("/proc/self/net/tcp", "tcp", "0A"),
    ("/proc/self/net/tcp6", "tcp", "0A"),
    ("/proc/self/net/udp", "udp", "07"),
    ("/proc/self/net/udp6", "udp", "07"),
];

pub(super) fn observe(root: &Root) -> Vec<ListeningSocket> {
    let mut entries = Vec::new();
    for (path, protocol, state) in TABLES {
        let text = fs_err::read_to_string(root.path(path)).unwrap_or_default();
        entries.extend(parse_table(&text, protocol, state));
    }
    let inodes = entries.iter().map(|entry| entry.inode).collect();
    let owners = find_owners(root, &inodes);
    let mut sockets: Vec<ListeningSocket> = entries
        .into_iter()
        .map(|entry| {
            let owner = owners
                .get(&entry.inode)
                .map(|process| describe(root, *process));
            let (process, unit) = owner.unwrap_or_default();
            ListeningSocket {
                protocol: entry.protocol.to_owned(),
                address: entry.address,
                port: entry.port,
                process,
                unit,
            }
        })
        .collect();
    sockets.sort();
    sockets.dedup();
    sockets
}

#[derive(Debug, PartialEq, Eq)]
struct TableEntry {
    protocol: &'static str,
    address: IpAddr,
    port: u16,
    inode: u64,
}

/// Lines `0: 0100007F:1F90 00000000:0000 0A … <tenth field: inode>`.
fn parse_table(text: &str, protocol: &'static str, state: &str) -> Vec<TableEntry> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if *fields.get(3)? != state {
                return None;
            }
            let (address, port) = fields.get(1)?.split_once(':')?;
            Some(TableEntry {
                protocol,
                address: parse_address(address)?,
                port: u16::from_str_radix(port, 16).ok()?,
                inode: fields.get(9)?.parse().ok()?,
            })
        })
        .collect()
}

/// The kernel prints an address as words of 32 bits in the machine's order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let digits = hex.get(index * 8..index * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

/// The process that holds each socket. systemd holds the sockets that it
/// activates as well as their services: it is named only if nobody else is.
fn find_owners(root: &Root, inodes: &BTreeSet<u64>) -> BTreeMap<u64, u32> {
    let mut owners = BTreeMap::new();
    let Ok(entries) = fs_err::read_dir(root.path("/proc")) else {
        return owners;
    };
    let mut processes: Vec<u32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    processes.sort_unstable_by_key(|process| (*process == 1, *process));
    for process in processes {
        let directory = root.path(format!("/proc/{process}/fd"));
        let Ok(descriptors) = fs_err::read_dir(directory) else {
            continue;
        };
        for descriptor in descriptors.flatten() {
            let Ok(target) = std::fs::read_link(descriptor.path()) else {
                continue;
            };
            if let Some(inode) = target.to_str().and_then(parse_socket_link)
                && inodes.contains(&inode)
            {
                owners.entry(inode).or_insert(process);
            }
        }
    }
    owners
}

/// `socket:[12345]`.
fn parse_socket_link(target: &str) -> Option<u64> {
    target
        .strip_prefix("socket:[")?
        .strip_suffix(']')?
        .parse()
        .ok()
}

/// Command name and systemd unit of a process.
fn describe(root: &Root, process: u32) -> (Option<String>, Option<String>) {
    let read = |file: &str| fs_err::read_to_string(root.path(format!("/proc/{process}/{file}")));
    let command = read("comm").ok().map(|text| text.trim().to_owned());
    let unit = read("cgroup").ok().and_then(|text| parse_unit(&text));
    (command, unit)
}

/// The unit in a process's control group: in systemd's own tree or in that of
/// version 2, the first part of the path that is a service or a scope.
fn parse_unit(cgroup: &str) -> Option<String> {
    let path_in = |tree: &str| {
        cgroup.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            (controllers == tree).then_some(path)
        })
    };
    let unit_in = |path: &str| {
        path.split('/')
            .find(|part| part.ends_with(".service") || part.ends_with(".scope"))
            .map(str::to_owned)
    };
    path_in("name=systemd")
        .and_then(unit_in)
        .or_else(|| path_in("").and_then(unit_in))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:192C 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 0B014D0A:0016 02094D0A:C001 01 00000000:00000000 02:000A0000 00000000     0        0 4712 4 0 20 4 30 10 -1
";
    const TCP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000001000000:192B 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
";

    #[test]
    fn reads_listening_sockets_only() {
        let entry = |address: &str, port, inode| TableEntry {
            protocol: "tcp",
            address: address.parse().unwrap(),
            port,
            inode,
        };
        assert_eq!(
            parse_table(TCP, "tcp", "0A"),
            [entry("127.0.0.1", 6444, 4711)]
        );
        assert_eq!(parse_table(TCP6, "tcp", "0A"), [entry("::1", 6443, 4713)]);
        assert!(parse_table("", "tcp", "0A").is_empty());
        assert!(parse_table("header\ngarbage\n", "tcp", "0A").is_empty());
    }

    #[test]
    fn finds_the_unit_of_a_process() {
        let cases = [
            ("0::/system.slice/sshd.service\n", Some("sshd.service")),
            (
                "4:memory:/x.service\n1:name=systemd:/system.slice/etcd.service\n0::/\n",
                Some("etcd.service"),
            ),
            (
                "0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-abc.scope\n",
                Some("cri-containerd-abc.scope"),
            ),
            ("0::/\n", None),
            ("", None),
        ];
        for (text, unit) in cases {
            assert_eq!(parse_unit(text).as_deref(), unit, "{text}");
        }
        assert_eq!(parse_socket_link("socket:[42]"), Some(42));
        assert_eq!(parse_socket_link("/dev/null"), None);
    }

    #[test]
    fn finds_this_process_by_a_real_socket() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sockets = observe(&Root::host());
        let found = sockets
            .iter()
            .find(|socket| socket.port == port && socket.protocol == "tcp")
            .unwrap();
        assert!(found.process.is_some());
    }
}
