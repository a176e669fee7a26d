//! As much of HTTP as pushing to a registry on loopback takes.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Loopback connects at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The registry answers an upload only after it has written and hashed it.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(60);

pub struct Request<'a> {
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    pub content_type: &'a str,
    pub body: &'a [u8],
}

pub struct Response {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// A header's value; names are written in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Asks for a page and returns the status code.
pub fn get(address: SocketAddr, target: &str) -> Result<Response> {
    let request = Request {
        method: "GET",
        target,
        content_type: "text/plain",
        body: &[],
    };
    send(address, &request)
}

/// Sends one request and reads the whole answer. It speaks HTTP/1.0, so that
/// the server neither chunks its answer nor keeps the connection open.
pub fn send(address: SocketAddr, request: &Request<'_>) -> Result<Response> {
    let Request {
        method,
        target,
        content_type,
        body,
    } = request;
    let exchange = || -> Result<Response> {
        let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_read_timeout(Some(TRANSFER_TIMEOUT))?;
        stream.set_write_timeout(Some(TRANSFER_TIMEOUT))?;
        let length = body.len();
        write!(
            stream,
            "{method} {target} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\
             Content-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
        )?;
        stream.write_all(body)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        parse(&answer)
    };
    exchange().with_context(|| format!("{method} http://{address}{target}"))
}

fn parse(answer: &[u8]) -> Result<Response> {
    const END_OF_HEAD: &[u8] = b"\r\n\r\n";
    let end = answer
        .windows(END_OF_HEAD.len())
        .position(|window| window == END_OF_HEAD)
        .context("the answer ends before its headers do")?;
    let head = std::str::from_utf8(&answer[..end])?;
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let Some(status) = status_line
        .strip_prefix("HTTP/")
        .and_then(|rest| rest.split(' ').nth(1)?.parse().ok())
    else {
        bail!("`{status_line}` is no status line");
    };
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok(Response {
        status,
        headers,
        body: answer[end + END_OF_HEAD.len()..].to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart() {
        let response =
            parse(b"HTTP/1.1 202 Accepted\r\nLocation: /v2/a?b=c:d\r\nX: \r\n\r\nbody").unwrap();
        assert_eq!(response.status, 202);
        assert_eq!(response.header("location"), Some("/v2/a?b=c:d"));
        assert_eq!(response.header("content-type"), None);
        assert_eq!(response.body, b"body");
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for answer in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "SSH-2.0-x\r\n\r\n",
            "HTTP/1.1\r\n\r\n",
        ] {
            assert!(parse(answer.as_bytes()).is_err(), "{answer:?}");
        }
    }
}
