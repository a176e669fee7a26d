//! The kernel's links, addresses and routes by rtnetlink, since a host may
//! lack `ip`. Message shapes: `linux/rtnetlink.h`, `linux/if_link.h`.

mod message;

use anyhow::{Context, Result, bail};
pub use message::{Address, Link, Route};
use message::{Received, Request};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink,
};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The kernel answers at once; a limit only guards against a lost answer.
const LIMIT: Duration = Duration::from_secs(5);
/// The kernel packs dumps into pieces of at most 32 KiB.
const PIECE_BYTES: usize = 64 << 10;

/// Lists all network interfaces.
///
/// # Errors
/// If the kernel does not answer.
pub fn links() -> Result<Vec<Link>> {
    let received = exchange(&Request::dump_links()).context("listing network interfaces")?;
    Ok(received.links)
}

/// Lists all addresses of all interfaces.
///
/// # Errors
/// If the kernel does not answer.
pub fn addresses() -> Result<Vec<Address>> {
    let received = exchange(&Request::dump_addresses()).context("listing addresses")?;
    Ok(received.addresses)
}

/// Lists the unicast routes of the main table, IPv4 and IPv6.
///
/// # Errors
/// If the kernel does not answer.
pub fn routes() -> Result<Vec<Route>> {
    let received = exchange(&Request::dump_routes()).context("listing routes")?;
    Ok(received.routes)
}

/// Makes a route of scope link in the main table, or replaces the one with
/// the same destination and metric.
///
/// # Errors
/// If the kernel refuses it.
pub fn replace_route(
    destination: ipnet::IpNet,
    link_index: u32,
    source: IpAddr,
    protocol: u8,
) -> Result<()> {
    exchange(&Request::replace_route(
        destination,
        link_index,
        source,
        protocol,
    ))
    .with_context(|| format!("making the route to {destination}"))?;
    Ok(())
}

/// Deletes an interface.
///
/// # Errors
/// If the kernel refuses it.
pub fn delete_link(link_index: u32) -> Result<()> {
    exchange(&Request::delete_link(link_index)).context("deleting a network interface")?;
    Ok(())
}

/// Messages of changes that may take a route away: of links, IPv4 addresses and
/// IPv4 routes (`RTMGRP_*` of `linux/rtnetlink.h`).
const CHANGE_GROUPS: u32 = 0x1 | 0x10 | 0x40;
/// So many messages are taken for one burst.
const BURST: usize = 4096;

/// Tells when links, addresses or routes change.
#[derive(Debug)]
pub struct Changes(OwnedFd);

impl Changes {
    /// Changes from now on.
    ///
    /// # Errors
    /// If the kernel does not tell them.
    pub fn subscribe() -> Result<Self> {
        let socket = open()?;
        let groups = SocketAddrNetlink::new(0, CHANGE_GROUPS);
        rustix::net::bind(&socket, &groups).context("asking the kernel for changes")?;
        Ok(Self(socket))
    }

    /// Waits for a change, at most for so long.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn wait(&self, limit: Duration) -> Result<()> {
        let timeout = rustix::net::sockopt::Timeout::Recv;
        rustix::net::sockopt::set_socket_timeout(&self.0, timeout, Some(limit))
            .context("limiting the netlink socket's waits")?;
        self.take(RecvFlags::empty())?;
        Ok(())
    }

    /// Forgets changes that have come by now: whoever looks next sees them.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn forget(&self) -> Result<()> {
        for _ in 0..BURST {
            if !self.take(RecvFlags::DONTWAIT)? {
                break;
            }
        }
        Ok(())
    }

    /// Whether there was a message. Lost ones count as one.
    fn take(&self, flags: RecvFlags) -> Result<bool> {
        use rustix::io::Errno;
        // What a message says does not matter, so that it may be cut.
        let mut piece = [0; 16];
        match rustix::net::recv(&self.0, piece.as_mut_slice(), flags) {
            Ok(_) | Err(Errno::NOBUFS) => Ok(true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(error) => Err(error).context("waiting for changes by netlink"),
        }
    }
}

fn exchange(request: &Request) -> Result<Received> {
    let socket = open()?;
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(&socket, request.bytes(), SendFlags::empty(), &kernel)
        .context("asking the kernel by netlink")?;
    let mut received = Received::default();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let (length, _) = rustix::net::recv(&socket, piece.as_mut_slice(), RecvFlags::empty())
            .context("reading the kernel's answer by netlink")?;
        if length == 0 {
            bail!("reading the kernel's answer by netlink: it is empty");
        }
        if received.add(&piece[..length])? {
            return Ok(received);
        }
    }
}

fn open() -> Result<OwnedFd> {
    // Protocol 0 of this family is NETLINK_ROUTE.
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )
    .context("opening a netlink socket")?;
    let timeout = rustix::net::sockopt::Timeout::Recv;
    rustix::net::sockopt::set_socket_timeout(&socket, timeout, Some(LIMIT))
        .context("limiting the netlink socket's waits")?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_lists_the_loopback_interface_with_its_address() {
        let links = links().unwrap();
        let loopback = links.iter().find(|link| link.name == "lo").unwrap();
        // An address is there only where the interface is up.
        if loopback.up {
            let addresses = addresses().unwrap();
            assert!(addresses.iter().any(|address| {
                address.link_index == loopback.index && address.network.addr().is_loopback()
            }));
        }
        routes().unwrap();
    }

    #[test]
    fn a_refusal_of_the_kernel_is_an_error() {
        assert!(delete_link(0x7fff_fff0).is_err());
    }
}
