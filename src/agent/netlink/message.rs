//! Netlink messages as bytes. Pure: no socket below this line.

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const HEADER_BYTES: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;

const FLAG_REQUEST: u16 = 0x1;
const FLAG_ACKNOWLEDGE: u16 = 0x4;
const FLAG_DUMP: u16 = 0x300;
const FLAG_REPLACE: u16 = 0x100;
const FLAG_CREATE: u16 = 0x400;

const FAMILY_ANY: u8 = 0;
const FAMILY_IPV4: u8 = 2;
const FAMILY_IPV6: u8 = 10;

const LINK_HEADER_BYTES: usize = 16;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_IS_UP: u32 = 1;

const ADDRESS_HEADER_BYTES: usize = 8;
const ADDRESS_PEER: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;

const ROUTE_HEADER_BYTES: usize = 12;
const ROUTE_DESTINATION: u16 = 1;
const ROUTE_LINK: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const ROUTE_SOURCE: u16 = 7;
const ROUTE_MULTIPATH: u16 = 9;
const ROUTE_TABLE: u16 = 15;
const TABLE_MAIN: u32 = 254;
const KIND_UNICAST: u8 = 1;
const SCOPE_LINK: u8 = 253;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mtu: u32,
    pub up: bool,
}

/// An address of an interface, with its prefix length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub link_index: u32,
    pub network: IpNet,
}

/// A unicast route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub destination: IpNet,
    pub gateway: Option<IpAddr>,
    pub link_index: u32,
    /// Preferred source address.
    pub source: Option<IpAddr>,
    pub protocol: u8,
}

/// A request to the kernel.
pub(super) struct Request(Vec<u8>);

impl Request {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn dump_links() -> Self {
        Self::new(GET_LINK, FLAG_DUMP, &[0; LINK_HEADER_BYTES], &[])
    }

    pub(super) fn dump_addresses() -> Self {
        Self::new(GET_ADDRESS, FLAG_DUMP, &[0; ADDRESS_HEADER_BYTES], &[])
    }

    pub(super) fn dump_routes() -> Self {
        Self::new(GET_ROUTE, FLAG_DUMP, &[0; ROUTE_HEADER_BYTES], &[])
    }

    pub(super) fn replace_route(
        destination: IpNet,
        link_index: u32,
        source: IpAddr,
        protocol: u8,
    ) -> Self {
        let mut header = [0; ROUTE_HEADER_BYTES];
        header[0] = family_of(destination.addr());
        header[1] = destination.prefix_len();
        header[4] = TABLE_MAIN as u8;
        header[5] = protocol;
        header[6] = SCOPE_LINK;
        header[7] = KIND_UNICAST;
        let attributes = [
            (ROUTE_DESTINATION, address_bytes(destination.network())),
            (ROUTE_LINK, link_index.to_ne_bytes().to_vec()),
            (ROUTE_SOURCE, address_bytes(source)),
        ];
        let flags = FLAG_CREATE | FLAG_REPLACE | FLAG_ACKNOWLEDGE;
        Self::new(NEW_ROUTE, flags, &header, &attributes)
    }

    pub(super) fn delete_link(link_index: u32) -> Self {
        let mut header = [0; LINK_HEADER_BYTES];
        header[0] = FAMILY_ANY;
        header[4..8].copy_from_slice(&link_index.to_ne_bytes());
        Self::new(DELETE_LINK, FLAG_ACKNOWLEDGE, &header, &[])
    }

    fn new(kind: u16, flags: u16, header: &[u8], attributes: &[(u16, Vec<u8>)]) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes.extend_from_slice(header);
        for (kind, value) in attributes {
            let length = (4 + value.len()) as u16;
            bytes.extend_from_slice(&length.to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let length = bytes.len() as u32;
        bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | FLAG_REQUEST).to_ne_bytes());
        Self(bytes)
    }
}

/// What came back so far.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<Address>,
    pub(super) routes: Vec<Route>,
}

impl Received {
    /// Takes in one datagram; true if it was the last one.
    ///
    /// # Errors
    /// If the kernel reports an error, or the datagram is cut short.
    pub(super) fn add(&mut self, datagram: &[u8]) -> Result<bool> {
        let mut rest = datagram;
        while rest.len() >= HEADER_BYTES {
            let length = u32_at(rest, 0) as usize;
            if length < HEADER_BYTES || length > rest.len() {
                bail!("reading the kernel's answer by netlink: a message is cut short");
            }
            let body = &rest[HEADER_BYTES..length];
            match u16_at(rest, 4) {
                DONE => return Ok(true),
                ERROR => {
                    let code = body.get(..4).map_or(0, |bytes| u32_at(bytes, 0) as i32);
                    if code == 0 {
                        return Ok(true);
                    }
                    return Err(std::io::Error::from_raw_os_error(-code))
                        .context("the kernel refused it");
                }
                NEW_LINK => self.links.extend(parse_link(body)),
                NEW_ADDRESS => self.addresses.extend(parse_address(body)),
                NEW_ROUTE => self.routes.extend(parse_route(body)),
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(false)
    }
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let header = body.get(..LINK_HEADER_BYTES)?;
    let mut link = Link {
        index: u32_at(header, 4),
        name: String::new(),
        mtu: 0,
        up: u32_at(header, 8) & LINK_IS_UP != 0,
    };
    for (kind, value) in attributes(&body[LINK_HEADER_BYTES..]) {
        match kind {
            LINK_NAME => {
                let name = value.split(|byte| *byte == 0).next().unwrap_or_default();
                link.name = String::from_utf8_lossy(name).into_owned();
            }
            LINK_MTU if value.len() >= 4 => link.mtu = u32_at(value, 0),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn parse_address(body: &[u8]) -> Option<Address> {
    let header = body.get(..ADDRESS_HEADER_BYTES)?;
    let mut local = None;
    let mut peer = None;
    for (kind, value) in attributes(&body[ADDRESS_HEADER_BYTES..]) {
        match kind {
            ADDRESS_LOCAL => local = parse_ip(header[0], value),
            ADDRESS_PEER => peer = parse_ip(header[0], value),
            _ => {}
        }
    }
    Some(Address {
        link_index: u32_at(header, 4),
        network: IpNet::new(local.or(peer)?, header[1]).ok()?,
    })
}

fn parse_route(body: &[u8]) -> Option<Route> {
    let header = body.get(..ROUTE_HEADER_BYTES)?;
    let family = header[0];
    let mut table = u32::from(header[4]);
    let mut destination = match family {
        FAMILY_IPV4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        FAMILY_IPV6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut gateway = None;
    let mut link_index = 0;
    let mut source = None;
    for (kind, value) in attributes(&body[ROUTE_HEADER_BYTES..]) {
        match kind {
            ROUTE_DESTINATION => destination = parse_ip(family, value)?,
            ROUTE_GATEWAY => gateway = parse_ip(family, value),
            ROUTE_SOURCE => source = parse_ip(family, value),
            ROUTE_LINK if value.len() >= 4 => link_index = u32_at(value, 0),
            ROUTE_TABLE if value.len() >= 4 => table = u32_at(value, 0),
            // Of several next hops the first one stands for all.
            ROUTE_MULTIPATH if value.len() >= 8 => {
                link_index = u32_at(value, 4);
                let length = usize::from(u16_at(value, 0)).clamp(8, value.len());
                gateway = attributes(&value[8..length])
                    .find(|(kind, _)| *kind == ROUTE_GATEWAY)
                    .and_then(|(_, value)| parse_ip(family, value));
            }
            _ => {}
        }
    }
    (table == TABLE_MAIN && header[7] == KIND_UNICAST && link_index != 0).then_some(())?;
    Some(Route {
        destination: IpNet::new(destination, header[1]).ok()?,
        gateway,
        link_index,
        source,
        protocol: header[5],
    })
}

fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.len() < 4 {
            return None;
        }
        let length = usize::from(u16_at(rest, 0));
        // The two highest bits are flags.
        let kind = u16_at(rest, 2) & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn parse_ip(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        FAMILY_IPV4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        FAMILY_IPV6 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn family_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => FAMILY_IPV4,
        IpAddr::V6(_) => FAMILY_IPV6,
    }
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The caller has made sure that the bytes are there.
fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_ne_bytes(value)
}

/// The caller has made sure that the bytes are there.
fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    let mut value = [0; 2];
    value.copy_from_slice(&bytes[offset..offset + 2]);
    u16::from_ne_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_request_reads_back_as_that_route() {
        let destination = "10.96.0.0/16".parse().unwrap();
        let source = "10.77.1.11".parse().unwrap();
        let request = Request::replace_route(destination, 7, source, 67);
        let mut received = Received::default();
        assert!(!received.add(request.bytes()).unwrap());
        let expected = Route {
            destination,
            gateway: None,
            link_index: 7,
            source: Some(source),
            protocol: 67,
        };
        assert_eq!(received.routes, [expected]);
    }

    #[test]
    fn reads_links_and_the_end_of_a_dump() {
        let mut header = [0; LINK_HEADER_BYTES];
        header[4..8].copy_from_slice(&3_u32.to_ne_bytes());
        header[8..12].copy_from_slice(&LINK_IS_UP.to_ne_bytes());
        let attributes = [
            (LINK_NAME, b"eth0\0".to_vec()),
            (LINK_MTU, 1450_u32.to_ne_bytes().to_vec()),
        ];
        let mut datagram = Request::new(NEW_LINK, 0, &header, &attributes).0;
        datagram.extend(Request::new(DONE, 0, &[0; 4], &[]).0);
        let mut received = Received::default();
        assert!(received.add(&datagram).unwrap());
        let expected = Link {
            index: 3,
            name: "eth0".to_owned(),
            mtu: 1450,
            up: true,
        };
        assert_eq!(received.links, [expected]);
    }

    #[test]
    fn an_error_of_the_kernel_is_told_and_an_acknowledgement_ends() {
        let refusal = (-1_i32).to_ne_bytes();
        let error = Received::default()
            .add(Request::new(ERROR, 0, &refusal, &[]).bytes())
            .unwrap_err();
        assert!(format!("{error:#}").contains("not permitted"), "{error:#}");
        let done = Received::default().add(Request::new(ERROR, 0, &[0; 4], &[]).bytes());
        assert!(done.unwrap());
    }

    #[test]
    fn datagrams_cut_anywhere_never_panic() {
        let destination = "fd00::/48".parse().unwrap();
        let request = Request::replace_route(destination, 7, "fd00::1".parse().unwrap(), 67);
        for length in 0..request.bytes().len() {
            let _ = Received::default().add(&request.bytes()[..length]);
            let _ = parse_route(&request.bytes()[HEADER_BYTES.min(length)..length]);
            let _ = parse_link(&request.bytes()[..length]);
            let _ = parse_address(&request.bytes()[..length]);
        }
    }
}
