//! A question to the cluster's DNS, as RFC 1035 has it.

use anyhow::{Context, Result, anyhow, bail};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;

/// CoreDNS answers from memory.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Longest answer by UDP without extensions.
const ANSWER_BYTES: usize = 512;
const QUESTION_IDENTIFIER: u16 = 0xc0ff;
const TYPE_A: u16 = 1;
const CLASS_INTERNET: u16 = 1;

/// Asks for the API's own Service, which every cluster has.
pub(super) async fn answers(address: &str, domain: &str) -> Result<()> {
    let server = parse_server(address)?;
    let name = format!("kubernetes.default.svc.{}", domain.trim_end_matches('.'));
    let local: IpAddr = if server.is_ipv4() {
        IpAddr::from([0; 4])
    } else {
        IpAddr::from([0; 16])
    };
    let socket = UdpSocket::bind((local, 0))
        .await
        .context("opening a socket")?;
    socket
        .connect(server)
        .await
        .with_context(|| format!("reaching {server}"))?;
    socket
        .send(&question(&name)?)
        .await
        .with_context(|| format!("asking {server}"))?;
    let mut answer = [0; ANSWER_BYTES];
    let length = tokio::time::timeout(ANSWER_LIMIT, socket.recv(&mut answer))
        .await
        .map_err(|_| anyhow!("no answer within {} s", ANSWER_LIMIT.as_secs()))?
        .with_context(|| format!("asking {server}"))?;
    judge(&answer[..length], &name)
}

/// An address, with or without a port.
fn parse_server(address: &str) -> Result<SocketAddr> {
    address
        .parse::<SocketAddr>()
        .or_else(|_| {
            let address: IpAddr = address.parse()?;
            Ok(SocketAddr::from((address, crate::ports::numbers::DNS_PORT)))
        })
        .map_err(|_: std::net::AddrParseError| anyhow!("`{address}` is not an address"))
}

/// A query for the address of a name, recursion desired.
fn question(name: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(64);
    bytes.extend(QUESTION_IDENTIFIER.to_be_bytes());
    bytes.extend([0x01, 0x00]);
    for count in [1_u16, 0, 0, 0] {
        bytes.extend(count.to_be_bytes());
    }
    for label in name.split('.') {
        let length = u8::try_from(label.len())
            .ok()
            .filter(|length| (1..=63).contains(length));
        let length = length.ok_or_else(|| anyhow!("`{name}` is not a DNS name"))?;
        bytes.push(length);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(TYPE_A.to_be_bytes());
    bytes.extend(CLASS_INTERNET.to_be_bytes());
    Ok(bytes)
}

fn judge(answer: &[u8], name: &str) -> Result<()> {
    let Some(header) = answer.get(..12) else {
        bail!("the answer is cut short");
    };
    if header[..2] != QUESTION_IDENTIFIER.to_be_bytes() || header[2] & 0x80 == 0 {
        bail!("the answer is to another question");
    }
    match header[3] & 0x0f {
        0 if header[6..8] != [0, 0] => Ok(()),
        0 | 3 => bail!("there is no {name}"),
        2 => bail!("the server failed (SERVFAIL)"),
        5 => bail!("the server refused"),
        code => bail!("the server answered with code {code}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_as_the_standard_has_it() {
        let bytes = question("kubernetes.default.svc.cluster.local").unwrap();
        assert_eq!(bytes[..12], [0xc0, 0xff, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[12..23], b"\x0akubernetes");
        assert_eq!(bytes[bytes.len() - 5..], [0, 0, 1, 0, 1]);
        assert!(question("a..b").is_err());
        assert!(question(&"x".repeat(64)).is_err());
    }

    #[test]
    fn reads_the_answer_s_code() {
        let answer = |flags: u8, code: u8, count: u8| {
            vec![0xc0, 0xff, flags, code, 0, 1, 0, count, 0, 0, 0, 0]
        };
        let cases = [
            (answer(0x85, 0x80, 1), None),
            (answer(0x85, 0x83, 0), Some("there is no x")),
            (answer(0x85, 0x80, 0), Some("there is no x")),
            (answer(0x85, 0x82, 0), Some("SERVFAIL")),
            (answer(0x05, 0x80, 1), Some("another question")),
            (vec![1, 2], Some("cut short")),
        ];
        for (bytes, reason) in cases {
            let result = judge(&bytes, "x").map_err(|error| error.to_string());
            match reason {
                None => assert!(result.is_ok()),
                Some(reason) => assert!(result.unwrap_err().contains(reason)),
            }
        }
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_an_error() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        drop(socket);
        assert!(answers(&address, "cluster.local").await.is_err());
    }
}
